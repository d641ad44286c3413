"""The legality check: says before anything runs which rank and op is wrong, what it waits for, and the nearest fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.needs import MISSING, NOTHING, dependencies, index, partners, predecessors
from penstock.core.op import COMPUTE, NEEDS, OF_STAGE, RECVS, SENDS, Hop, Kind, Op
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.core.play import Played, batches, play
from penstock.engine.check_extras import extras
from penstock.engine.deadlock import deadlock
from penstock.engine.memory import memory
from penstock.engine.problem import IllegalPlan, Problem, name
from penstock.engine.staleness import updates


def check(plan: Plan, costs: Costs | None = None, memory_limit: float | None = None) -> None:
    """Do nothing if the plan is legal.

    Args:
        plan: with or without sends.
        costs: needed for a memory limit.
        memory_limit: bytes that activations and buffers may reach on any rank.

    Raises:
        IllegalPlan: it is not; the message names rank, op, what it waits for and the nearest fix.

    Example:
        >>> from penstock.schedules import build
        >>> check(build("1f1b", ranks=4, micros=8))
        >>> check(build(lambda r, p, m, v: [(m, "B F")], ranks=1, micros=1))
        Traceback (most recent call last):
        penstock.engine.problem.IllegalPlan: plan '<lambda>' is not legal: rank 0, 0B0: deadlock: rank 0 waits at 0B0 \
