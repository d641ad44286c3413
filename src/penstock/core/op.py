"""One piece of work, and the one statement of what must finish before it.

In schedules one letter is law: ``r`` rank, ``p`` ranks, ``m`` micro-batches, ``v`` chunks, ``s`` stage,
``i`` micro-batch.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from penstock.core.words import nearest


class Kind(IntEnum):
    """Kinds of work, with PyTorch's letters (the zero-bubble papers write B and W for ``I`` and ``W``)."""

    F = 0
    """Forward of one stage on one micro-batch."""
    B = 1
    """Full backward: ``I`` and ``W`` in one."""
    I = 2
    """Gradient of the stage's input; keeps what ``W`` needs."""
    W = 3
    """Gradient of the stage's weights."""
    SEND_F = 4
    """Send the stage's output to the rank of the next stage."""
    RECV_F = 5
    """Receive the stage's input from the rank of the stage before."""
    SEND_B = 6
    """Send the gradient of the stage's input to the rank of the stage before."""
    RECV_B = 7
    """Receive the gradient of the stage's output from the rank of the next stage."""
    STEP = 8
    """Optimizer step of one stage: shared weights' gradients summed, clipped by the global norm, applied."""


COMPUTE = (Kind.F, Kind.B, Kind.I, Kind.W)
SENDS = (Kind.SEND_F, Kind.SEND_B)
RECVS = (Kind.RECV_F, Kind.RECV_B)
NO_MICRO = -1
"""The micro-batch of an op that belongs to none (``STEP``)."""


class Op(NamedTuple):
    """One piece of work, printed and read as ``2F0``: stage 2, forward, micro-batch 0.

    Example:
        >>> print(Op(Kind.SEND_F, 3, 1))
        3SEND_F1
        >>> Op.parse("2F0").stage
        2
    """

    kind: Kind
    stage: int
    micro: int = NO_MICRO

    def __str__(self) -> str:
        return f"{self.stage}{self.kind.name}{self.micro if self.micro >= 0 else ''}"

    @classmethod
    def parse(cls, text: str) -> Op:
        """Read ``2F0`` or ``1STEP``.

        Raises:
            ValueError: the text is not an op; the message names it and the nearest kind.
        """
        match = _OP.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an op; write stage, kind, micro-batch, for example 2F0")
        stage, kind, micro = match.groups()
        if kind not in Kind.__members__:
            raise ValueError(f"{text!r}: unknown kind {kind!r}; did you mean {nearest(kind, Kind.__members__)}?")
        if (micro == "") != (kind == "STEP"):
            raise ValueError(f"{text!r}: {kind} {'has no' if micro else 'needs a'} micro-batch number")
        return cls(Kind[kind], int(stage), int(micro) if micro else NO_MICRO)


_OP = re.compile(r"(\d{1,9})([A-Z]+(?:_[A-Z]+)*)(\d{0,9})", re.ASCII)


class Hop(IntEnum):
    """Where a needed value is made, seen from the stage that needs it."""

    SAME = 0
    PREV = 1
    NEXT = 2


class Need(NamedTuple):
    """A value an op cannot start without."""

    made_by: tuple[Kind, ...]
    """Any one of these makes it; a plan holds only one of them per stage and micro-batch."""
    at: Hop
    via: Kind | None = None
    """The receive that brings it where the maker lives on another rank and the plan has sends."""


_OUTPUT = Need((Kind.F,), Hop.SAME)
_INPUT = Need((Kind.F,), Hop.PREV, Kind.RECV_F)
_INPUT_GRAD = Need((Kind.B, Kind.I), Hop.SAME)
_OUTPUT_GRAD = Need((Kind.B, Kind.I), Hop.NEXT, Kind.RECV_B)

NEEDS: dict[Kind, tuple[Need, ...]] = {
    Kind.F: (_INPUT,),
    Kind.B: (_OUTPUT, _OUTPUT_GRAD),
    Kind.I: (_OUTPUT, _OUTPUT_GRAD),
    Kind.W: (Need((Kind.I,), Hop.SAME),),
    Kind.SEND_F: (_OUTPUT,),
    Kind.RECV_F: (Need((Kind.SEND_F,), Hop.PREV),),
    Kind.SEND_B: (_INPUT_GRAD,),
    Kind.RECV_B: (Need((Kind.SEND_B,), Hop.NEXT),),
    Kind.STEP: (),
}
"""What each kind needs: the one dependency rule. The check, the simulator, the lowering of sends and the runtime read
it. ``STEP`` stands apart: it comes last in its lane and begins when every rank has done all its other work, because
the gradient norm is global."""
