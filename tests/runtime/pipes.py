"""Small pipelines for the tests of the runtime: plans, modules and the executor of one rank."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from penstock.core.op import Kind, Op, Sends
from penstock.core.placement import NO_STAGE, Placement
from penstock.core.plan import Plan
from penstock.engine import check
from penstock.lower import add_sends, add_step, reduce_gradients
from penstock.runtime.execute import Executor, Overlap, in_turn
from penstock.runtime.messages import Boundary
from penstock.runtime.stage import Stage
from penstock.runtime.transport import Links
from penstock.schedules import SCHEDULES, build
from penstock.schedules.table import slices_of

WAYS: tuple[Sends, ...] = get_args(Sends)
WIDTH = 12
ROWS = 3
"""Rows of a micro-batch of the plain modules."""


def eager(r: int, p: int, m: int, v: int) -> list[Op]:
    """A user's lane: forwards in pairs, weights as late as can be, micro-batches backwards in reverse order."""
    lane = [Op(Kind.F, r, i) for i in range(m)]
    lane += [Op(Kind.I, r, i) for i in reversed(range(m))]
    return lane + [Op(Kind.W, r, i) for i in range(m)]


def vee_lane(r: int, p: int, m: int, v: int) -> list[Op]:
    """For a V placement: down and up again one micro-batch at a time, half of the backwards split."""
    down, up = r, 2 * p - 1 - r
    lane = []
    for i in range(m):
        lane += [Op(Kind.F, down, i), Op(Kind.F, up, i)]
        if i % 2:
            lane += [Op(Kind.I, up, i), Op(Kind.I, down, i)]
            lane += [Op(Kind.W, down, i - 1), Op(Kind.W, up, i)] if i == 1 else [Op(Kind.W, up, i)]
            lane += [Op(Kind.W, down, i)]
        elif i == 0:
            lane += [Op(Kind.B, up, i), Op(Kind.I, down, i)]
        else:
            lane += [Op(Kind.B, up, i), Op(Kind.B, down, i)]
    return lane + ([Op(Kind.W, down, 0)] if m == 1 else [])


def plan_of(name: str, ranks: int, micros: int, sends: Sends = "overlapped", step: bool = False) -> Plan:
    """A plan with sends of a named schedule (interleaved with two chunks), or of one of the lanes above."""
    if name == "eager":
        bare = build(eager, ranks, micros)
    elif name == "vee":
        bare = build(vee_lane, ranks, micros, 2, Placement.vee(ranks))
    else:
        slices = slices_of(SCHEDULES[name].lane, {})
        bare = build(name, ranks, micros // slices, 2 if SCHEDULES[name].chunks else 1)
    bare = reduce_gradients(bare)
    lowered = add_sends(bare, sends) if ranks > 1 else bare
    plan = add_step(lowered) if step else lowered
    check(plan)
    return plan


FEW = ["gpipe", "1f1b", "interleaved", "zb-h1", "chimera", "bitpipe", "eager", "vee"]
PLANS = [*(name for name, schedule in SCHEDULES.items() if schedule.gradient_equal), "eager", "vee"]
FEW_FIRST = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in PLANS]
"""All of them, most in the slow suite alone."""


class Block(nn.Module):
    """Linear, a norm and another linear; a foreign one hides them behind classes that nobody knows how to split."""

    def __init__(self, number: int, first: bool, last: bool, foreign: bool = False, inner: int = 20) -> None:
        super().__init__()
        linear, norm = (ForeignLinear, ForeignNorm) if foreign else (nn.Linear, nn.LayerNorm)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            self.up, self.norm, self.down = linear(WIDTH, inner), norm(inner), linear(inner, WIDTH)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        y = self.down(self.norm(self.up(x)).tanh())
        return y if target is None else (y - target).square().mean()


class ForeignLinear(nn.Linear):
    """A subclass may do anything in its forward: it cannot be split."""


class ForeignNorm(nn.LayerNorm):
    """As above."""


def blocks(parts: Sequence[int], count: int, dtype: torch.dtype = torch.float64, **options: Any) -> dict[int, Block]:
    return {n: Block(n, n == 0, n == count - 1, **options).to(dtype) for n in parts}


def blocks_on(plan: Plan, rank: int, dtype: torch.dtype = torch.float64, **options: Any) -> dict[int, nn.Module]:
    """The blocks of a rank's stages; replicas are equal."""
    place = plan.placement
    part = {s: place.part_of[s] for s in place.on(rank)}
    return {s: blocks([n], len(set(place.part_of)), dtype, **options)[n] for s, n in part.items()}


def rows(micros: int, dtype: torch.dtype = torch.float64, seed: int = 7) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and targets of the blocks."""
    maker = torch.Generator().manual_seed(seed)
    both = [torch.randn(ROWS, WIDTH, generator=maker, dtype=torch.float64).to(dtype) for _ in range(2 * micros)]
    return both[:micros], both[micros:]


def executor_of(
    plan: Plan,
    rank: int,
    modules: dict[int, nn.Module],
    carries: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    step: Callable[[int], None] | None = None,
    overlap: Overlap = in_turn,
    settle: Callable[[], bool] | None = None,
) -> Executor:
    """The executor of one rank; chains begin and end with stages that have none before and behind them."""
    place = plan.placement
    ends = {s: (place.prev[s] == NO_STAGE, place.next[s] == NO_STAGE) for s in modules}
    lengths = plan.slice_lengths
    stages = {s: Stage(m, *ends[s], carries, 1 / plan.micros, lengths=lengths) for s, m in modules.items()}
    links = Links(plan, rank) if plan.placement.ranks > 1 else None
    boundary = Boundary(carries, dtype, torch.device("cpu"), lengths)
    return Executor(plan, rank, stages, links, boundary, step, overlap=overlap, settle=settle)


def block_executor(plan: Plan, rank: int, dtype: torch.dtype = torch.float64, **options: Any) -> Executor:
    """The executor of a rank whose stages are blocks."""
    return executor_of(plan, rank, blocks_on(plan, rank, dtype, **options), (ROWS, WIDTH), dtype)