for 0F0, which stands behind 0B0 on rank 0; move 0F0 before 0B0 on rank 0
    """
    found = problems(plan, costs, memory_limit)
    if found:
        raise IllegalPlan(plan.name, found)


def problems(plan: Plan, costs: Costs | None = None, memory_limit: float | None = None) -> list[Problem]:
    """Why the plan cannot run; empty if it can.

    Checked in turn, each only when those before hold: every op stands on the rank of its stage and within range;
    complete, nothing twice, steps last; what passes have added fits together; every value that crosses ranks has its
    messages (if there are any), received in the order sent; lanes run to their end without deadlock; memory
    stays within the limit.

    Example:
        >>> from penstock.schedules import build
        >>> found = problems(build(lambda r, p, m, v: [(m, "F")] if r else [(m, "F B")], ranks=2, micros=2))
        >>> [(one.rank, one.op, one.message) for one in found]
        [(1, '1B0', 'is missing'), (1, '1B1', 'is missing')]
    """
    checks: tuple[Callable[[Plan], Iterator[Problem]], ...] = (_out_of_place, _incomplete, extras, updates, _messages)
    for one in checks:
        found = list(one(plan))
        if found:
            return found
    ranks = plan.placement.ranks
    seconds = np.ones(len(plan)) if costs is None else costs.of(plan)
    played = play(plan, seconds, np.zeros((ranks, ranks)) if costs is None else costs.hop_s)
    found = deadlock(plan, played)
    if not found and memory_limit is not None:
        if costs is None:
            raise ValueError("memory_limit needs costs, which hold the bytes of each op")
        found = list(_memory(plan, played, costs, memory_limit))
    return found


def in_place(plan: Plan) -> None:
    """Raise ``IllegalPlan`` if an op does not exist or stands on another rank than its stage."""
    found = plan.memo(_all_out_of_place)
    if found:
        raise IllegalPlan(plan.name, found)


def stuck(plan: Plan, played: Played) -> None:
    """Raise ``IllegalPlan`` if the lanes did not run to their end."""
    if np.isnan(played.end_s).any():
        raise IllegalPlan(plan.name, problems(plan) or deadlock(plan, played))


def _all_out_of_place(plan: Plan) -> list[Problem]:
    return list(_out_of_place(plan))


def _out_of_place(plan: Plan) -> Iterator[Problem]:
    kind, stage, micro = np.ascontiguousarray(plan.ops.T)
    inside = (kind >= 0) & (kind < len(Kind)) & (stage >= 0) & (stage < plan.placement.stages)
    outside = (micro < 0) | (micro >= plan.micros)
    if outside.any():
        outside &= ~np.isin(kind, OF_STAGE)
    bad = ~inside | outside
    home = np.array(plan.placement.rank_of)[np.where(inside, stage, 0)]
    for row in np.flatnonzero(bad | (home != plan.rank_of_op)):
        rank = int(plan.rank_of_op[row])
        if bad[row]:
            limits = f"stages are 0..{plan.placement.stages - 1}, micro-batches 0..{plan.micros - 1}"
            yield Problem(rank, name(plan, row), "does not exist", limits)
        else:
            there = int(home[row])
            yield Problem(
                rank, name(plan, row), f"stage {stage[row]} lives on rank {there}", f"move it to rank {there}"
            )


def _incomplete(plan: Plan) -> Iterator[Problem]:
    ids, shape = index(plan), (len(Kind), plan.placement.stages, plan.micros)
    kind, stage, micro = plan.ops[~np.isin(plan.ops[:, 0], OF_STAGE)].T
    flat = np.ravel_multi_index((kind, stage, micro), shape)
    times = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)
    for k, s, i in np.argwhere(times > 1):
        yield Problem(plan.placement.rank_of[s], str(Op(Kind(k), s, i)), f"stands {times[k, s, i]} times", "keep one")
    full, split_i, split_w = (times[k] > 0 for k in (Kind.B, Kind.I, Kind.W))
    for s, i in np.argwhere(full & (split_i | split_w)):
        other = Kind.I if split_i[s, i] else Kind.W
        yield Problem(
            plan.placement.rank_of[s],
            str(Op(Kind.B, s, i)),
            f"{Op(other, s, i)} stands too",
            "B is I and W: keep either",
        )
    used = _used(plan, times[Kind.F] > 0)
    yield from _on_two_chains(plan, times[Kind.F] > 0, used)
    asked = np.array(plan.placement.chain_of)[:, None] == used.argmax(axis=0)
    lacking = {Kind.F: asked & (times[Kind.F] == 0)}
    full |= ~asked
    if plan.trains:
        lacking |= {Kind.B: ~full & ~split_i & ~split_w, Kind.I: split_w & ~split_i, Kind.W: split_i & ~split_w}
    for wanted, where in lacking.items():
        for s, i in np.argwhere(where):
            yield Problem(plan.placement.rank_of[s], str(Op(wanted, s, i)), "is missing", f"{wanted.name} of every "
                          f"stage and micro-batch must stand once; {_near(plan, ids, s, i)}")  # fmt: skip
    for rank, lane in enumerate(plan.lanes):
        is_step = lane.codes[:, 0] == Kind.STEP
        early = np.flatnonzero(is_step[:-1] & ~is_step[1:])
        for row in early:
            yield Problem(
                rank, str(lane[int(row)]), f"{lane[int(row) + 1]} comes after it", "put steps last in the lane"
            )


def _used(plan: Plan, forward: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which chains each micro-batch has a forward on, shape (chains, micros); it must run through all of one."""
    chain_of = np.array(plan.placement.chain_of)
    return np.array([forward[chain_of == chain].any(axis=0) for chain in range(plan.placement.chains)])


def _on_two_chains(plan: Plan, forward: NDArray[np.bool_], used: NDArray[np.bool_]) -> Iterator[Problem]:
    chain_of = np.array(plan.placement.chain_of)
    for i in np.flatnonzero(used.sum(axis=0) > 1):
        chains = np.flatnonzero(used[:, i])[:2]
        first, second = (int(np.flatnonzero(forward[:, i] & (chain_of == chain))[0]) for chain in chains)
        yield Problem(
            plan.placement.rank_of[second],
            str(Op(Kind.F, second, int(i))),
            f"{Op(Kind.F, first, int(i))} runs the same micro-batch through another chain",
            "keep each micro-batch on one chain",
        )


def _near(plan: Plan, ids: NDArray[np.int32], stage: int, micro: int) -> str:
    present = [ids[k, stage, micro] for k in COMPUTE if ids[k, stage, micro] != NOTHING]
    if present:
        return f"add it after {name(plan, max(present))}"
    return f"micro-batches are 0..{plan.micros - 1}"


