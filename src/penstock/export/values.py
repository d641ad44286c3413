"""Values of another framework's file, checked as they are taken out of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
WORDS: Mapping[type, str] = {int: "whole number", float: "number", str: "text", list: "list", dict: "table"}


def value(of: Mapping[str, Any], key: str, missing: T) -> T:
    """Return a value of the same kind as ``missing``, which stands for one that is not there.

    Raises:
        ValueError: it is of another kind.

    >>> value({"stage": 3}, "stage", 0), value({}, "ratio", 1.0)
    (3, 1.0)
    """
    found, kind = of.get(key, missing), type(missing)
    right = isinstance(found, int | float if kind is float else kind)
    if not right or (isinstance(found, bool) and kind is not bool):
        raise ValueError(f"{key} = {found!r} is no {WORDS[kind]}")
    return found  # type: ignore[no-any-return]


def part(of: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a table in a table, an empty one where there is none.

    Raises:
        ValueError: it is none.
    """
    return value(of, key, {})


def degree(of: Mapping[str, Any], key: str, missing: int = 1) -> int:
    """Return a whole number of at least 1.

    Raises:
        ValueError: it is none.
    """
    found = value(of, key, missing)
    if found < 1:
        raise ValueError(f"{key} = {found} is too small; use 1 or more")
    return found


def words(of: Mapping[str, Any], key: str, missing: tuple[str, ...] = ()) -> list[str]:
    """Return a list of words.

    Raises:
        ValueError: it is none.
    """
    found = value(of, key, [*missing])
    if wrong := [word for word in found if not isinstance(word, str)]:
        raise ValueError(f"{key} has {wrong[0]!r}, which is no text")
    return found
