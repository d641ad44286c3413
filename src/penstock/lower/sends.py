"""Sends and receives for every value that crosses ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import dependencies
from penstock.core.op import NEEDS, RECVS, Kind
from penstock.core.plan import Lane, Plan
from penstock.core.play import play

UNIT_SECONDS = {Kind.F: 1.0, Kind.B: 2.0, Kind.I: 1.0, Kind.W: 1.0}
"""Times by which blocking messages are ordered."""


def add_sends(plan: Plan, blocking: bool = False, ahead: int = 1, in_flight: int = 2) -> Plan:
    """The plan with a send after each op whose result another rank needs, and a receive before each op that needs it.

    Overlapped receives never hold a rank, sends only while their link is full. A receive is posted ``ahead`` computes before its consumer, or
    sooner where a later message of the same link must be, so that messages of a link are received in the order they
    are sent and few buffers are open at a time. Blocking ones hold both ranks from the later's posting until the
    message has passed; all messages then follow one global order, so they cannot deadlock.

    Args:
        plan: legal, without sends.
        blocking: hold ranks, as ``send`` and ``recv`` do.
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
    messages = _messages(plan)
    places = _places_blocking(plan, messages) if blocking else _places_overlapped(plan, messages, ahead)
    bound = None if blocking else in_flight
    return replace(plan, lanes=_merge(plan, messages, places), blocking=blocking, in_flight=bound)


class _Messages:
    """All values that cross ranks: ids of maker and consumer, and the send and receive ops."""

    def __init__(self, maker: NDArray[np.int64], consumer: NDArray[np.int64], send: NDArray[np.int32]) -> None:
        self.maker, self.consumer, self.send = maker, consumer, send
        self.recv = np.empty_like(send)


def _messages(plan: Plan) -> _Messages:
    needed = dependencies(plan)
    rank, hops = plan.rank_of_op, plan.placement.hops
    consumer, slot = np.nonzero((needed >= 0) & (rank[np.maximum(needed, 0)] != rank[:, None]))
    maker = needed[consumer, slot].astype(np.int64)
    found = _Messages(maker, consumer, np.empty((len(maker), 3), dtype=np.int32))
    for recv in RECVS:
        (sent,) = NEEDS[recv]
        rows = np.flatnonzero(_via(plan)[plan.ops[consumer, 0], slot] == recv)
        _, stage, micro = plan.ops[consumer[rows]].T
        found.recv[rows] = np.stack([np.full_like(stage, recv), stage, micro], axis=1)
        found.send[rows] = np.stack([np.full_like(stage, sent.made_by[0]), hops[sent.at, stage], micro], axis=1)
    return found


def _via(plan: Plan) -> NDArray[np.int32]:
    """Kind of receive that meets each slot of each kind, -1 if none does."""
    slots = max(map(len, NEEDS.values()))
    rows = [[-1 if need.via is None else int(need.via) for need in NEEDS[kind]] for kind in Kind]
    return np.array([row + [-1] * (slots - len(row)) for row in rows], dtype=np.int32)


Places = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]
"""Sort keys of sends and receives among the op ids of their lanes: k - 0.5 stands just before op k."""


def _places_overlapped(plan: Plan, messages: _Messages, ahead: int) -> Places:
    rank = plan.rank_of_op
    link = rank[messages.maker] * plan.placement.ranks + rank[messages.consumer]
    begin = plan.first[rank[messages.consumer]]
    post = np.maximum(messages.consumer - ahead + 1, begin).astype(np.float64) - 0.5
    order = np.lexsort((messages.maker, link))
    for rows in np.split(order, np.flatnonzero(np.diff(link[order])) + 1):
        post[rows] = np.minimum.accumulate(post[rows][::-1])[::-1]
    return messages.maker + 0.5, post


def _places_blocking(plan: Plan, messages: _Messages) -> Places:
    unit = np.zeros(len(Kind))
    for kind, seconds in UNIT_SECONDS.items():
        unit[kind] = seconds
    ranks = plan.placement.ranks
    played = play(plan, unit[plan.ops[:, 0]], np.zeros((ranks, ranks)))
    if np.isnan(played.end_s).any():
        raise ValueError(f"plan {plan.name!r} cannot run to its end; engine.check says why")
    sent_s = played.end_s[messages.maker]
    send = np.empty(len(sent_s))
    recv = np.empty(len(sent_s))
    for r in range(ranks):
        a, b = plan.first[r], plan.first[r + 1]
        mine = plan.rank_of_op[messages.maker] == r
        theirs = plan.rank_of_op[messages.consumer] == r
        send[mine] = a + np.searchsorted(played.start_s[a:b], sent_s[mine]) - 0.5
        recv[theirs] = a + np.searchsorted(played.start_s[a:b], sent_s[theirs]) - 0.5
    nth = np.empty(len(sent_s))
    nth[np.lexsort((messages.maker, sent_s))] = np.arange(len(sent_s))
    within = nth / (2 * len(nth) + 2)
    return send + within, recv + within


def _merge(plan: Plan, messages: _Messages, places: Places) -> tuple[Lane, ...]:
    rank = plan.rank_of_op
    keys = np.concatenate([np.arange(len(plan), dtype=np.float64), *places])
    ops = np.concatenate([plan.ops, messages.send, messages.recv])
    ranks = np.concatenate([rank, rank[messages.maker], rank[messages.consumer]])
    order = np.lexsort((keys, ranks))
    return tuple(Lane(ops[order][ranks[order] == r]) for r in range(plan.placement.ranks))
