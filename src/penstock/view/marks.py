"""What all readers share: colours of kinds, words for numbers, and the messages between ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import dependencies, partners
from penstock.core.op import MESSAGES, POSTED, RECVS, Kind
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.units import human_bytes, human_s

COLOURS: dict[Kind, str] = {
    Kind.F: "#56b4e9",
    Kind.B: "#e69f00",
    Kind.I: "#e0703a",
    Kind.W: "#2cae85",
    Kind.SEND_F: "#b4bcc8",
    Kind.RECV_F: "#b4bcc8",
    Kind.SEND_B: "#b4bcc8",
    Kind.RECV_B: "#b4bcc8",
    Kind.STEP: "#cc79a7",
    Kind.R: "#a5d8f3",
    Kind.OFFLOAD: "#c9b8e8",
    Kind.FETCH: "#b39ddb",
    Kind.UNSHARD: "#d3cfa4",
    Kind.RESHARD: "#d3cfa4",
    Kind.REDUCE_GRAD: "#c2bb7a",
    Kind.BCAST_H: "#c8c8c8",
    Kind.S: "#f0e442",
    Kind.REDUCE_S: "#c8c8c8",
    Kind.T: "#d8c92b",
    Kind.REDUCE_T: "#c8c8c8",
    Kind.IF: "#8fd0c0",
    Kind.REDUCE_E: "#c8c8c8",
    Kind.BCAST_E: "#c8c8c8",
    Kind.IB: "#6fbba8",
    Kind.UPDATE: "#cc79a7",
}
"""Near the palette of Okabe and Ito (2008): told apart with every common colour blindness; black text reads on each."""

PHRASES: dict[Kind, str] = {
    Kind.F: "forward",
    Kind.B: "backward",
    Kind.I: "input gradient",
    Kind.W: "weight gradient",
    Kind.SEND_F: "send forward",
    Kind.RECV_F: "receive forward",
    Kind.SEND_B: "send backward",
    Kind.RECV_B: "receive backward",
    Kind.STEP: "optimizer step",
    Kind.R: "recompute",
    Kind.OFFLOAD: "copy to the host",
    Kind.FETCH: "copy from the host",
    Kind.UNSHARD: "gather weights",
    Kind.RESHARD: "drop gathered weights",
    Kind.REDUCE_GRAD: "reduce gradients",
    Kind.BCAST_H: "broadcast the head's input",
    Kind.S: "logits of a vocabulary part",
    Kind.REDUCE_S: "reduce softmax statistics",
    Kind.T: "gradients of a vocabulary part",
    Kind.REDUCE_T: "reduce the head's input gradient",
    Kind.IF: "embedding of a vocabulary part",
    Kind.REDUCE_E: "reduce the embedding",
    Kind.BCAST_E: "broadcast the embedding's gradient",
    Kind.IB: "embedding gradient of a vocabulary part",
    Kind.UPDATE: "update of one stage",
}


def time_text(value: float, unit: str) -> str:
    """Seconds for people if ``unit`` is ``s``; any other unit stands behind the plain number.

    >>> time_text(0.0123, "s"), time_text(33.0, "F"), time_text(33.0, "")
    ('12.3 ms', '33 F', '33')
    """
    return human_s(value) if unit == "s" else f"{value:.4g} {unit}".strip()


def memory_text(value: float, unit: str) -> str:
    """Bytes for people if ``unit`` (of time) is ``s``; a plain number where costs have no unit.

    >>> memory_text(2.0**30, "s"), memory_text(3.5, "")
    ('1 GiB', '3.5')
    """
    return human_bytes(value) if unit == "s" else f"{value:.4g}"


def ticks(low: float, high: float, about: int) -> NDArray[np.float64]:
    """Round numbers (steps of 1, 2 or 5) from ``low`` to ``high``, some ``about`` of them.

    >>> ticks(0.0, 33.0, 4).tolist()
    [0.0, 10.0, 20.0, 30.0]
    """
    if high <= low:
        return np.array([low])
    rough = (high - low) / max(1, about)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.75 * rough)
    first, last = round(np.ceil(low / step - 1e-9)), round(np.floor(high / step + 1e-9))
    return np.arange(first, last + 1, dtype=np.float64) * float(step)


def tick_texts(values: NDArray[np.float64], unit: str) -> list[str]:
    """Texts of an axis' ticks, all with the prefix that suits the largest.

    >>> tick_texts(np.array([0.0, 0.5, 1.0]), "s"), tick_texts(np.array([0.0, 0.002]), "s")
    (['0 s', '0.5 s', '1 s'], ['0 ms', '2 ms'])
    """
    scale, name = 1.0, unit
    if unit == "s":
        largest = float(np.abs(values).max(initial=0.0))
        scale, name = next(((f, n) for f, n in ((1.0, "s"), (1e-3, "ms")) if largest >= f), (1e-6, "us"))
    return [f"{value / scale:.6g} {name}".strip() for value in values.tolist()]


def local_chunks(plan: Plan) -> NDArray[np.uint8]:
    """Which chunk of its rank each stage is (0 for all in a plan without virtual stages), shape (stages,)."""
    placement = plan.placement
    chunk = np.zeros(placement.stages, dtype=np.uint8)
    for rank in range(placement.ranks):
        for number, stage in enumerate(placement.on(rank)):
            chunk[stage] = min(number, 255)
    return chunk


def holds_rank(plan: Plan) -> NDArray[np.bool_]:
    """Whether each op keeps its rank busy: all but what runs on links and overlaps with compute, shape (ops,)."""
    kind = plan.ops[:, 0]
    return ~np.isin(kind, POSTED) | np.isin(kind, MESSAGES) if plan.blocking else ~np.isin(kind, POSTED)


def bars(plan: Plan) -> NDArray[np.bool_]:
    """Whether each op has a bar on its rank: those that hold it, of a block the first alone, shape (ops,)."""
    shown = holds_rank(plan).copy()
    shown[1:] &= ~plan.fused[:-1]
    return shown


def bar_end_s(timeline: Timeline) -> NDArray[np.float64]:
    """End of each op's bar: of a block's first op the end of the block, shape (ops,)."""
    end = timeline.end_s.copy()
    first = np.flatnonzero(timeline.plan.fused)
    end[first] = np.maximum(end[first], end[first + 1])
    return end


def bar_name(plan: Plan, op_id: int) -> str:
    """The op's name, of a block both names: ``0F3+5B1``."""
    return f"{plan.op(op_id)}+{plan.op(op_id + 1)}" if plan.fused[op_id] else str(plan.op(op_id))


