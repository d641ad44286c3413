"""From what ranks measured to costs and timelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING, dependencies, partners
from penstock.core.op import AMONG_RANKS, HOST, POSTED, RECVS, VOCABULARY, Kind
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine.memory import memory
from penstock.runtime.measure_blocks import copying_s, fill_halves, same_block, summing_s
from penstock.runtime.stage import Stage

WAITED_S = 20e-6
"""A gap before an op from which on it counts as having waited for a message."""

Times = NDArray[np.float64]
"""Start and end of every op of one step in seconds of one clock: shape (2, ops)."""


def probe(stage: Stage, xs: Sequence[Tensor], targets: Sequence[Tensor] | None) -> tuple[float, float]:
    """Bytes a forward keeps for its backward, and the share of them that lives from ``I`` to ``W``.

    Runs one micro-batch twice through the stage, all its slices, and leaves no gradient behind. What both runs keep in
    common (masks, rotary tables, weights) is not counted; of slices it is the mean.

    Args:
        stage: at rest.
        xs: input of each slice; one if the micro-batch is whole.
        targets: of each, for the last stage.
    """
    slices = len(xs)
    seen: list[dict[int, int]] = [{}, {}]
    for micro in range(2 * slices):
        seen[micro // slices] |= _saved_by(stage, micro, xs, targets)
    saved = sum(size for storage, size in seen[0].items() if storage not in seen[1]) / slices
    kept = 0.0
    for micro in reversed(range(2 * slices)):
        stage.backward_input(micro, None if stage.last else _zero_gradient(stage, micro, xs[0]))
        kept += stage.pending_bytes(micro)
        stage.backward_weight(micro)
    kept /= 2 * slices
    stage.losses.clear()
    stage.module.zero_grad(set_to_none=True)
    return float(saved), kept / saved if saved else 0.0


def _zero_gradient(stage: Stage, micro: int, x: Tensor) -> Tensor:
    """Of the stage's output; a stage without weights passes on the type it gets."""
    like = x if x.is_floating_point() else next(stage.module.parameters())
    return torch.zeros(stage.carries(micro), dtype=like.dtype, device=like.device)


