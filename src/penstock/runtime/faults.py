"""What a rank says when something goes wrong, and how the others hear of it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from penstock.core.needs import partners
from penstock.core.op import AMONG_RANKS, COLLECTIVES, RECVS
from penstock.core.plan import Plan

if TYPE_CHECKING:  # what only starts ranks, or says that it cannot, needs no torch
    from torch.distributed.distributed_c10d import Store

POLL_S = 0.25
USER_ERROR = 2
"""Exit code for what the user can mend."""
GRACE_S = 3.0
"""How long a rank that lost a peer waits for the peer's own account, and a rank told to stop has to do so by itself."""

_PR_SET_PDEATHSIG = 1

LOST = ("Connection closed by peer", "Connection reset", "Broken pipe", "Socket", "NCCL", "Timed out", "timed out")


FOR_NORM = -2
"""Stands for the id of a message where a rank waits for the norm of the last step (post-validation)."""


def whereabouts(plan: Plan, rank: int, position: int, waiting: int) -> str:
    """Where a rank is in its lane, for people.

    Args:
        position: place in the lane of the op at work; -1 between steps.
        waiting: id of the message or collective it waits for, ``FOR_NORM``, or -1 if nothing.
    """
    if position < 0:
        return "is between steps"
    op = plan.lanes[rank][position]
    if waiting == FOR_NORM:
        return f"waits after {op} (stage {op.stage}) for the norm of the last step's gradients"
    if waiting < 0:
        return f"is at {op} (stage {op.stage})"
    message = plan.op(waiting)
    if message.kind in COLLECTIVES:
        others = "ranks" if message.kind in AMONG_RANKS else "replicas"
        return f"waits at {op} (stage {op.stage}) for {message} of all {others}"
    side = "from" if message.kind in RECVS else "to"
    peer = plan.rank_of_op[partners(plan)[waiting]]
    return f"waits at {op} (stage {op.stage}) for {message} {side} rank {peer}"


class OpError(RuntimeError):
    """An op failed: which rank and op, and why."""

    def __init__(self, rank: int, where: str, cause: Exception) -> None:
        at = where.removeprefix("is ") if where.startswith("is ") else f"while it {where}"
        super().__init__(f"rank {rank} failed {at}: {type(cause).__name__}: {cause}")
        self.rank, self.where, self.cause = rank, where, cause


def lost_peer(error: Exception) -> bool:
    """Whether it failed because another rank went away."""
    return any(word in str(error) for word in LOST)


class Watch:
    """A thread per rank that passes on failures and notices hangs.

    The first rank that fails tells all others through the store, and alone speaks. A rank whose op does not change for
    ``timeout_s`` has every rank say what it waits for, and ends the run.

    Args:
        store: a connection of its own (blocking calls on a shared one would hold up the rank).
        rank, ranks: this one, and how many.
        timeout_s: how long one op may take.
        spot: what changes as long as the rank makes progress; None while it does no lane.
        where: what the rank does now, for people.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: int,
        timeout_s: float,
        spot: Callable[[], object],
        where: Callable[[], str],
    ) -> None:
        self._store, self._rank, self._ranks, self._timeout_s = store, rank, ranks, timeout_s
        self._spot, self._where, self._failing = spot, where, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="penstock-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def report(self, message: str, patience_s: float = 0.0) -> bool:
        """Tell all ranks why this one fails; true if no other spoke before, so that this one should print it."""
        self._failing, deadline = True, time.monotonic() + patience_s
        try:
            while time.monotonic() < deadline and not self._store.check(["failure"]):
                time.sleep(POLL_S / 5)
            mine = f"{self._rank}: {message}"
            return self._store.compare_set("failure", "", mine).decode() == mine
        except (RuntimeError, ConnectionError):
            return True

    def _loop(self) -> None:
        last, since, told = None, time.monotonic(), False
        while not self._stop.wait(POLL_S):
            try:
                if self._store.check(["failure"]):
                    self._leave()
                    return
                if not told and self._store.check(["hang"]):
                    told = True
                    self._store.set(f"where/{self._rank}", self._where())
            except (RuntimeError, ConnectionError):
                self._leave()
                return
            spot, now = self._spot(), time.monotonic()
            if spot != last or spot is None or self._failing:
                last, since = spot, now
            elif now - since > self._timeout_s and not told:
                self._hang()
                return

    def _hang(self) -> None:
        """Collect what every rank waits for, say it once, and end the run."""
        self._store.set("hang", str(self._rank))
        self._store.set(f"where/{self._rank}", self._where())
        lines = []
        for rank in range(self._ranks):
            try:
                self._store.wait([f"where/{rank}"], timedelta(seconds=GRACE_S))
                lines.append(f"rank {rank} {self._store.get(f'where/{rank}').decode()}")
            except RuntimeError:
                lines.append(f"rank {rank} does not answer")
        message = f"no progress for {self._timeout_s:g} s: " + "; ".join(lines)
        if self.report(message):
            say(message)
        time.sleep(2 * POLL_S)
        _exit_now()

    def _leave(self) -> None:
        """Give the rank a moment to end by itself (gloo's waits break when a peer goes), then end it."""
        if not self._stop.wait(GRACE_S + 1.0):
            _exit_now()


def die_with_parent() -> None:
    """End this process when the launcher ends, however it ends (Linux only).

    Ranks have process groups of their own: a kill of the launcher's group would leave them at work in a folder that
    the next run resumes from.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def say(message: str) -> None:
    """One line to the user."""
    print(f"penstock: {message}", file=sys.stderr, flush=True)


def _exit_now() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