@dataclass(frozen=True, eq=False)
class Messages:
    """Values that pass from rank to rank, one entry each, in order of departure.

    ``made_by`` and ``used_by`` are ids of the compute ops at both ends (-1 where the plan has none). ``send`` and
    ``recv`` are the ids of the message's own ops, -1 in a plan without sends. ``begin_s`` and ``end_s`` bound the time
    on the wire; without sends, the time between the two ops.
    """

    made_by: NDArray[np.int64]
    used_by: NDArray[np.int64]
    send: NDArray[np.int64]
    recv: NDArray[np.int64]
    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.begin_s)


def messages(timeline: Timeline) -> Messages:
    """Every message of a timeline; on one link, each begins no earlier than the one before has ended."""
    plan = timeline.plan
    found = _sent(timeline) if plan.lowered else _implied(timeline)
    order = np.argsort(found.begin_s, kind="stable")
    return Messages(*(getattr(found, name)[order] for name in Messages.__dataclass_fields__))


def _implied(timeline: Timeline) -> Messages:
    plan = timeline.plan
    needed = dependencies(plan)
    used_by, slot = np.nonzero(needed >= 0)
    made_by = needed[used_by, slot].astype(np.int64)
    apart = plan.rank_of_op[made_by] != plan.rank_of_op[used_by]
    made_by, used_by = made_by[apart], used_by[apart]
    none = np.full(len(made_by), -1)
    begin = timeline.end_s[made_by]
    return Messages(made_by, used_by, none, none, begin, np.maximum(begin, timeline.start_s[used_by]))


def _sent(timeline: Timeline) -> Messages:
    plan = timeline.plan
    needed, partner = dependencies(plan), partners(plan)
    recv = np.flatnonzero(np.isin(plan.ops[:, 0], RECVS) & (partner >= 0))
    send = partner[recv].astype(np.int64)
    user = np.full(len(plan), -1)
    row, slot = np.nonzero(needed >= 0)
    user[needed[row, slot]] = row
    begin, end = _on_wire(timeline, send, recv)
    return Messages(np.maximum(needed[send, 0], -1).astype(np.int64), user[recv], send, recv, begin, end)


def _on_wire(
    timeline: Timeline, send: NDArray[np.int64], recv: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Begin: both ends posted and the link free of the message before; end: arrival."""
    rank = timeline.plan.rank_of_op.astype(np.int64)
    link = rank[send] * timeline.plan.placement.ranks + rank[recv]
    end = timeline.end_s[recv]
    begin = np.maximum(timeline.start_s[send], timeline.start_s[recv])
    order = np.lexsort((end, link))
    follows = order[1:][link[order[1:]] == link[order[:-1]]]
    before = order[:-1][link[order[1:]] == link[order[:-1]]]
    begin[follows] = np.maximum(begin[follows], end[before])
    return np.minimum(begin, end), end
