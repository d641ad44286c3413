"""What the text behind ``--costs`` means: four numbers, the name of a shipped profile, or a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.core.costs import Costs
from penstock.core.files import read_text
from penstock.core.placement import Placement
from penstock.core.words import suggest
from penstock.cost.profiles import LETTERS, Profile, profiles
from penstock.cost.spread import exactly, layers_of, stated

FORMS = 'write Costs.to_dict(), or {"per": "rank", "F": [...], "I": [...], "W": [...], "link": 0}'


@dataclass(frozen=True)
class Pricing:
    """Costs of any placement, and what they were made from.

    Args:
        on: the costs of a placement; a ``ValueError`` if they do not fit it. Where ``layers`` are known, also with so
            many on each model part.
        figures: for JSON: the numbers F, I, W and link, or what the file holds.
        w_share: for JSON: one share, or one per stage.
        layers: how many layers the times are of; 0 if they are of ranks or stages.
    """

    on: Callable[..., Costs]
    figures: Any
    w_share: float | list[float]
    layers: int = 0


def pricing(text: str, w_share: float | None = None) -> Pricing:
    """Read ``F,I,W,link``, the name of a profile, or a JSON file.

    Args:
        text: see above; a file holds either ``Costs.to_dict``, for placements of its number of stages, or times per
            rank or per layer, for all (see ``spread.stated``).
        w_share: share of a micro-batch's activations that W needs after I; ``None`` means what a file says, else 1.

    Raises:
        ValueError: none of these, or figures out of range; the message names the value and the nearest choice.
        OSError: the file cannot be read.

    Example:
        >>> place = Placement.loop(4, 2)
        >>> pricing("3,2,1,0.5").on(place).seconds[0].tolist() == pricing("3,2,1,0.5", 1).on(place).seconds[0].tolist()
        True
        >>> pricing("6.2b").figures
        [29.718, 29.444, 19.927, 0.527]
        >>> pricing("6.3B")
        Traceback (most recent call last):
        ValueError: --costs 6.3B: no such profile or file; did you mean '6.2B'?
    """
    if w_share is not None and not 0 <= w_share <= 1:
        raise ValueError(f"--w-share {w_share:g}: a share lies between 0 and 1")
    if "," in text:
        return _uniform(_numbers(text), w_share)
    found = _profile(text)
    if found is not None:
        return _uniform(found.numbers, w_share)
    if not Path(text).is_file():
        raise ValueError(f"--costs {text}: {_unknown(text)}")
    return _from_file(Path(text), w_share)


def layered(one: Pricing, ranks: int, layers: int) -> Pricing:
    """Times of equal ranks as those of equal layers, which any cut can share out.

    Raises:
        ValueError: the times are not four numbers.

    Example:
        >>> pricing_of_layers = layered(pricing("4,4,4,0"), ranks=2, layers=8)
        >>> pricing_of_layers.on(Placement.loop(2), [5, 3]).seconds[0].tolist()
        [5.0, 3.0]
    """
    if not (isinstance(one.figures, list) and isinstance(one.w_share, float)):
        raise ValueError(f"layers={layers} goes with four numbers or a profile; a file says itself how many there are")
    if layers < 1:
        raise ValueError(f"layers={layers}; give 1 or more")
    f, i, w, link = one.figures
    each = {letter: seconds * ranks / layers for letter, seconds in zip(LETTERS, (f, i, w), strict=False)}
    return replace(one, on=stated({"per": "layer", "layers": layers, **each, "link": link}, one.w_share), layers=layers)


def whole_bytes(placement: Placement, costs: Costs) -> float:
    """Activations of one micro-batch on all ranks together: the peak of 1F1B's first rank where ranks are equal.

    Example:
        >>> place = Placement.both_ways(4)
        >>> whole_bytes(place, Costs.uniform(place))
        4.0
    """
    return sum(float(costs.saved_bytes[s]) for s, chain in enumerate(placement.chain_of) if chain == 0)


def _profile(text: str) -> Profile | None:
    """The profile of a name in any case; of a model's first, also with its micro-batches behind (6.2B-m24)."""
    shipped = profiles()
    names = {f"{name}-m{one.micros}".lower(): one for name, one in shipped.items()}
    return (names | {name.lower(): one for name, one in shipped.items()}).get(text.lower())


def _uniform(numbers: tuple[float, float, float, float], w_share: float | None) -> Pricing:
    share = 1.0 if w_share is None else w_share
    return Pricing(lambda place: Costs.uniform(place, *numbers, w_share=share), list(numbers), share)


def _numbers(text: str) -> tuple[float, float, float, float]:
    try:
        f, i, w, link = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--costs {text}: give four numbers F,I,W,link, for example 1,1,1,0") from None
    for letter, value in zip(LETTERS, (f, i, w, link), strict=True):
        if not 0 <= value < float("inf"):
            raise ValueError(f"--costs {text}: {letter} is {value:g}; times are finite and not negative")
    return f, i, w, link


def _unknown(text: str) -> str:
    names = list(profiles())
    if Path(text).suffix == ".json":
        near = [str(found) for found in sorted(Path(text).parent.glob("*.json"))]
        return f"no such file; {suggest(text, near) if near else 'profiles are ' + ', '.join(names)}"
    try:
        float(text)
    except ValueError:
        return f"no such profile or file; {suggest(text, names)}"
    return "give four numbers F,I,W,link, for example 1,1,1,0"


def _from_file(path: Path, w_share: float | None) -> Pricing:
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: holds no JSON object; {FORMS}")
    if w_share is not None and "w_share" in data:
        raise ValueError(f"--w-share {w_share:g}: {path} says w_share too; leave one out")
    share = 1.0 if w_share is None else w_share
    try:
        on = exactly(data) if "seconds" in data else stated(data, share)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    layers = 0 if "seconds" in data else layers_of(data)
    return Pricing(_named(path, on), data, data.get("w_share", share), layers)


def _named(path: Path, on: Callable[..., Costs]) -> Callable[..., Costs]:
    """The same with the file's name before each complaint."""

    def priced(placement: Placement, *cut: Sequence[int]) -> Costs:
        try:
            return on(placement, *cut)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    return priced
