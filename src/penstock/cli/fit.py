"""What to take instead of a plan that needs too much memory."""

from __future__ import annotations

from dataclasses import replace

from penstock.cli.tries import Candidate, Sizes, attempt, candidates
from penstock.schedules import SCHEDULES
from penstock.schedules.task import seconds_of


def fitting(name: str, chunks: int, sizes: Sizes) -> str:
    """The fastest other schedule that fits, else the most micro-batches with which this one does, as words.

    Schedules with slices are left out: what a slice takes is assumed, not known.

    Args:
        name: the schedule that does not fit, as the user gave it.
        chunks: its chunks per rank.
        sizes: the sizes, the limit and the objective; the advice may name any number of chunks.
    """
    tried = candidates(replace(sizes, chunks=None))
    fit = [one for one in tried if one.timeline is not None and one.timeline.plan.slices == 1]
    if fit:
        best = min(fit, key=lambda one: _rank(one, sizes))
        return f"{best} fits with {best.peak:.4g}"
    fewer = _most_micros(name, chunks, sizes)
    if fewer:
        return f"{name} fits with --micros {fewer}"
    return f"nothing fits less than {1 / sizes.ranks:.4g}, one micro-batch"


def _rank(one: Candidate, sizes: Sizes) -> tuple[float, int]:
    assert one.timeline is not None
    return seconds_of(one.timeline, sizes.objective), one.chunks


def _most_micros(name: str, chunks: int, sizes: Sizes) -> int:
    """Most micro-batches that fit, 0 if none do; sought where the schedule can be built, peaks never fall with more."""
    step = sizes.ranks if name in SCHEDULES and SCHEDULES[name].valid(sizes.ranks, 1, chunks) else 1
    low, high = 0, -(-sizes.micros // step)
    while high - low > 1:
        middle = (low + high) // 2
        fits = attempt(name, chunks, {}, replace(sizes, micros=middle * step)).timeline is not None
        low, high = (middle, high) if fits else (low, middle)
    return low * step
