"""The verb ``length_plans``: what sequences of many lengths take, padded, packed, balanced, and in flexible groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from penstock.core.lengths import Ints, Lengths
from penstock.core.setup import Setup
from penstock.predict.paces import Paces, paces
from penstock.search.finals import Tell, on
from penstock.search.length_ways import WAYS, Laid, bound_s
from penstock.search.planner import HEADROOM
from penstock.search.space import Space

BATCHES = 4
"""Batches that are drawn from the lengths; figures are their means."""
TRIED = 3
"""Setups that are laid out for each way, those with the least bounds."""
CHOSEN = ("tp", "dp", "sp", "zero", "recompute")
"""Fields that a setup is chosen by, or that may be fixed; all others are as without a pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPlan:
    """A way to put sequences on ranks, with the setup on which it is fastest; figures are means over the batches.

    ``setup`` has one context rank; ``bound_s``: what no way is faster than with any of the setups; ``error``: of the
    law of seconds by lengths, the largest at the predictions that it was made from.
    """

    name: str
    setup: Setup
    seconds: float
    tokens_per_s: float
    padding: float
    busy: float
    micros: float
    degrees: Mapping[int, float]
    bound_s: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthsPlanned:
    """Ways to put sequences on ranks, in the order of ``WAYS``; those that do not fit are left out.

    ``lengths``: as they are trained, ``cut_share`` of them cut. ``longest``: tokens of the longest drawn. ``tokens``:
    of a step's sequences, the mean over ``batches``. ``stopped``: the search ended early, before all ways were tried.
    """

    lengths: Lengths
    longest: int
    cut_share: float
    batches: int
    tokens: float
    plans: tuple[LengthPlan, ...]
    stopped: bool = False


def length_plans(space: Space, lengths: Lengths, *, headroom: float = HEADROOM, tell: Tell = on) -> LengthsPlanned:
    """Return what a step with sequences of many lengths takes.

    Args:
        space: what there is to choose from; its ``seq`` is the longest sequence (longer ones are cut to it), its batch
            the sequences of a step. There is no pipeline, and context ranks are grouped as each way does.
        lengths: how many tokens sequences have.
        headroom: share of a device's memory that stays free.
        tell: is called with what is looked at; the search ends with what is known when it says ``False``.

    Raises:
        ValueError: no setup without a pipeline has room for the longest sequence, none is left to choose from, or
            nothing is known when the search ends.

    >>> from penstock.search.space import space_of
    >>> space = space_of("gpt2-xl", "h100:4", seq=512, batch=256, fix="tp=1,recompute=none,zero=1")
    >>> found = length_plans(space, Lengths.read("wikipedia"))
    >>> [one.name for one in found.plans]
    ['padded', 'packed', 'packed evenly', 'flexible groups', 'free groups']
    >>> found.plans[0].tokens_per_s < found.plans[1].tokens_per_s < found.plans[3].tokens_per_s
    True
    """
    trained, share = lengths.cut(space.base.seq)
    drawn = [trained.draw(space.base.batch, number) for number in range(BATCHES)]
    longest = max(int(batch.max()) for batch in drawn)
    each = paces(space.model, space.cluster, space.stack, _setups(space), longest=space.base.seq, headroom=headroom)
    each = [replace(one, by_degree={d: p for d, p in one.by_degree.items() if not space.bars(cp=d)}) for one in each]
    fitting = [one for one in each if any(pace.most_tokens >= longest for pace in one.by_degree.values())]
    if not fitting:
        devices = f"{space.devices} device{'s' * (space.devices > 1)}"
        raise ValueError(
            f"no setup without a pipeline has room for a sequence of {longest:,} tokens on {devices}; give more "
            "devices, or a smaller --seq to which longer sequences are cut"
        )
    bounds = [[bound_s(one, batch) for batch in drawn] for one in fitting]
    order = np.argsort([sum(row) for row in bounds], kind="stable")[:TRIED].tolist()
    tokens = float(np.mean([batch.sum() for batch in drawn]))
    tried, least = [fitting[place] for place in order], float(np.mean(np.min(bounds, axis=0)))
    made = [_plan(name, tried, drawn, trained.longest, tokens, least) for name in WAYS if tell(name)]
    plans, stopped = tuple(one for one in made if one is not None), len(made) < len(WAYS)
    if stopped and not plans:
        raise ValueError("stopped before a way to put sequences on ranks was tried; nothing is known yet")
    return LengthsPlanned(
        lengths=trained, longest=longest, cut_share=share, batches=BATCHES, tokens=tokens, plans=plans, stopped=stopped
    )


def _setups(space: Space) -> list[Setup]:
    """Setups without pipeline and with one context rank, one micro-batch a step."""
    for name, values in space.fixed.items():
        plain = getattr(space.base, name)
        if name not in CHOSEN and any(value != plain for value in values):
            raise ValueError(
                f"{name}={'/'.join(map(str, values))}: sequences of many lengths are planned with {name}={plain}"
            )
    wanted = {"zero": space.zero_stages(1), "recompute": ("none", "full")}
    zeros, recomputes = (
        [v for v in space.fixed.get(name, free) if not space.bars(**{name: v})] for name, free in wanted.items()
    )
    sp = not space.bars(sp=True) and space.fixed.get("sp", (True,))[0]
    splits = replace(space, fixed=space.fixed | {"pp": (1,), "cp": (1,)}).splits(any_batch=True)
    found = [
        replace(space.base, batch=dp, tp=tp, dp=dp, sp=bool(sp and tp > 1), zero=zero, recompute=recompute)
        for (tp, _, _, dp), zero, recompute in product(splits, zeros, recomputes)
    ]
    if not found:
        raise ValueError(f"no setup is left{space.alone}; fix or exclude less")
    return found


def _plan(
    name: str, tried: list[Paces], drawn: list[Ints], width: int, tokens: float, least_s: float
) -> LengthPlan | None:
    """A way on the setup on which it is fastest over all batches."""
    best: tuple[float, Paces, list[Laid]] | None = None
    for one in tried:
        laid = [WAYS[name](one, batch, width) for batch in drawn]
        some = [each for each in laid if each is not None]
        seconds = float(np.mean([each.seconds for each in some])) if len(some) == len(drawn) else np.inf
        if np.isfinite(seconds) and (best is None or seconds < best[0]):
            best = seconds, one, some
    if best is None:
        return None
    seconds, one, some = best
    degrees = {degree for each in some for degree in each.degrees}
    return LengthPlan(
        name=name,
        setup=one.setup,
        seconds=seconds,
        tokens_per_s=tokens / seconds,
        padding=float(np.mean([each.padding for each in some])),
        busy=float(np.mean([each.busy for each in some])),
        micros=float(np.mean([each.micros for each in some])),
        degrees={d: float(np.mean([each.degrees.get(d, 0.0) for each in some])) for d in sorted(degrees)},
        bound_s=least_s,
        error=max(one.by_degree[degree].error for degree in degrees),
    )
