"""Starts the ranks of a run on this machine with torchrun's own agent."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.runtime.faults import USER_ERROR, say

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def launch(folder: Path, ranks: int, threads: int, port: int, worker: str = "penstock.runtime.worker") -> int:
    """Run a module on every rank and wait.

    Args:
        folder: results folder with ``job.toml`` and ``plan.json``.
        ranks: processes to start.
        threads: compute threads of each.
        port: where ranks meet; 0 for any free one.
        worker: the module, which gets the folder as its argument.

    Returns:
        Exit code: 0, 2 if the user can mend it, else 1 (130 after an interrupt).

    Raises:
        ValueError: the port is in use.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_port(port)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TORCH_CPP_LOG_LEVEL": "FATAL"}
    logging.disable(logging.ERROR)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"penstock-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint=f"localhost:{port}",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", worker, str(folder))
    except ChildFailedError as failed:
        return _explain(failed)
    except (SignalException, KeyboardInterrupt):
        say("interrupted; go on with --resume")
        return 128 + signal.SIGINT
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _explain(failed: ChildFailedError) -> int:
    codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
    if USER_ERROR in codes.values():
        return USER_ERROR
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    for rank, number in sorted(killed.items()):
        say(f"rank {rank} was killed by {signal.Signals(number).name}; go on with --resume")
    return 1


def check_port(port: int) -> None:
    """Raise ``ValueError`` if the port is in use; 0 means any free one."""
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a run that has just ended does not hold its port
        try:
            probe.bind(("localhost", port))
        except OSError as error:
            raise ValueError(f"port={port}: {error.strerror}; give another --port, or 0 for any free one") from None
