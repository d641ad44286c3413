"""Loops that are plain Python, compiled where plans are large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

COMPILE_FROM_OPS = 20_000
"""Plans of at least so many ops are worth loading compiled loops for (importing numba takes 0.3 s)."""


def compiled(loop: Callable[..., Any], ops: int) -> Callable[..., Any]:
    """The loop itself for few ops, ``native`` for many."""
    return native(loop) if ops >= COMPILE_FROM_OPS else loop


def warmed(loop: Callable[..., Any], ops: int, most: int = COMPILE_FROM_OPS) -> Callable[..., Any]:
    """The loop itself until this process asks it for ``most`` ops in all, these included; ``native`` from then on."""
    asked = _asked(loop)
    asked.update(ops=ops)
    return native(loop) if asked.total() >= most else loop


@cache
def _asked(loop: Callable[..., Any]) -> Counter[str]:
    """How many ops were asked of a loop; counted on by who asks."""
    return Counter()


@cache
def native(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop compiled by numba for this machine, once; kept on disk."""
    import numba

    found: Callable[..., Any] = numba.njit(cache=True)(loop)
    return found
