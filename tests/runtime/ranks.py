"""Ranks forked from the warm test process: real processes and real gloo at a fraction of a second a test.

``on_ranks(2, work)`` runs ``work(rank)`` on two ranks and returns what each returned. A rank that raises fails the
test with its traceback at once, one that hangs with the stack of all its threads when the time is up; none outlives
the test.
"""

import faulthandler
import os
import pickle
import selectors
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers and dispatch modes import it, at a second in every forked rank
import torch.distributed as dist

STACK_S = 1.0
"""How long hung ranks get to write down where they are."""
LAST_WORDS_S = 0.5
"""How long the others get to fail too once one has."""


class RankFailed(AssertionError):  # noqa: N818 (it is the test that is in error)
    """A rank raised, died or hung."""


@dataclass
class Rank:
    """A forked process, and what it has sent so far."""

    number: int
    pid: int
    pipe: int
    stacks: Path
    got: bytearray = field(default_factory=bytearray)
    status: int | None = None

    def kill(self) -> None:
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.reap()

    def reap(self) -> None:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def on_ranks(count: int, work: Callable[[int], Any], timeout_s: float = 30.0) -> list[Any]:
    """Run ``work(rank)`` on forked ranks with gloo up; the list of what they returned."""
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        store = Path(folder) / "store"
        ranks = [fork(n, Path(folder), lambda n=n: _joined(n, count, store, work)) for n in range(count)]
        try:
            return _answers(ranks, timeout_s)
        finally:
            for rank in ranks:
                rank.kill()
                os.close(rank.pipe)


def fork(number: int, folder: Path, work: Callable[[], Any]) -> Rank:
    """A child that does ``work`` and sends back what it returns, or its traceback."""
    out, into = os.pipe()
    stacks = folder / f"stacks{number}"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(into)
        return Rank(number, pid, out, stacks)
    code = 1
    try:
        os.close(out)
        faulthandler.register(signal.SIGUSR1, file=stacks.open("w"), all_threads=True)
        torch.set_num_threads(1)
        answer = pickle.dumps((True, work()))
        code = 0
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    with suppress(OSError), os.fdopen(into, "wb") as pipe:
        pipe.write(answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _joined(number: int, count: int, store: Path, work: Callable[[int], Any]) -> Any:
    file_store = dist.FileStore(str(store), count)
    dist.init_process_group("gloo", store=file_store, rank=number, world_size=count, timeout=timedelta(seconds=60))
    answer = work(number)
    dist.barrier()
    dist.destroy_process_group()
    return answer


def _answers(ranks: list[Rank], timeout_s: float) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    waiting = selectors.DefaultSelector()
    for rank in ranks:
        waiting.register(rank.pipe, selectors.EVENT_READ, rank)
    answers, failures = {}, []
    while len(answers) + len(failures) < len(ranks):
        ready = waiting.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for key, _ in ready:
            rank = key.data
            piece = os.read(rank.pipe, 1 << 16)
            rank.got += piece
            if piece:
                continue
            waiting.unregister(rank.pipe)
            fine, answers[rank.number] = _answer(rank)
            if not fine:
                failures.append(answers.pop(rank.number))
                deadline = min(deadline, time.monotonic() + LAST_WORDS_S)
    if failures:
        raise RankFailed("\n".join(failures))
    if len(answers) < len(ranks):
        raise RankFailed(f"no end after {timeout_s:g} s\n{stacks([r for r in ranks if r.number not in answers])}")
    return [answers[rank.number] for rank in ranks]


def _answer(rank: Rank) -> tuple[bool, Any]:
    rank.reap()
    if not rank.got:
        return False, f"rank {rank.number} died without a word, exit code {rank.status}"
    fine, answer = pickle.loads(bytes(rank.got))
    return fine, answer if fine else f"rank {rank.number} raised\n{answer}"


def stacks(ranks: list[Rank]) -> str:
    """Where ranks that do not end are, all threads; empty if there are none."""
    if not ranks:
        return ""
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.kill(rank.pid, signal.SIGUSR1)
    time.sleep(STACK_S)
    return "\n".join(f"rank {r.number} is at\n{r.stacks.read_text() if r.stacks.exists() else '?'}" for r in ranks)
