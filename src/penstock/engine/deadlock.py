"""Lanes that wait for each other: who waits for what, and what to move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import dependencies, predecessors, rings
from penstock.core.op import MESSAGES, Kind
from penstock.core.plan import Plan
from penstock.core.play import Played
from penstock.engine.problem import Problem, name


def deadlock(plan: Plan, played: Played) -> list[Problem]:
    """The ring of ranks that wait for each other after ``play``, as one problem; none if all ran to their end."""
    waiting = {
        r: int(at) for r, at in enumerate(played.stopped_at) if at < plan.first[r + 1] and not _done(plan, r, played)
    }
    if not waiting:
        return []
    needed = np.column_stack([dependencies(plan), predecessors(plan)])
    ring_of = rings(plan)
    lacks = {r: _lacking(plan, row, needed, ring_of, played) for r, row in waiting.items()}
    ring = _from_best(_ring(plan, lacks), plan, waiting, lacks, needed)
    parts = [
        f"rank {r} waits at {name(plan, waiting[r])} for {name(plan, lacks[r])}, "
        f"which stands behind {name(plan, _ahead(plan, waiting, lacks[r]))} on rank {plan.rank_of_op[lacks[r]]}"
        for r in ring
    ]
    want = lacks[ring[0]]
    ahead = name(plan, _ahead(plan, waiting, want))
    fix = f"move {name(plan, want)} before {ahead} on rank {plan.rank_of_op[want]}"
    return [Problem(ring[0], name(plan, waiting[ring[0]]), "deadlock: " + ", ".join(parts), fix)]


def _ahead(plan: Plan, waiting: dict[int, int], want: int) -> int:
    """Id of the op behind which a wanted op stands."""
    return waiting.get(int(plan.rank_of_op[want]), want)


def _from_best(
    ring: list[int], plan: Plan, waiting: dict[int, int], lacks: dict[int, int], needed: NDArray[np.int32]
) -> list[int]:
    """The ring begun where moving the wanted op helps most.

    An op is best moved before one that comes later in every order, that is, has more to wait for in a row. There is one
    in each ring of computes, and following such advice makes lanes smaller in the order of these depths, so it ends.
    """
    depth = _depth(needed)
    gain = [depth[_ahead(plan, waiting, lacks[r])] - depth[lacks[r]] for r in ring]
    best = int(np.argmax(gain))
    return ring[best:] + ring[:best]


def _depth(needed: NDArray[np.int32]) -> NDArray[np.int64]:
    """Most ops in a row that each op waits for, whatever the lanes."""
    depth = np.zeros(len(needed), dtype=np.int64)
    for _ in range(len(needed)):
        deeper = np.where(needed >= 0, depth[np.maximum(needed, 0)] + 1, 0).max(axis=1)
        if (deeper == depth).all():
            break
        depth = deeper
    return depth


def _done(plan: Plan, rank: int, played: Played) -> bool:
    """Whether a rank stopped only because others did not let the closing steps begin."""
    return bool(plan.ops[played.stopped_at[rank], 0] == Kind.STEP)


def _lacking(plan: Plan, row: int, needed: NDArray[np.int32], ring_of: NDArray[np.int32], played: Played) -> int:
    """Id of the op that a stopped op waits for and that has not begun; of a message that is posted, its other end."""
    open_rows = [row + 1] * bool(plan.fused[row])
    if plan.sends == "batched":
        first = int(plan.first[plan.rank_of_op[row]])
        open_rows += [x for x in range(row - 1, first - 1, -1) if plan.ops[x, 0] in MESSAGES and not _ended(x, played)]
    for x in (row, *open_rows):
        for d in needed[x]:
            if d >= 0 and not _ended(d, played) and ring_of[x] != d:
                return _not_begun(int(d), ring_of, played)
    return next(end for x in (row, *open_rows) if (end := _not_begun(int(ring_of[x]), ring_of, played)) >= 0)


def _ended(row: int | np.intp, played: Played) -> bool:
    return not np.isnan(played.end_s[row])


def _not_begun(row: int, ring_of: NDArray[np.int32], played: Played) -> int:
    """An op that has not begun among those that end with one; -1 if there is none."""
    at = row
    while at >= 0:
        if np.isnan(played.start_s[at]):
            return at
        at = int(ring_of[at])
        if at == row:
            break
    return -1


def _ring(plan: Plan, lacks: dict[int, int]) -> list[int]:
    """Ranks that wait for each other in a ring."""
    seen: list[int] = []
    rank = next(iter(lacks))
    while rank not in seen:
        seen.append(rank)
        rank = int(plan.rank_of_op[lacks[rank]])
        if rank not in lacks:
            return seen
    return seen[seen.index(rank) :]
