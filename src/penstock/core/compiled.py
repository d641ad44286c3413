"""Loops that are plain Python, compiled where plans are large."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

COMPILE_FROM_OPS = 20_000
"""Plans of at least so many ops are worth loading compiled loops for (importing numba takes 0.3 s)."""


def compiled(loop: Callable[..., None], ops: int) -> Callable[..., None]:
    """The loop itself for few ops, compiled by numba (once, kept on disk) for many."""
    return _compiled(loop) if ops >= COMPILE_FROM_OPS else loop


@cache
def _compiled(loop: Callable[..., None]) -> Callable[..., None]:
    import numba

    found: Callable[..., None] = numba.njit(cache=True)(loop)
    return found
