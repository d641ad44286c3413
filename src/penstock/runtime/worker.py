"""One rank of a run: ``python -m penstock.runtime.worker FOLDER`` under torchrun."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

if __name__ == "__main__":  # an interrupt ends a rank at once, while it loads too; the launcher says so
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from penstock.core.job import RunSpec
from penstock.core.jobfile import make_spec
from penstock.core.plan import Plan
from penstock.runtime.faults import GRACE_S, POLL_S, USER_ERROR, OpError, Watch, die_with_parent, lost_peer, say
from penstock.runtime.metrics import MetricsFile
from penstock.runtime.progress import Progress
from penstock.runtime.results import collect
from penstock.runtime.train import Trainer
from penstock.runtime.transport import backend


def main(folder: Path) -> int:
    """Train; the exit code of the rank."""
    spec = make_spec(folder / "job.toml", {})
    plan = Plan.from_json((folder / "plan.json").read_text())
    torch.set_num_threads(spec.run.threads)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if ranks != plan.placement.ranks:
        raise ValueError(f"the plan has {plan.placement.ranks} ranks, but {ranks} processes run; start as many")
    store = connect("main")
    device = _device(rank)
    limit = timedelta(seconds=10 * spec.run.timeout_s + 60)
    dist.init_process_group(backend(device), store=store, rank=rank, world_size=ranks, timeout=limit)
    trainer: list[Trainer] = []
    watch = Watch(
        connect("watch"),
        rank,
        ranks,
        spec.run.timeout_s,
        lambda: trainer[0].spot() if trainer else None,
        lambda: trainer[0].where() if trainer else "is starting",
    )
    try:
        trainer.append(Trainer(spec, plan, rank, folder, device))
        _run(trainer[0], spec, plan, rank, folder)
    except Exception as error:
        return _failed(error, watch, rank, folder)
    dist.barrier()
    watch.close()
    return 0


def _run(trainer: Trainer, spec: RunSpec, plan: Plan, rank: int, folder: Path) -> None:
    done = trainer.resume() if spec.run.resume else 0
    if trainer.unsplit:
        names = ", ".join(trainer.unsplit)
        say(f"rank {rank}: these weights get their gradient with I, their modules cannot be split: {names}")
    metrics = MetricsFile(folder / "metrics.jsonl", after=done) if rank == 0 else None
    progress = Progress(spec.job.steps, shown=rank == 0)
    try:
        trained = trainer.train(metrics, progress)
    finally:
        progress.close()
        if metrics is not None:
            metrics.close()
    if trained.wall_s:
        collect(trainer.plan, spec, trained, folder, rank, trainer.device)


def _failed(error: Exception, watch: Watch, rank: int, folder: Path) -> int:
    """Say why, once over all ranks, and keep the traceback in a file."""
    log = folder / f"rank{rank}.log"
    user_error = isinstance(error, ValueError) or (isinstance(error, OSError) and error.filename is not None)
    with suppress(OSError):  # the disk may be full
        log.write_text("".join(traceback.format_exception(error)))
    message = _one_line(error, rank)
    if not user_error:
        message += f" (traceback in {log})"
    if watch.report(message, GRACE_S if lost_peer(error) else 0.0):
        say(message)
    else:
        time.sleep(POLL_S)  # the launcher stops all when the first ends; let the one that speaks finish
    return USER_ERROR if user_error else 1


def _one_line(error: Exception, rank: int) -> str:
    if isinstance(error, OpError) and lost_peer(error):
        message = f"rank {rank} {error.where}; another rank went away without a word"
    elif isinstance(error, OpError | ValueError):
        message = str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    else:
        message = f"rank {rank}: {type(error).__name__}: {error}"
    return message.partition("\n")[0]


def connect(name: str) -> Store:
    """A connection to the launcher's store; each attempt of an elastic restart sees keys of its own."""
    _serve()
    store = _tcp_store(leads=False)
    return PrefixStore(f"penstock/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}", store)


@cache
def _serve() -> Store | None:
    """The store itself, where no launcher keeps one (Slurm's ``srun`` without torchrun)."""
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return None if agent or os.environ["RANK"] != "0" else _tcp_store(leads=True)


def _tcp_store(leads: bool) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=leads, wait_for_workers=False)  # type: ignore[attr-defined]


def _device(rank: int) -> torch.device:
    """This rank's GPU; the CPU where the machine has fewer GPUs than ranks (NCCL wants one each)."""
    gpus, local_ranks = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus < local_ranks:
        if gpus and rank == 0:
            say(f"{local_ranks} ranks but {gpus} GPUs on this machine; training on the CPU")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def end(code: int) -> None:
    """Leave at once: after collectives a normal interpreter exit can abort."""
    if dist.is_initialized() and code == 0:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launched(folder: Path) -> int:
    """As ``main``, for a process of its own; says what goes wrong before the ranks have met."""
    die_with_parent()
    try:
        return main(folder)
    except ValueError as problem:
        if os.environ.get("RANK", "0") == "0":  # all ranks read the same files
            say(str(problem))
        return USER_ERROR
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    end(launched(Path(sys.argv[1])))
