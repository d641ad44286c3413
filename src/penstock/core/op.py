"""One piece of work, and the one statement of what must finish before it.

In schedules one letter is law: ``r`` rank, ``p`` ranks, ``m`` micro-batches, ``v`` chunks, ``s`` stage,
``i`` micro-batch.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Literal, NamedTuple

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
    R = 9
    """Recompute: the forward once more from what ``F`` kept, just before the backward needs its activations."""
    OFFLOAD = 10
    """Copy kept activations to host memory, over the host link."""
    FETCH = 11
    """Copy them back."""
    UNSHARD = 12
    """Gather the stage's weights from the replicas among which they are sharded."""
    RESHARD = 13
    """Let the gathered weights go."""
    REDUCE_GRAD = 14
    """Sum the stage's gradients over its replicas (and scatter them where weights are sharded)."""
    BCAST_H = 15
    """Output of the last stage to every rank, each of which holds a part of the vocabulary."""
    S = 16
    """Vocabulary pass: the logits of this rank's part of the vocabulary and their softmax statistics."""
    REDUCE_S = 17
    """Sum the statistics (and, in algorithm 2, the gradients of the head's input) over the ranks."""
    T = 18
    """Vocabulary pass: the gradients of the head's part (in algorithm 2 of its weights alone)."""
    REDUCE_T = 19
    """Sum the gradients of the head's input over the ranks (algorithm 1)."""
    IF = 20
    """Forward of this rank's part of the input embedding."""
    REDUCE_E = 21
    """Sum the parts of the input embedding to the first stage."""
    BCAST_E = 22
    """Gradient of the input embedding to every rank."""
    IB = 23
    """Backward of this rank's part of the input embedding."""
    UPDATE = 24
    """Apply the stage's gradients since its last ``UPDATE`` at once, for this stage alone; its micro-batch is the last
    of them."""


COMPUTE = (Kind.F, Kind.B, Kind.I, Kind.W)
"""The passes that every stage runs on every micro-batch."""
SENDS = (Kind.SEND_F, Kind.SEND_B)
RECVS = (Kind.RECV_F, Kind.RECV_B)
MESSAGES = (*SENDS, *RECVS)
HOST = (Kind.OFFLOAD, Kind.FETCH)
"""Copies over the host link, one direction each."""
VOCABULARY = (Kind.S, Kind.T, Kind.IF, Kind.IB)
"""Passes over a rank's part of the vocabulary. Their stage is the first that lives on the rank (Yeung et al. 2024,
arXiv:2411.05288)."""
AMONG_RANKS = (Kind.BCAST_H, Kind.REDUCE_S, Kind.REDUCE_T, Kind.REDUCE_E, Kind.BCAST_E)
"""Collectives of all ranks of the pipeline, for one micro-batch; every rank has its own op, with its first stage."""
COLLECTIVES = (Kind.UNSHARD, Kind.REDUCE_GRAD, *AMONG_RANKS)
WORK = (*COMPUTE, Kind.R, *VOCABULARY)
"""What keeps a rank's compute busy."""
POSTED = (*MESSAGES, *HOST, *COLLECTIVES)
"""What a rank only starts, to go on at once: it runs on a link and ends later. (Sends and receives may hold the rank:
``Plan.sends``.)"""
OF_STAGE = (Kind.STEP, Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD)
"""Kinds that belong to no micro-batch."""
Sends = Literal["overlapped", "blocking", "batched"]
"""Overlapped messages pass while their ranks compute. Blocking ones hold both ranks until the message has passed;
batched ones too, but those that stand next to each other in a lane are posted together and pass as one."""
Weights = Literal["synced", "stashed", "double", "predicted"]
"""Which weights forwards run with. ``synced``: those after the last step, which all ranks take together. The others are
of plans that hold ``UPDATE`` and never flush; a backward runs with the weights of its forward. ``stashed``: the
stage's newest (PipeDream); ``double``: those before its newest group's update, on all stages alike (PipeDream-2BW);
``predicted``: where the stage's newest will have gone by the time the gradient is applied, if they go on as before."""
NO_MICRO = -1
"""The micro-batch of an op that belongs to none (``OF_STAGE``)."""


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
        if (micro == "") != (Kind[kind] in OF_STAGE):
            raise ValueError(f"{text!r}: {kind} {'has no' if micro else 'needs a'} micro-batch number")
        return cls(Kind[kind], int(stage), int(micro) if micro else NO_MICRO)


_OP = re.compile(r"(\d{1,9})([A-Z]+(?:_[A-Z]+)*)(\d{0,9})", re.ASCII)


