"""Strategies from scores to predictions: the promising ones of a grid, and the best of them by timelines."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.core.setup import Setup
from penstock.predict import Grid, scores
from penstock.predict.flying import exact_bytes
from penstock.predict.grid import together
from penstock.predict.held import Less
from penstock.predict.host import overfull
from penstock.predict.step import begun
from penstock.search.choice import Choice
from penstock.search.finer import less, too_heavy
from penstock.search.margins import OVER_ELSE, at_least_s, over_bytes, over_of
from penstock.search.space import Space, Split
from penstock.search.switches import siblings

Row = tuple[float, int, int, float]
"""Seconds that a strategy takes at least, its share and its row there, and its score."""
Watch = Callable[[int, Choice | None], bool]
"""Is told how many strategies were looked at, and of the best so far; says whether to look on."""
Tell = Callable[[str], bool]
"""Is told what is looked at; says whether to look on."""
T = TypeVar("T")
AT_ONCE = 24
"""Finalists that are predicted before it is looked whether others may be better."""
MOST_ROWS = 50_000
"""Strategies that are scored at once, about; bounds the memory."""
SLACK = 1.25
"""How many times the best score predictions that count are taken to be at most, until it is known."""
FINALISTS = 384
"""Most that are predicted."""
AHEAD = 256
"""Strategies whose memory is found at a time, by the order of their passes."""
ROUNDING = 1e-9
"""Of a device's memory: what is less is none."""
OPEN = 4096
"""Most strategies of which variants may be looked for."""


class Going:
    """Whether a search goes on, by what its watcher says."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.on, self.done = watch, True, 0

    def __call__(self, more: int, best: Sequence[Choice] = ()) -> bool:
        """Tell the watcher of so many more strategies."""
        self.done += more
        self.on = self.on and self.watch(self.done, best[0] if best else None)
        return self.on


def on(what: str) -> bool:
    """Say of anything that is told to look on."""
    return True


def told(tell: Callable[[T], bool], what: T) -> Watch:
    """Return a watch that tells what is looked at."""
    return lambda done, best: tell(what)


class Share(NamedTuple):
    """A part of the space, scored: the promising rows of its grid, their seconds, which fit by their scores, and how
    many there were.

    ``least_s``: what predictions are at least, and ``rest_s`` those of rows left out.
    ``open``: strategies of which variants may be better, and what these take at least. ``heavy``: those that need too
    much, and may not if some layers are made again.
    ``large``: all that need too much. ``tight``: with switches off, those that need too much with them on.
    """

    grid: Grid
    seconds: NDArray[np.float64]
    light: NDArray[np.bool_]
    least_s: NDArray[np.float64]
    considered: int
    impossible: int
    too_large: int
    too_slow: int
    scored: int
    rest_s: float
    open: tuple[Grid, NDArray[np.float64]]
    heavy: Grid
    large: Grid
    tight: Grid | None = None


class Final(NamedTuple):
    """The best choices, how many were predicted, whether no other can be better than the first, and seconds: strategies
    that take more at least change nothing of it."""

    choices: tuple[Choice, ...]
    predicted: int
    proven: bool
    reach_s: float


def most_bytes(space: Space, grid: Grid, headroom: float) -> float:
    """Return what a device may need by the score of any of some strategies that may fit."""
    return (1 - headroom) * (1 + float(over_bytes(grid).max(initial=0.0))) * space.cluster.device.memory_bytes


def grids(space: Space, shares: Iterable[Iterable[Split]]) -> Iterator[Grid]:
    """Give all strategies of some shares of a space's splits, some of them at a time."""
    some: list[Grid] = []
    for share in shares:
        some.append(space.grid(share))
        if sum(map(len, some)) >= MOST_ROWS:
            yield together(some)
            some = []
    if some:
        yield together(some)


def scored(space: Space, grid: Grid, headroom: float, top: int = 1, most_s: float = np.inf) -> list[Share]:
    """Return the promising strategies of a part of a space, those that cannot take more than ``most_s``: with switches
    on, and where that needs too much with them off."""
    found = [scored_grid(space, grid, headroom, top, less(space), most_s=most_s)]
    if (tight := found[0].tight) is not None:
        found.append(scored_grid(space, tight, headroom, top, less(space), most_s=most_s))
    return found


def scored_grid(
    space: Space,
    grid: Grid,
    headroom: float,
    top: int,
    less: Less = Less(),  # noqa: B008
    finer: bool = False,
    most_s: float = np.inf,
) -> Share:
    """Return the promising strategies of a grid; ``finer``: they are variants, of which there are no others."""
    over, room = over_bytes(grid), (1 - headroom) * space.cluster.device.memory_bytes
    within = most_bytes(space, grid, headroom), (1 + np.maximum(OVER_ELSE, over_of(grid, 1, 0))) * most_s
    found = scores(space.model, space.cluster, grid, space.stack, *within, less)
    found.seconds[found.needed_bytes > (1 + over) * room] = np.inf
    full = overfull(space.cluster.node_of(0), space.devices, found.host_bytes, found.disk_bytes, over)
    found.seconds[full] = np.inf
    least_s = np.maximum(at_least_s(grid, found.seconds), found.work_s)
    rows, light = _fastest(least_s, len(grid)), found.needed_bytes <= room
    most = len(grid) if finer else max(FINALISTS, top)
    enough = int(np.searchsorted(np.cumsum(light[rows]), most, side="right"))
    rows, rest = rows[:enough], rows[enough:]
    open_s = found.least_s / (1 + over_of(grid, 1, len(space.stack.vocabularies) - 1))
    open_s = np.maximum(open_s, found.chain_s)
    open_to = _fastest(open_s, OPEN + 1)
    timed, possible = int(np.isfinite(found.seconds).sum()), int(found.possible.sum())
    slow = int((found.slow & found.possible).sum())
    counts = (len(grid), len(grid) - possible, possible - slow - timed, slow, timed)
    variable = grid.rows(open_to), open_s[open_to]
    heavy = too_heavy(space, grid, found.needed_bytes, room) & np.isfinite(found.peak_bytes) & (not finer)
    sized = np.where(np.isfinite(found.peak_bytes), found.needed_bytes, np.inf)
    tight = None if finer else siblings(space, grid, sized, room)
    large = (found.needed_bytes > room) & found.possible & ~found.slow & (not finer)
    heavies = grid.rows(heavy), grid.rows(large), tight
    rest_s = float(least_s[rest].min(initial=np.inf))
    return Share(grid.rows(rows), found.seconds[rows], light[rows], least_s[rows], *counts, rest_s, variable, *heavies)


