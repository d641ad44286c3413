"""What a user fixes or excludes of a strategy: fields of a setup by name, each with the values it may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import groupby
from typing import Any, get_type_hints

from penstock.core.disks import DISKS
from penstock.core.mesh import order_of
from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES, WAYS
from penstock.core.words import spans_of, suggest, yes_or_no
from penstock.predict.grid import CHOICES, COUNTS, NUMBERS
from penstock.schedules import SCHEDULES
from penstock.schedules.table import options_of

COLUMNS = (*NUMBERS, *CHOICES)
SEARCHED = (*COLUMNS, "offload", "optimizer_offload", "weight_offload", "disk")
"""Fields that are searched where nobody fixes them; all others are as a setup has them unless they are fixed."""
NAMES = ("adapter_on",)
"""Fields whose one value is a list of operators."""
RECOMPUTE = ("none", "selective", "full")
SHORT = {"micro_batch": "micro", "vpp": "chunks"}
MOST_VALUES = 100_000
"""Of one range."""
_TYPES = get_type_hints(Setup)
Wished = str | Iterable[str] | Mapping[str, Any] | None
"""As users write it."""
Wishes = dict[str, tuple[Any, ...]]
"""Field -> the values it may have, or may not."""


def wishes(given: Wished) -> Wishes:
    """Return what was wished, by fields of a setup.

    Args:
        given: ``"tp=2..8,pp=4,recompute=none/full"``, several of these, or a mapping of a field to a value or values.

    Raises:
        ValueError: an unknown field, or a value that it cannot have.

    >>> wishes("tp=2..4,recompute=none/full,sp=yes")
    {'tp': (2, 3, 4), 'recompute': ('none', 'full'), 'sp': (True,)}
    >>> wishes("adapter_on=attention.qkv+mlp"), wishes({"adapter_on": ()})
    ({'adapter_on': (('attention.qkv', 'mlp'),)}, {'adapter_on': ((),)})
    """
    if isinstance(given, Mapping):
        pairs = [(name, _values(name, value)) for name, value in given.items()]
    else:
        words = [given] if isinstance(given, str) else given or ()
        pairs = [_read(part.strip()) for word in words for part in word.split(",") if part.strip()]
    found: Wishes = {}
    for name, values in pairs:
        field = known_field(name)
        found[field] = (*found.get(field, ()), *(_possible(field, _checked(field, value)) for value in values))
    return found


def known_field(name: str) -> str:
    """Return the field of a setup that is called so.

    Raises:
        ValueError: none is, or it cannot be wished.
    """
    field = name.strip().lstrip("-").replace("-", "_")
    field = SHORT.get(field, field)
    if field in ("seq", "batch"):
        raise ValueError(f"{name} is what is asked, no choice; give --{field}")
    names = [each.name for each in fields(Setup) if each.name not in ("seq", "batch")]
    if field not in names:
        raise ValueError(f"{name!r} is no field of a strategy; {suggest(name, [*names, *SHORT])}")
    return field


def _read(part: str) -> tuple[str, tuple[Any, ...]]:
    name, equals, text = part.partition("=")
    if not equals or not text:
        raise ValueError(f"{part!r} fixes nothing; write tp=8, tp=2..8 or recompute=none/full")
    field = known_field(name)
    return field, tuple(value for word in text.split("/") for value in _spread(field, word.strip()))


def _spread(field: str, word: str) -> Iterable[Any]:
    """The values of a word, a range for whole numbers."""
    spans = spans_of(word, least=0) if _TYPES[field] is int else None
    if spans is None:
        return (word,)
    ((low, high),) = spans
    if not low <= high < low + MOST_VALUES:
        wrong, last = ("is an empty range", low) if high < low else ("has too many values", low + MOST_VALUES - 1)
        raise ValueError(f"{field}={word} {wrong}; write {field}={min(low, high)}..{last}")
    return range(low, high + 1)


def _values(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, list | tuple) and (
        (name in COUNTS and all(isinstance(each, int) for each in value))
        or (name in NAMES and all(isinstance(each, str) for each in value))
    ):
        return (tuple(value),)
    return tuple(value) if isinstance(value, list | tuple | set | range) else (value,)


def _checked(field: str, value: Any) -> Any:
    """A value of a field, from text too."""
    kind = _TYPES[field]
    if field == "schedule":
        return _schedule(str(value))
    if field == "recompute":
        return _recompute(str(value))
    if field == "order":
        return order_of(str(value))
    if field in NAMES:
        return tuple(value.split("+")) if isinstance(value, str) else tuple(value)
    if field == "offload" and isinstance(value, str) and not value.replace(".", "", 1).isdecimal():
        return tuple(value.split("+"))
    if field in COUNTS:
        some = (value,) if isinstance(value, int) else value
        return layers_of(some, field) if isinstance(some, str) else tuple(some)
    known = WAYS if field in SWITCHES else tuple(DISKS) if field == "disk" else (value,)
    if value not in known:
        raise ValueError(f"{field}={value!r} is unknown; {suggest(str(value), known)}")
    if kind is bool:
        return yes_or_no(str(value), f"{field}={value}")
    try:
        return value if not isinstance(value, str) else int(value) if kind is int else _number(kind, value)
    except ValueError:
        raise ValueError(f"{field}={value} is no {'whole ' if kind is int else ''}number") from None


def _possible(field: str, value: Any) -> Any:
    """The value, if a setup can have it where nothing else is in its way."""
    if isinstance(value, int | float):
        ranks = max(1, value) if isinstance(value, int) else 1
        alone: dict[str, Any] = {"seq": 1, "batch": ranks * ranks, "dp": ranks, "precision": "mxfp8"} | {field: value}
        alone |= {"cp": 2 * value} if field == "cp_inner" and value else {}
        Setup(**alone)
    return value


def _number(kind: Any, value: str) -> Any:
    return value if kind is str else float(value)


def _schedule(name: str) -> str:
    """A schedule that can be scored."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule={name} is unknown; {suggest(name, SCHEDULES)}")
    if not can_be_planned(name):
        names = ", ".join(each for each in SCHEDULES if can_be_planned(each))
        raise ValueError(f"schedule={name} cannot be planned yet; choose from {names}")
    return name


