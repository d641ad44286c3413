"""Interleaved 1F1B, also VPP: v chunks a rank, groups of micro-batches (Narayanan et al. 2021, arXiv:2104.04473)."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind


def lane(r: int, p: int, m: int, v: int, group: int | None = None) -> NDArray[np.int64]:
    """Forwards run a group through every chunk in turn, backwards likewise from the last chunk; 1F1B between them.

    Args:
        group: micro-batches of a group, as Megatron-LM's ``microbatch_group_size_per_vp_stage``: from p (depth-first)
            to m (breadth-first); the last group takes the rest. Default: as many even groups of at least p as there can
            be, which is PyTorch's order for the m it allows; one group if m < p.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("interleaved", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1'
        >>> str(build("interleaved", ranks=2, micros=5, chunks=2, group=3).lanes[0][:10])
        '0F0 0F1 0F2 2F0 2F1 2F2 2B0 0F3 2B1 0F4'
    """
    return one_forward_one_backward(r, p, v, sizes(p, m, group), 2 * (p - 1 - r), (Kind.B,))


def sizes(p: int, m: int, group: int | None = None) -> list[int]:
    """Micro-batches of each group, the largest first."""
    if group is None:
        return even(m, max(1, m // p))
    return [min(group, m - begin) for begin in range(0, m, group)]


def even(m: int, groups: int) -> list[int]:
    """So many groups, as even as can be, the larger ones first."""
    return [m // groups + (g < m % groups) for g in range(groups)]


def most(m: int, groups: int) -> int:
    """Micro-batches of the largest of so many groups."""
    return -(-m // groups)


def one_forward_one_backward(
    r: int, p: int, v: int, groups: list[int], extra: int, backward: tuple[Kind, ...]
) -> NDArray[np.int64]:
    """Rows of a lane: all chunks but the last of a group and ``extra`` forwards ahead, then 1F1B, then backwards."""
    chunk, i = _in_turn(v, tuple(groups))
    rows = np.empty((len(i), 1 + len(backward), 3), dtype=np.int64)
    rows[:, :, 0] = [Kind.F, *backward]
    rows[:, 0, 1], rows[:, 1:, 1] = chunk * p + r, ((v - 1 - chunk) * p + r)[:, None]
    rows[:, :, 2] = i[:, None]
    forward, backs = rows[:, :1], rows[:, 1:]
    warm = min(len(i), (v - 1) * groups[0] + extra)
    steady = np.concatenate([forward[warm:], backs[: len(i) - warm]], axis=1)
    return np.concatenate([part.reshape(-1, 3) for part in (forward[:warm], steady, backs[len(i) - warm :])])


@lru_cache(maxsize=16)
def _in_turn(v: int, groups: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Chunk and micro-batch of each forward, the same on every rank."""
    of = np.repeat(np.arange(len(groups)), np.array(groups) * v)
    size, begin = np.array(groups)[of], np.cumsum([0, *groups[:-1]])[of]
    at = np.arange(len(of)) - begin * v
    return at // size, begin + at % size


def valid(p: int, m: int, v: int, group: int | None = None) -> str:
    """Why a group cannot be so large; Megatron-LM refuses the same (a last group of less than p may deadlock)."""
    if group is None or group == m:
        return ""
    if not p <= group <= m:
        return f"group={group} is not between ranks={p} and micros={m}; use {min(max(p, group), m)}"
    rest = m % group
    if v > 1 and 0 < rest < p:
        fits = min((g for g in range(p, m + 1) if not 0 < m % g < p), key=lambda g: (abs(g - group), g))
        return f"group={group} leaves a last group of {rest} of micros={m}, less than ranks={p}; use group={fits}"
    return ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float, group: int | None = None) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I+W)/v.

    The same for every group size. Fewer micro-batches than ranks wait at each chunk for the one before:
    (v-1)(p-m)(F+I+W)/v more.
    """
    return (p - 1 + (v - 1) * (p > m) * (p - m)) * (f + i + w) / v


def peak_micros(r: int, p: int, m: int, v: int, group: int | None = None) -> float:
    """Micro-batches whose activations rank r holds at its peak: warm-up plus one, in units of all its chunks."""
    largest = min(group, m) if group else most(m, max(1, m // p))
    return min(m * v, (v - 1) * largest + 2 * (p - 1 - r) + 1) / v