def _messages(plan: Plan) -> Iterator[Problem]:
    needed, partner = dependencies(plan), partners(plan)
    for row, slot in np.argwhere(needed == MISSING):
        op = plan.op(int(row))
        need = NEEDS[op.kind][slot]
        rank = int(plan.rank_of_op[row])
        if op.kind in RECVS:
            continue
        kind = need.made_by[0] if need.via is None else need.via
        at = op.stage if need.via is not None or need.at == Hop.SAME else int(plan.placement.hops[need.at, op.stage])
        lacks = Op(kind, at, op.micro)
        yield Problem(rank, str(op), f"needs {lacks}, which no lane holds", f"add {lacks} before it")
    for row in np.flatnonzero(partner == MISSING):
        op = plan.op(int(row))
        other = _other_end(plan, op)
        if other is None:
            yield Problem(int(plan.rank_of_op[row]), str(op), "no stage lies on that side", "drop it")
        else:
            where = plan.placement.rank_of[other.stage]
            yield Problem(int(plan.rank_of_op[row]), str(op), f"its other end {other} is missing on rank {where}",
                          f"add {other} to rank {where}")  # fmt: skip
    yield from _out_of_order(plan, partner)
    yield from _crowded(plan)


def _other_end(plan: Plan, op: Op) -> Op | None:
    ends = {Kind.SEND_F: (Kind.RECV_F, Hop.NEXT), Kind.SEND_B: (Kind.RECV_B, Hop.PREV),
            Kind.RECV_F: (Kind.SEND_F, Hop.PREV), Kind.RECV_B: (Kind.SEND_B, Hop.NEXT)}  # fmt: skip
    kind, hop = ends[op.kind]
    stage = int(plan.placement.hops[hop, op.stage])
    return None if stage == NO_STAGE else Op(kind, stage, op.micro)


def _out_of_order(plan: Plan, partner: NDArray[np.int32]) -> Iterator[Problem]:
    """Messages of one link must be received in the order they are sent."""
    sends = np.flatnonzero(np.isin(plan.ops[:, 0], SENDS) & (partner >= 0))
    link = plan.rank_of_op[sends].astype(np.int64) * plan.placement.ranks + plan.rank_of_op[partner[sends]]
    for each in np.unique(link):
        sent = sends[link == each]
        received = partner[sent]
        for k in np.flatnonzero(np.diff(received) < 0):
            late, early = name(plan, received[k]), name(plan, received[k + 1])
            order = f"{name(plan, sent[k + 1])} stands behind {name(plan, sent[k])} on rank {plan.rank_of_op[sent[k]]}"
            yield Problem(int(plan.rank_of_op[received[k]]), early, f"is received before {late}, but sent after it: "
                          f"{order}", f"put {late} before {early}")  # fmt: skip


def _crowded(plan: Plan) -> Iterator[Problem]:
    """Sends that wait for room on their link for a message of their own batch, which passes only with them."""
    before = predecessors(plan)
    rows = np.flatnonzero(before >= 0)
    for row in rows[rows - before[rows] <= batches(plan)[rows, 0]]:
        message = f"passes in one batch with {name(plan, before[row])}, and in_flight={plan.in_flight} of a link"
        fix = "raise in_flight, or leave it out: a batch has arrived when its rank goes on"
        yield Problem(int(plan.rank_of_op[row]), name(plan, row), message, fix)


def _memory(plan: Plan, played: Played, costs: Costs, limit: float) -> Iterator[Problem]:
    for rank, curve in enumerate(memory(plan, played.start_s, played.end_s, costs)):
        total = curve.total_bytes
        over = np.flatnonzero(total > limit * (1 + 1e-9))
        if len(over):
            mine = slice(plan.first[rank], plan.first[rank + 1])
            row = int(plan.first[rank] + np.flatnonzero(played.start_s[mine] <= curve.time_s[over[0]])[-1])
            yield Problem(rank, name(plan, row), f"holds {total.max():.6g} bytes, the limit is {limit:.6g}",
                          f"allow {total.max():.6g} or take a schedule that keeps fewer micro-batches")  # fmt: skip
