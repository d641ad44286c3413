"""Whole runs of a tiny model for the tests: in forked ranks (quick), or under torchrun's agent as users start them."""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ranks import Rank, fork, stacks

from penstock.core.job import RunSpec
from penstock.core.jobfile import make_spec, spec_to_toml
from penstock.core.plan import Plan
from penstock.lower import add_sends, add_step, reduce_gradients, split_vocabulary
from penstock.runtime import worker
from penstock.schedules import build

for each in (
    *("numpy.ma", "pydantic.type_adapter"),
    *("transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama"),
):
    importlib.import_module(each)  # else every forked rank imports it for itself

CONFIG = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}
TINY = {
    "steps": 6,
    "seq_length": 8,
    "batch": 8,
    "micro_batches": 4,
    "warmup_steps": 2,
    "held_out_sequences": 8,
    "checkpoint_every": 2,
    "timeout_s": 30.0,
}


def spec_in(where: Path, config: Mapping[str, Any] | None = None, **flags: Any) -> RunSpec:
    """The spec of a tiny run whose model and text lie in ``where``."""
    model, text = where / "config.json", where / "text.txt"
    if not text.exists():
        model.write_text(json.dumps({**CONFIG, **(config or {})}))
        dice = random.Random(5)
        text.write_text(" ".join(dice.choice(["pipe", "line", "bubble", "stage", "rank"]) for _ in range(2000)))
    return make_spec(None, {**TINY, "model": str(model), "data": str(text), **flags})


def plan_for(spec: RunSpec) -> Plan:
    strategy = spec.strategy
    options: dict[str, Any] = {"slices": strategy.slices} if strategy.slices else {}
    bare = build(strategy.schedule, strategy.ranks, strategy.micro_batches, strategy.chunks, **options)
    if strategy.vocabulary:
        bare = split_vocabulary(bare, strategy.vocabulary)  # type: ignore[arg-type]
    lowered = add_sends(reduce_gradients(bare), strategy.sends) if strategy.ranks > 1 else bare
    if bare.weights != "synced":
        return lowered
    return add_step(lowered, "before" if strategy.optimizer_step == "barrier" else "after")


def prepared(where: Path, config: Mapping[str, Any] | None = None, **flags: Any) -> tuple[Path, RunSpec]:
    """A results folder with job and plan, made or made anew for a resume."""
    folder = where / "run"
    spec = spec_in(where, config, out=str(folder), **flags)
    folder.mkdir(exist_ok=True)
    (folder / "job.toml").write_text(spec_to_toml(spec))
    (folder / "plan.json").write_text(plan_for(spec).to_json())
    return folder, spec


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    """Loss by step; each step stands once and in order."""
    found = rows(folder)
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return {row["step"]: row["loss"] for row in found}


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*") if p.name[5:].isdecimal())


# -- forked --------------------------------------------------------------------------------------------------------


@dataclass
class Ended:
    """How a run ended: exit code of each rank, lines on stderr (all ranks together), seconds it took."""

    codes: list[int | None]
    lines: list[str]
    seconds: float

    @property
    def text(self) -> str:
        """All lines, for people."""
        return "\n".join(self.lines)

    @property
    def said(self) -> list[str]:
        """The program's own lines."""
        return [line for line in self.lines if line.startswith("penstock:")]


@dataclass
class Forked:
    """A run in forked ranks; the test process holds the store, as torchrun's agent does."""

    folder: Path
    ranks: list[Rank]
    store: dist.TCPStore
    begun: float = field(default_factory=time.monotonic)

    def wait(self, timeout_s: float = 30.0, need: Sequence[int] | None = None) -> Ended:
        """Wait for all ranks (or those in need); others, and all when the time is up, are killed and have no code. When
        the time is up, the lines end with the stacks of those that were needed."""
        codes: list[int | None] = [None] * len(self.ranks)
        needed = range(len(codes)) if need is None else need
        while any(codes[n] is None for n in needed) and time.monotonic() - self.begun < timeout_s:
            for n, rank in enumerate(self.ranks):
                if codes[n] is None:
                    pid, status = os.waitpid(rank.pid, os.WNOHANG)
                    if pid:
                        codes[n] = rank.status = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        hung = stacks([self.ranks[n] for n in needed if codes[n] is None])
        self.kill()
        lines = [line for n in range(len(codes)) for line in (self.folder / f"stderr{n}").read_text().splitlines()]
        lines += hung.splitlines()
        return Ended(codes, lines, time.monotonic() - self.begun)

    def kill(self) -> None:
        """SIGKILL to all that are still there, all at once."""
        for rank in self.ranks:
            if rank.status is None:
                with suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGKILL)
        for rank in self.ranks:
            rank.reap()
            with suppress(OSError):
                os.close(rank.pipe)


def forked(folder: Path, spec: RunSpec, before: Callable[[int], None] | None = None) -> Forked:
    """Start ``worker.main`` in forked ranks; ``before(rank)`` may break something first."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    count = spec.strategy.ranks

    def work(rank: int) -> None:
        stderr = os.open(folder / f"stderr{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stderr, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (pytest has replaced the old one)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCH_CPP_LOG_LEVEL": "FATAL"}
        if before is not None:
            before(rank)
        worker.end(worker.launched(folder))

    return Forked(folder, [fork(n, folder, lambda n=n: work(n)) for n in range(count)], store)


def run_forked(
    folder: Path, spec: RunSpec, before: Callable[[int], None] | None = None, timeout_s: float = 60.0
) -> Ended:
    return forked(folder, spec, before).wait(timeout_s)


# -- launched ------------------------------------------------------------------------------------------------------

MARK = "PENSTOCK_TEST_RUN"


@dataclass
class Launched:
    """A run as users start it: a launcher process, and ranks under torchrun's agent."""

    process: subprocess.Popen[str]
    mark: str
    begun: float = field(default_factory=time.monotonic)

    def wait(self, timeout_s: float = 60.0) -> Ended:
        try:
            _, stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            stderr = ""
        finally:
            left = self.alive()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        assert not left, f"processes {left} outlived the launcher"
        return Ended([self.process.returncode], stderr.splitlines(), time.monotonic() - self.begun)

    def until(self, happened: Callable[[], object]) -> None:
        """Wait until something is so; if the run ends before, fail with what it said."""
        while not happened():
            if self.process.poll() is not None:
                ended = self.wait()
                raise AssertionError(f"it ended early with {ended.codes}:\n" + "\n".join(ended.lines))
            assert time.monotonic() - self.begun < 60
            time.sleep(0.01)

    def alive(self) -> list[int]:
        """Processes of this run, zombies left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    marked = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
                    if marked and " Z " not in (entry / "stat").read_text().rpartition(")")[2][:4]:
                        found.append(int(entry.name))
        return found


_LAUNCH = """
import sys
from pathlib import Path
from penstock.runtime.launch import launch
from penstock.core.jobfile import make_spec
folder, worker = Path(sys.argv[1]), sys.argv[2]
spec = make_spec(folder / "job.toml", {})
try:
    sys.exit(launch(folder, spec.strategy.ranks, spec.run.threads, spec.run.port, worker))
except ValueError as error:
    print(f"penstock: {error}", file=sys.stderr)
    sys.exit(2)
"""


def launched(folder: Path, fault: Sequence[object] = ()) -> Launched:
    """Start a run under torchrun's agent; ``fault`` is for ``faulty_worker``."""
    mark = uuid.uuid4().hex
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {MARK: mark, "FAULT": " ".join(map(str, fault)), "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(folder), "faulty_worker" if fault else "penstock.runtime.worker"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Launched(process, mark)
