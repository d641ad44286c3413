"""Loops that are plain Python, compiled where plans are large."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

COMPILE_FROM_OPS = 20_000
"""Plans of at least so many ops are worth loading compiled loops for (importing numba takes 0.3 s)."""


def compiled(loop: Callable[..., Any], ops: int) -> Callable[..., Any]:
    """The loop itself for few ops, ``native`` for many."""
    return native(loop) if ops >= COMPILE_FROM_OPS else loop


@cache
def native(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop compiled by numba for this machine, once; kept on disk."""
    import numba

    found: Callable[..., Any] = numba.njit(cache=True)(loop)
    return found
