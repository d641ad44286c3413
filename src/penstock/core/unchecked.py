"""Frozen values made of others without a check, which is most of what ``dataclasses.replace`` takes."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def like(one: T, **values: Any) -> T:
    """Return a frozen dataclass with other values, of which it is known that they can be together.

    >>> from penstock.core.setup import Setup
    >>> like(Setup(seq=4096, batch=64), micro=2).micros
    32
    """
    kind: Any = type(one)
    made: T = object.__new__(kind)
    for name in _names(kind):
        object.__setattr__(made, name, values[name] if name in values else getattr(one, name))
    return made


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
