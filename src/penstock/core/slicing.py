"""How long the slices of a sequence are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def rounded(lengths: Sequence[float], tokens: int) -> tuple[int, ...]:
    """Lengths of slices in whole tokens, in the proportions given, as near as rounding of where they end allows.

    Raises:
        ValueError: a slice would be empty.

    Example:
        >>> rounded((3, 2, 1), 12), rounded((1, 1, 1), 8)
        ((6, 4, 2), (3, 2, 3))
    """
    ends = np.rint(np.cumsum([0.0, *lengths]) * (tokens / sum(lengths))).astype(np.int64)
    found = tuple(np.diff(ends).tolist())
    if min(found) < 1:
        raise ValueError(f"{len(found)} slices of {tokens} tokens: slice {found.index(min(found))} would be empty")
    return found


def equal_time(slices: int, attention: float) -> tuple[float, ...]:
    """Shares of a sequence's tokens, slice by slice, with which all slices take equally long under causal attention.

    A slice's time is that of its tokens and that of what they attend to, so that the first x of a sequence take
    (1-a)x + ax² of its time (the computation-wise partition of Sun et al. 2024, arXiv:2406.03488).

    Args:
        slices: how many.
        attention: a, the share of attention in the time of the whole sequence, 0 to 1.

    Raises:
        ValueError: no share.

    Example:
        >>> equal_time(2, 0.0), [round(share, 3) for share in equal_time(4, 1.0)]
        ((0.5, 0.5), [0.5, 0.207, 0.159, 0.134])
    """
    if not 0 <= attention <= 1:
        raise ValueError(f"attention={attention:g} is the share of a sequence's time; give one from 0 to 1")
    part, linear = np.arange(1, slices + 1) / slices, 1 - attention
    ends = 2 * part / (linear + np.sqrt(linear * linear + 4 * attention * part))
    return tuple(np.diff(ends, prepend=0.0).tolist())


def by_mean(lengths: Sequence[float], slices: int) -> NDArray[np.float64]:
    """Length of each slice by the mean one, shape (slices,); without lengths all are equal."""
    return np.array(lengths or (1,) * slices) * (slices / (sum(lengths) or slices))
