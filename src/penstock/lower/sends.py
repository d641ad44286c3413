"""Sends and receives for every value that crosses ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import active, dependencies, of_kind
from penstock.core.op import NEEDS, RECVS, WORK, Kind, Sends
from penstock.core.plan import Plan
from penstock.core.play import Played, play
from penstock.lower.place import place

UNIT_SECONDS = {Kind.F: 1.0, Kind.B: 2.0, Kind.I: 1.0, Kind.W: 1.0}
"""Times by which messages are ordered."""


def add_sends(plan: Plan, sends: Sends = "overlapped", ahead: int = 1, in_flight: int = 2) -> Plan:
    """The plan with a send after each op whose result another rank needs, and a receive before each op that needs it.

    Overlapped receives never hold a rank, sends only while their link is full. A receive is posted ``ahead`` computes
    before its consumer; sooner where a later message of the same link must be, so that messages of a link are received
    in the order they are sent, or where a full link would hold up what the receiver waits for. So few buffers are open
    at a time, and what ran without sends runs with them. Blocking ones hold both ranks from the later's posting until
    the message has passed; all messages then follow one global order, so they cannot deadlock. Batched ones stand in
    the same places, but those next to each other pass together.

    Args:
        plan: legal, without sends.
        sends: ``overlapped``; or ``blocking``, which hold ranks as ``send`` and ``recv`` do; or ``batched``, as
            ``batch_isend_irecv``.
        ahead: computes between the posting of a receive and its use, for overlapped ones.
        in_flight: messages per link that may be under way, for overlapped ones; bounds the memory of sent tensors.

    Raises:
        ValueError: the plan has sends already, or its lanes cannot run to their end.

    Example:
        >>> from penstock.schedules import build
        >>> print(add_sends(build("1f1b", ranks=2, micros=1)).lanes[0])
        0F0 0SEND_F0 0RECV_B0 0B0
    """
    if plan.lowered:
        raise ValueError(f"plan {plan.name!r} has sends already")
    if ahead < 1:
        raise ValueError(f"ahead={ahead}; a receive is posted at least 1 compute ahead of its use")
    if in_flight < 1:
        raise ValueError(f"in_flight={in_flight}; a link holds at least 1 message")
    played = _played(plan)
    messages = _messages(plan, played.end_s)
    hidden = sends == "overlapped"
    places = _overlapped(plan, messages, played, ahead, in_flight) if hidden else _blocking(plan, messages, played)
    ops = np.stack([messages.send, messages.recv], axis=1).reshape(-1, 3)
    ends = np.stack([messages.maker, messages.consumer], axis=1).ravel()
    lowered = place(plan, ops, plan.rank_of_op[ends], np.stack(places, axis=1).ravel())
    return replace(lowered, sends=sends, in_flight=in_flight if hidden else None)


@dataclass(frozen=True, eq=False)
class _Messages:
    """All values that cross ranks, in the order they are sent: arrays with one entry each."""

    maker: Ids
    consumer: Ids
    """Ids of the ops that make and need the value."""
    sent_s: NDArray[np.float64]
    """When the maker ends at unit times."""
    send: NDArray[np.int32]
    recv: NDArray[np.int32]
    """The ops of the message, shape (messages, 3)."""


def _played(plan: Plan) -> Played:
    """The plan at unit times: an order in which everything can happen."""
    unit = np.zeros(len(Kind))
    for kind, seconds in UNIT_SECONDS.items():
        unit[kind] = seconds
    ranks = plan.placement.ranks
    played = play(plan, unit[plan.ops[:, 0]], np.zeros((ranks, ranks)))
    if np.isnan(played.end_s).any():
        raise ValueError(f"plan {plan.name!r} cannot run to its end; engine.check says why")
    return played


def _messages(plan: Plan, end_s: NDArray[np.float64]) -> _Messages:
    needed = dependencies(plan)
    rank = plan.rank_of_op
    consumer, slot = np.nonzero((needed >= 0) & (rank[np.maximum(needed, 0)] != rank[:, None]))
    maker = needed[consumer, slot].astype(np.int64)
    order = np.lexsort((maker, end_s[maker]))
    maker, consumer, slot = maker[order], consumer[order], slot[order]
    _, stage, micro = plan.ops[consumer].T
    receives = _via(plan)[plan.ops[consumer, 0], slot]
    sends, hop = _sent_by()[:, receives]
    return _Messages(
        maker,
        consumer,
        end_s[maker],
        np.stack([sends, plan.placement.hops[hop, stage], micro], axis=1),
        np.stack([receives, stage, micro], axis=1),
    )


def _via(plan: Plan) -> NDArray[np.int32]:
    """Kind of receive that meets each slot of each kind, -1 if none does."""
    rules = active(plan)
    found = np.full((len(Kind), max(map(len, rules.values()))), -1, dtype=np.int32)
    for kind, rule in rules.items():
        found[kind, : len(rule)] = [-1 if need.via is None else int(need.via) for need in rule]
    return found


def _sent_by() -> NDArray[np.int32]:
    """Kind of send that each kind of receive needs, and the hop to its stage: shape (2, kinds)."""
    table = np.zeros((2, len(Kind)), dtype=np.int32)
    for recv in RECVS:
        (sent,) = NEEDS[recv]
        table[:, recv] = sent.made_by[0], sent.at
    return table


Ids = NDArray[np.int64]
Places = tuple[Ids, Ids]
"""Of sends and of receives, as ``place`` takes them."""


def _overlapped(plan: Plan, messages: _Messages, played: Played, ahead: int, in_flight: int) -> Places:
    begin = plan.first[plan.rank_of_op[messages.consumer]]
    work = np.flatnonzero(of_kind(plan.ops[:, 0], WORK))
    nth = np.searchsorted(work, messages.consumer) - ahead + 1
    post = 4 * np.maximum(work[np.maximum(nth, 0)], begin)
    link = plan.rank_of_op[messages.maker] * plan.placement.ranks + plan.rank_of_op[messages.consumer]
    order = np.argsort(link, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(link[order])) + 1):
        held_up = messages.sent_s[rows[in_flight:]]
        if len(held_up):
            rank = int(plan.rank_of_op[messages.consumer[rows[0]]])
            in_time = 4 * _first_from(plan, played, rank, held_up) - 2
            post[rows[:-in_flight]] = np.minimum(post[rows[:-in_flight]], np.maximum(in_time, 4 * plan.first[rank]))
        post[rows] = np.minimum.accumulate(post[rows][::-1])[::-1]
    return 4 * messages.maker + 3, post


def _blocking(plan: Plan, messages: _Messages, played: Played) -> Places:
    places = []
    for ends in (messages.maker, messages.consumer):
        place = np.empty(len(ends), dtype=np.int64)
        for r in range(plan.placement.ranks):
            mine = plan.rank_of_op[ends] == r
            before = _first_from(plan, played, r, messages.sent_s[mine])
            place[mine] = 4 * before - (before == plan.first[r + 1])
        places.append(place)
    return places[0], places[1]


def _first_from(plan: Plan, played: Played, rank: int, times_s: NDArray[np.float64]) -> Ids:
    """Id of the first op of a rank that starts at each time or later (the id behind its last op if none does)."""
    a, b = plan.first[rank], plan.first[rank + 1]
    found: Ids = a + np.searchsorted(played.start_s[a:b], times_s)
    return found
