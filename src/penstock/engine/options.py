"""Texts such as ``recompute=selective,keep=1``: a name and options, which are the parameters of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from penstock.core.words import suggest

GIVEN = 2
"""The first parameters of a function, which are not options: the plan and its costs."""
WORDS = {"yes": True, "no": False}
"""How a switch is written."""


def options_of(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The options of a function by name: type and default of each.

    Example:
        >>> def shift(plan, costs, by: int = 1): ...
        >>> options_of(shift)
        {'by': (<class 'int'>, 1)}
    """
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[GIVEN:]
    return {one.name: (_bare(hints[one.name]), one.default) for one in parameters}


def read(text: str, table: Mapping[str, Callable[..., Any]]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that a text names, and its options.

    Args:
        text: ``NAME``, or ``NAME=VALUE,OPTION=VALUE,...``; a value without an option's name is that of the first one.
            Several numbers are joined by ``+``, switches are yes or no.
        table: functions by name.

    Raises:
        ValueError: an unknown name or option, one given twice, or a value of another type; names the nearest.

    Example:
        >>> def shift(plan, costs, by: int = 1, stages: tuple[int, ...] | None = None): ...
        >>> read("shift=2,stages=0+3", {"shift": shift})[1]
        {'by': 2, 'stages': (0, 3)}
    """
    name, _, rest = text.partition("=")
    if name not in table:
        raise ValueError(f"unknown pass {name!r}; {suggest(name, table)}")
    known = options_of(table[name])
    found: dict[str, Any] = {}
    for place, word in enumerate(rest.split(",") if rest else ()):
        option, equals, value = word.partition("=")
        if not equals and place == 0 and known:
            option, value = next(iter(known)), word
        elif option not in known:
            there = suggest(option, known) if known else "it has none"
            raise ValueError(f"{name} has no option {option!r}; {there}")
        if option in found:
            raise ValueError(f"{text}: {option} is given twice")
        found[option] = _value(value, known[option][0], f"{name}: {option}={value}")
    return table[name], found


def _bare(kind: Any) -> Any:
    """The type of an option that may be left out."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if NoneType in get_args(kind) else kind


def _value(text: str, kind: Any, where: str) -> Any:
    if get_origin(kind) is Literal or kind is bool:
        choices = WORDS if kind is bool else {choice: choice for choice in get_args(kind)}
        if text not in choices:
            raise ValueError(f"{where} is unknown; {suggest(text, choices)}")
        return choices[text]
    try:
        return tuple(int(word) for word in text.split("+")) if get_origin(kind) is tuple else kind(text)
    except ValueError:
        form = {int: "a whole number", float: "a number"}.get(kind, "whole numbers joined by +, for example 0+2")
        raise ValueError(f"{where}: give {form}") from None