def _saved_by(stage: Stage, micro: int, xs: Sequence[Tensor], targets: Sequence[Tensor] | None) -> dict[int, int]:
    """Sizes of the storages one forward saves, by address; they stay alive until its backward."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        x = xs[micro % len(xs)].clone()
        stage.forward(micro, x if stage.first else x.detach(), targets[micro % len(xs)] if targets else None)
    return found


def measured_costs(
    plan: Plan,
    steps: Sequence[Times],
    saved: Sequence[tuple[float, float]],
    boundary_bytes: float,
    shares: Sequence[tuple[float, float]] = (),
) -> Costs:
    """Costs that the steps showed.

    Per stage and kind the mean over micro-batches of each op's median over the steps, from ops outside fused blocks
    where there are any; what stands in blocks alone gets its share of their times (least squares), and the overlap is
    what blocks then take less than their two halves. Sums over replicas take from when the last one asked, and the sum
    before was done, to their end; copies to the host and back likewise. Per link the median delay of messages whose
    consumer was waiting for them.

    Args:
        plan: with sends and steps.
        steps: times of each measured step.
        saved: per stage, what ``probe`` gives.
        boundary_bytes: size of one message.
        shares: per stage, what ``measure_kept.probe_shares`` gives; left out, the defaults of ``Costs``.
    """
    placement = plan.placement
    times = np.stack([_from_common_step(plan, step) for step in steps])
    lasted = np.median(times[:, 1] - times[:, 0], axis=0)
    seconds = np.zeros((len(Kind), placement.stages))
    kind, stage, _ = plan.ops.T
    alone = ~(plan.fused | np.r_[False, plan.fused[:-1]])
    for kinds, under_way in (((Kind.REDUCE_GRAD,), summing_s), (HOST, copying_s)):
        rows = np.isin(kind, kinds)
        lasted[rows] = np.median(under_way(plan, times), axis=0)[rows]
    for k in (Kind.F, Kind.B, Kind.I, Kind.W, Kind.R, Kind.STEP, Kind.UPDATE, Kind.REDUCE_GRAD, *HOST, *VOCABULARY):
        for s in range(placement.stages):
            rows = alone & (kind == k) & (stage == s)
            if rows.any():
                seconds[k, s] = lasted[rows].mean()
    for k in AMONG_RANKS:
        seconds[k] = _collective_s(plan, lasted, k)
    kept = np.array(saved, dtype=np.float64).reshape(-1, 2)
    sizes = np.full(placement.stages, boundary_bytes)
    overlap = fill_halves(plan, lasted, seconds)
    found = Costs(seconds, _hop_s(plan, times), kept[:, 0], kept[:, 1], sizes, overlap=overlap)
    if not len(shares):
        return found
    kept_share, host_share = np.array(shares, dtype=np.float64).T
    return replace(found, kept_share=kept_share, host_share=host_share)


def measured_timeline(plan: Plan, step: Times, costs: Costs, label: str = "measured") -> Timeline:
    """One measured step as a timeline that begins at zero; memory is what was alive, by the measured sizes."""
    start, end = _from_common_step(plan, step) - step[0].min()
    end = _arrivals(plan, start, end)
    waited = _waited_for(plan, start, end)
    return Timeline(plan, label, start, end, waited, memory(plan, start, end, costs))


def _collective_s(plan: Plan, lasted: NDArray[np.float64], kind: Kind) -> float:
    """Time of a collective once all ranks have come to it: as long as it seemed to the last of them. The median."""
    rows = np.flatnonzero(plan.ops[:, 0] == kind)
    if not len(rows):
        return 0.0
    least = np.full(plan.micros, np.inf)
    np.minimum.at(least, plan.ops[rows, 2], lasted[rows])
    return max(0.0, float(np.median(least)))


def _from_common_step(plan: Plan, step: Times) -> Times:
    """The same times, but the ``STEP``s begin when the last rank has come to its own: before, they waited for it."""
    rows = np.flatnonzero(plan.ops[:, 0] == Kind.STEP)
    if not len(rows) or not plan.barrier:
        return step
    firsts = rows[np.unique(plan.rank_of_op[rows], return_index=True)[1]]
    adjusted = step.copy()
    adjusted[0, firsts] = np.minimum(step[0, firsts].max(), step[1, firsts])
    return adjusted


def _consumers(plan: Plan, receives: NDArray[np.int64]) -> NDArray[np.int64]:
    """Id of the op that consumes each receive."""
    needed = dependencies(plan)
    consumer = np.full(len(plan), NOTHING, dtype=np.int64)
    for slot in range(needed.shape[1]):
        rows = np.flatnonzero(needed[:, slot] >= 0)
        consumer[needed[rows, slot]] = rows
    found: NDArray[np.int64] = consumer[receives]
    return found


def _hop_s(plan: Plan, times: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks = plan.placement.ranks
    hop_s = np.zeros((ranks, ranks))
    receives = np.flatnonzero(np.isin(plan.ops[:, 0], RECVS))
    if not len(receives):
        return hop_s
    sends, consumers = partners(plan)[receives], _consumers(plan, receives)
    posted = np.maximum(times[:, 0, sends], times[:, 0, receives])
    if plan.blocking:  # the receive itself waits
        delay, waited = times[:, 1, receives] - posted, np.ones(posted.shape, dtype=np.bool_)
    else:
        lead = consumers - plan.fused[consumers - 1]
        before = np.maximum(lead - 1, 0)
        only_started = np.isin(plan.ops[before, 0], (Kind.REDUCE_GRAD, *HOST))
        gone = np.where(only_started, times[:, 0, before], times[:, 1, before])
        delay, waited = times[:, 0, lead] - posted, times[:, 0, lead] - gone > WAITED_S
        for a, b in same_block(lead):  # a block waits for the later of its two messages
            waited[:, a] &= posted[:, a] > posted[:, b]
            waited[:, b] &= posted[:, b] >= posted[:, a]
    link = plan.rank_of_op[sends] * ranks + plan.rank_of_op[receives]
    for each in np.unique(link):
        seen = delay[:, link == each][waited[:, link == each]]
        if len(seen):
            hop_s[each // ranks, each % ranks] = max(0.0, float(np.median(seen)))
    return hop_s


def _arrivals(plan: Plan, start: Times, end: Times) -> Times:
    """Ends with those of messages set to when their consumer had them (a rank sees an arrival only when it looks).

    Blocking messages keep theirs: the rank waited for it.
    """
    if plan.blocking:
        return end
    receives = np.flatnonzero(np.isin(plan.ops[:, 0], RECVS))
    arrived = end.copy()
    if len(receives):
        seen = np.maximum(start[_consumers(plan, receives)], start[receives])
        arrived[receives] = seen
        arrived[partners(plan)[receives]] = seen
    return arrived


def _waited_for(plan: Plan, start: Times, end: Times) -> NDArray[np.int32]:
    """What each op waited for: its latest need, if its rank was free before."""
    needed = dependencies(plan)
    ready = np.where(needed >= 0, end[np.maximum(needed, 0)], -np.inf)
    latest = ready.argmax(axis=1)
    rows = np.arange(len(plan))
    free = np.zeros(len(plan))
    compute = ~np.isin(plan.ops[:, 0], POSTED)
    for a, b in zip(plan.first[:-1], plan.first[1:], strict=True):
        mine = np.flatnonzero(compute[a:b]) + a
        free[mine[1:]] = end[mine[:-1]]
    late = compute & (needed.max(axis=1) >= 0) & (start - free > WAITED_S)
    return np.where(late, needed[rows, latest], NOTHING).astype(np.int32)