def can_be_planned(schedule: str) -> bool:
    """Return whether a schedule trains as one process would, with one copy of the weights and whole micro-batches."""
    one = SCHEDULES[schedule]
    return one.gradient_equal and one.copies == 1 and "slices" not in options_of(one.lane)


EMPTY = {"stage_layers": "even", "recompute_layers": "none"}
"""Words for no numbers, by field."""


def layers_of(text: str, field: str = "stage_layers") -> tuple[int, ...]:
    """Return the layers of each stage by a text, none for ``even``, or for ``none`` of ``recompute_layers``.

    Raises:
        ValueError: it is no such text.

    >>> layers_of("7+2*9+7"), layers_of("even")
    ((7, 9, 9, 7), ())
    """
    if text == EMPTY[field]:
        return ()
    found: list[int] = []
    try:
        for word in text.split("+"):
            times, star, count = word.rpartition("*")
            found += [int(count)] * (int(times) if star else 1)
    except ValueError:
        raise ValueError(
            f"{field}={text}: write {EMPTY[field]}, or layers of each stage as 7+9+9+7 or 7+2*9+7"
        ) from None
    return tuple(found)


def layers_text(sizes: Iterable[int]) -> str:
    """Return the text of which ``layers_of`` gives the layers of each stage.

    >>> layers_text((7, 9, 9, 7)), layers_text(())
    ('7+2*9+7', 'even')
    """
    runs = [(size, len([*same])) for size, same in groupby(sizes)]
    return "+".join(f"{times}*{size}" if times > 1 else str(size) for size, times in runs) or "even"


def _recompute(text: str) -> str | tuple[str, ...]:
    """A word, or operators joined by ``+``."""
    names = tuple(text.split("+"))
    return text if text in RECOMPUTE or not text.count(".") else names
