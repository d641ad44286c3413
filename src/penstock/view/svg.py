"""Small charts as SVG inside a page: axes, points with names, bars. Colours of ink and lines are those of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import NamedTuple

WIDE, HIGH = 440.0, 280.0
"""Of a chart, in its own pixels; pages scale it, so that letters can be read where it is as wide as a phone."""
LEFT, RIGHT, TOP, BOTTOM = 66.0, 12.0, 14.0, 40.0
LETTER, CAPITAL = 6.6, 9.0
"""How wide a letter is, about, and the widest of the capitals that name points."""
FEW = 6
"""Ticks of an axis, at most about."""
SPOTS = (
    *((2, -6, "start"), (-2, -6, "end"), (2, 14, "start"), (-2, 14, "end"), (2, -18, "start"), (-2, 26, "end")),
    *((2, 26, "start"), (2, 38, "start"), (2, 50, "start"), (2, 62, "start")),
)
"""Where the name of a point may stand, from the rim of the point, and on which side the text begins."""


@dataclass(frozen=True)
class Axis:
    """From values to pixels.

    Args:
        name: what it measures.
        low, high: values at the ends.
        start, end: pixels there.
        log: whether equal ratios are equally far.
        word: of a value at a tick.
        fixed: ticks, in place of round values.
    """

    name: str
    low: float
    high: float
    start: float
    end: float
    log: bool
    word: Callable[[float], str]
    fixed: Sequence[float] = ()

    def at(self, value: float) -> float:
        """Pixels of a value."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Values with a mark.

        >>> Axis("time", 6.5, 14.2, 0, 100, False, str).ticks(), Axis("rate", 3, 400, 0, 100, True, str).ticks()
        ([8.0, 10.0, 12.0, 14.0], [5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
        """
        if self.fixed:
            return [*self.fixed]
        if self.log and self.high / self.low > 3:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 300 else (1,)
            found = [step * 10.0**power for power in powers for step in steps]
            inside = [value for value in found if self.low <= value <= self.high]
            return inside[:: -(-len(inside) // (FEW + 1))]
        step = _round_step((self.high - self.low) / FEW)
        return [step * count for count in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is as large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(scale * power for scale in (1, 2, 5, 10) if scale * power >= least * (1 - 1e-9))


def across(
    name: str, values: Sequence[float], word: Callable[[float], str], log: bool = False, fixed: bool = False
) -> Axis:
    """The horizontal axis of a chart that holds these values, with a mark at each if they are ``fixed``."""
    low, high = _around(values, log)
    return Axis(name, low, high, LEFT, WIDE - RIGHT, log, word, sorted(set(values)) if fixed else ())


def upwards(name: str, values: Sequence[float], word: Callable[[float], str], log: bool = False) -> Axis:
    """The vertical axis, likewise."""
    low, high = _around(values, log)
    return Axis(name, low, high, HIGH - BOTTOM, TOP, log, word)


def _around(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        more = max(1.15, (high / low) ** 0.08)
        return low / more, high * more
    more = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return max(low - more, 0.0 if low >= 0 else low - more), high + more


Box = tuple[float, float, float, float]
"""Least x, least y, greatest x, greatest y."""


class Dot(NamedTuple):
    """A point: its place, a short name beside it, words for the pointer, whether it is on the front."""

    x: float
    y: float
    name: str
    words: str
    front: bool = True
    colour: str = ""
    radius: float = 4.5


def root(inside: Iterator[str], words: str, high: float = HIGH) -> str:
    """A chart; ``words`` say what it shows to those who do not see it."""
    body = "".join(inside)
    return f'<svg viewBox="0 0 {WIDE:g} {high:g}" role="img" aria-label="{escape(words)}">{body}</svg>'


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Words at a place."""
    of = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of}>{escape(words)}</text>'


def line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through pixels."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def frame(x: Axis, y: Axis) -> Iterator[str]:
    """Grid, marks and names of both axes."""
    for value in x.ticks():
        at = x.at(value)
        yield line([(at, y.start), (at, y.end)], "grid")
        yield text(at, y.start + 15, x.word(value), "middle", "tick")
    for value in y.ticks():
        at = y.at(value)
        yield line([(x.start, at), (x.end, at)], "grid")
        yield text(x.start - 6, at + 4, y.word(value), "end", "tick")
    yield text((x.start + x.end) / 2, HIGH - 6, x.name, "middle", "axis")
    yield f'<text class="axis" text-anchor="middle" transform="translate(12 {(y.start + y.end) / 2:.1f}) rotate(-90)">'
    yield f"{escape(y.name)}</text>"


def scatter(dots: Sequence[Dot], x: Axis, y: Axis, words: str) -> str:
    """A chart of points; those on the front are filled, and stairs join them: nothing is below."""
    return root(_scatter(dots, x, y), words)


def _scatter(dots: Sequence[Dot], x: Axis, y: Axis) -> Iterator[str]:
    yield from frame(x, y)
    front = sorted((dot.x, dot.y) for dot in dots if dot.front)
    stairs = [place for before, after in pairwise(front) for place in (before, (after[0], before[1]))]
    if front:
        yield line([(x.at(a), y.at(b)) for a, b in [*stairs, front[-1]]], "front")
    yield from marked([(x.at(dot.x), y.at(dot.y), dot) for dot in dots])


def marked(places: Sequence[tuple[float, float, Dot]], besides: Sequence[Box] = ()) -> Iterator[str]:
    """Points at pixels, and their names where there is room ``besides`` what stands there."""
    for at_x, at_y, dot in places:
        kind = "dot" if dot.front else "dot beaten"
        colour = f' style="fill:{dot.colour}"' if dot.colour else ""
        yield f'<circle class="{kind}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="{dot.radius:.1f}"{colour}>'
        yield f"<title>{escape(dot.words)}</title></circle>"
    taken = [*besides]
    taken += [
        (at_x - dot.radius, at_y - dot.radius, at_x + dot.radius, at_y + dot.radius) for at_x, at_y, dot in places
    ]
    for at_x, at_y, dot in places:
        for aside, down, anchor in SPOTS if dot.name else ():
            right = aside + (dot.radius if aside > 0 else -dot.radius)
            wide = sum(CAPITAL if letter.isupper() else LETTER for letter in dot.name)
            left = at_x + right - (wide if anchor == "end" else 0)
            box = (left, at_y + down - 9, left + wide, at_y + down + 2)
            if box[0] >= LEFT - 10 and box[2] <= WIDE and not any(touch(box, other) for other in taken):
                taken.append(box)
                if not -20 < down < 20:
                    yield line([(at_x, at_y), (at_x + right, at_y + down - 4)], "leader")
                yield text(at_x + right, at_y + down, dot.name, anchor, "name" if dot.front else "name beaten")
                break


def touch(one: Box, other: Box) -> bool:
    """Whether two boxes have room in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