def enough_s(shares: Sequence[Share], top: int) -> float:
    """Return seconds that strategies beside some shares may take if they are to count, as far as scores tell."""
    least_s = np.sort(np.concatenate([share.least_s for share in shares]))
    many = 2 * max(top, AT_ONCE)
    if len(least_s) < many:
        return np.inf
    return max(float(least_s[many - 1]), SLACK * min(float(share.seconds.min(initial=np.inf)) for share in shares))


def _fastest(seconds: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """The rows of so many."""
    rows = np.flatnonzero(np.isfinite(seconds))
    return rows[np.argsort(seconds[rows], kind="stable")[:most]]


def finals(
    space: Space,
    shares: list[Share],
    top: int,
    headroom: float,
    at_once: int = 0,
    best_s: float = np.inf,
    going: Going | None = None,
    misfits: list[Grid] | None = None,
) -> Final:
    """Return the best choices; with ``best_s``, that one which is known takes, only better ones are looked for. So many
    are predicted ``at_once``; those that turn out not to fit go to ``misfits``."""
    at_once = at_once or AT_ONCE
    rows = [
        (float(least_s), place, row, float(share.seconds[row]))
        for place, share in enumerate(shares)
        for row, least_s in enumerate(share.least_s)
    ]
    rows.sort()
    found: list[Choice] = []
    done = seen = predicted = 0
    while done < len(rows) and predicted < max(FINALISTS, top):
        enough = np.isfinite(best_s) or len(found) >= min(top, at_once)
        if enough and rows[done][0] >= best_of_all(found, best_s):
            break
        if done >= seen:
            ahead = bisect_left(rows, (best_of_all(found, best_s),)) if enough else done + at_once
            seen = max(done + 1, min(ahead, done + AHEAD))
            too_large = _too_large(space, shares, rows[done:seen], headroom, misfits)
        batch = rows[done : min(done + at_once, seen)]
        for least_s, place, row, score_s in batch:
            if least_s >= best_s or (place, row) in too_large:
                continue
            most_s = min(best_s, found[top - 1].seconds if len(found) >= top else np.inf)
            made = predicted_of(space, shares[place].grid.setup(row), score_s, most_s)
            predicted += 1
            if made is not None and made.headroom >= headroom:
                insort(found, made, key=lambda choice: choice.seconds)
        done += len(batch)
        if going and found and not going(0, found):
            break
    left_s = min([share.rest_s for share in shares] + [row[0] for row in rows[done : done + 1]], default=np.inf)
    reach_s = rows[done - 1][0] if done else 0.0
    best_s = best_of_all(found, best_s)
    return Final(tuple(found[:top]), predicted, left_s == np.inf or left_s >= best_s, max(reach_s, best_s))


def _too_large(
    space: Space, shares: Sequence[Share], rows: Sequence[Row], headroom: float, misfits: list[Grid] | None
) -> set[tuple[int, int]]:
    """Which of some rows need more than there is, by the order of their passes; ``misfits`` get those that would fit by
    their scores."""
    room, found = (1 - headroom) * space.cluster.device.memory_bytes, set()
    for place, share in enumerate(shares):
        if not (mine := [row for _, where, row, _ in rows if where == place]):
            continue
        grid = share.grid.rows(mine)
        large = exact_bytes(space.model, space.cluster, grid, space.stack) > (1 + ROUNDING) * room
        found |= {(place, row) for row, over in zip(mine, large.tolist(), strict=True) if over}
        if misfits is not None and (large & share.light[mine]).any():
            misfits.append(grid.rows(large & share.light[mine]))
    return found


def best_of_all(found: Sequence[Choice], best_s: float = np.inf) -> float:
    """Return the seconds of the first of some choices, or of one that is known if that takes less."""
    return min(best_s, found[0].seconds) if found else best_s


def predicted_of(space: Space, setup: Setup, score_s: float = 0.0, most_s: float = np.inf) -> Choice | None:
    """Return a setup predicted with its timeline; ``None`` if it cannot be, its hosts lack memory, or
    it takes more than ``most_s``."""
    try:
        step = begun(space.model, space.cluster, setup, space.stack)
        slow = np.isfinite(most_s) and step.seconds_alone() > most_s
        found = None if slow else step.prediction()
        return Choice.of(setup, found, score_s) if found is not None and found.fits_host else None
    except ValueError:
        return None