class Hop(IntEnum):
    """Where a needed value is made, seen from the stage that needs it."""

    SAME = 0
    PREV = 1
    NEXT = 2
    FIRST_HERE = 3
    """The first stage of the chain, if it lives on the rank of this vocabulary part."""
    LAST_HERE = 4
    """The last stage of the chain, likewise."""
    PART_OF_FIRST = 5
    """Seen from the first stage of the chain alone: its rank's part of the vocabulary."""
    PART_OF_LAST = 6
    """Seen from the last stage of the chain alone, likewise."""


class Need(NamedTuple):
    """A value an op cannot start without."""

    made_by: tuple[Kind, ...]
    """Any of these makes it; a plan holds only one of them per stage and micro-batch."""
    at: Hop
    via: Kind | None = None
    """The receive that brings it where the maker lives on another rank and the plan has sends."""
    if_any: bool = False
    """Needed only where the plan holds an op that makes it."""
    slices: int = 0
    """Of another slice of the same micro-batch: so many later (``Plan.slices``)."""
    latest: bool = False
    """The last one before the op in its lane, of those without a micro-batch."""


_OUTPUT = Need((Kind.F,), Hop.SAME)
_INPUT = Need((Kind.F,), Hop.PREV, Kind.RECV_F)
_INPUT_GRAD = Need((Kind.B, Kind.I), Hop.SAME)
_OUTPUT_GRAD = Need((Kind.B, Kind.I), Hop.NEXT, Kind.RECV_B)
_EARLIER_SLICE = Need((Kind.F,), Hop.SAME, slices=-1)
_LATER_SLICE = Need((Kind.B, Kind.I), Hop.SAME, slices=1)
_RECOMPUTED = Need((Kind.R,), Hop.SAME, if_any=True)
_FETCHED = Need((Kind.FETCH,), Hop.SAME, if_any=True)
_WEIGHTS = Need((Kind.UNSHARD,), Hop.SAME, if_any=True, latest=True)
_EMBEDDED = Need((Kind.REDUCE_E,), Hop.PART_OF_FIRST, if_any=True)
_STATISTICS = Need((Kind.REDUCE_S,), Hop.PART_OF_LAST, if_any=True)
_HEAD_GRAD = Need((Kind.REDUCE_T,), Hop.PART_OF_LAST, if_any=True)
_BACKWARD = (_OUTPUT, _OUTPUT_GRAD, _LATER_SLICE, _RECOMPUTED, _FETCHED, _WEIGHTS, _STATISTICS, _HEAD_GRAD)

NEEDS: dict[Kind, tuple[Need, ...]] = {
    Kind.F: (_INPUT, _EARLIER_SLICE, _WEIGHTS, _EMBEDDED),
    Kind.B: _BACKWARD,
    Kind.I: _BACKWARD,
    Kind.W: (Need((Kind.I,), Hop.SAME),),
    Kind.SEND_F: (_OUTPUT,),
    Kind.RECV_F: (Need((Kind.SEND_F,), Hop.PREV),),
    Kind.SEND_B: (_INPUT_GRAD,),
    Kind.RECV_B: (Need((Kind.SEND_B,), Hop.NEXT),),
    Kind.STEP: (),
    Kind.R: (_OUTPUT, _FETCHED, _WEIGHTS),
    Kind.OFFLOAD: (_OUTPUT,),
    Kind.FETCH: (Need((Kind.OFFLOAD,), Hop.SAME),),
    Kind.UNSHARD: (),
    Kind.RESHARD: (Need((Kind.UNSHARD,), Hop.SAME, latest=True),),
    Kind.REDUCE_GRAD: (),
    Kind.BCAST_H: (Need((Kind.F,), Hop.LAST_HERE),),
    Kind.S: (Need((Kind.BCAST_H,), Hop.SAME),),
    Kind.REDUCE_S: (Need((Kind.S,), Hop.SAME),),
    Kind.T: (Need((Kind.REDUCE_S,), Hop.SAME),),
    Kind.REDUCE_T: (Need((Kind.T,), Hop.SAME),),
    Kind.IF: (),
    Kind.REDUCE_E: (Need((Kind.IF,), Hop.SAME),),
    Kind.BCAST_E: (Need((Kind.B, Kind.I), Hop.FIRST_HERE),),
    Kind.IB: (Need((Kind.BCAST_E,), Hop.SAME),),
    Kind.UPDATE: (Need((Kind.B, Kind.W), Hop.SAME),),
}
"""What each kind needs: the one dependency rule. The check, the simulator, the lowering of sends and the runtime read
it. Two rules stand apart, because they are global: ``STEP`` comes last in its lane and begins when every rank has done
all its other work (with ``Plan.barrier``; else when its own rank has), and an op of several ranks (a message, a sum
over replicas, a collective of the vocabulary) ends for all when it ends for one."""
