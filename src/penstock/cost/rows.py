"""The noun ``Rows``: operators as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from penstock.cost.operators import WIDE, Operator

Floats = NDArray[np.float64]
PHASES = ("F", "I", "W")
KINDS = ("matmul", "grouped_matmul", "attention", "scan", "elementwise", "norm", "gather", "loss")
MATMUL, GROUPED, ATTENDING = range(3)
ELEMENTWISE, GATHER = map(KINDS.index, ("elementwise", "gather"))


@dataclass(frozen=True, eq=False)
class Rows:
    """Operators as columns, one row each.

    ``sizes``: batch, m, n, k, width of values and density, shape (6, operators). ``low``: a recipe of low precision
    takes the product. ``plain`` and ``odd`` are those of ``Operator``.
    """

    names: tuple[str, ...]
    kind: NDArray[np.int64]
    phase: NDArray[np.int64]
    sizes: Floats
    moved_bytes: Floats
    launches: Floats
    low: NDArray[np.bool_]
    plain: NDArray[np.bool_]
    odd: NDArray[np.bool_]


def rows_of(operators: Sequence[Operator]) -> Rows:
    """Return the columns of operators."""
    sizes = [(op.batch, op.m, op.n, op.k, op.value_dim or op.k, op.density) for op in operators]
    return Rows(
        tuple(op.name for op in operators),
        np.array([KINDS.index(op.kind) for op in operators], np.int64),
        np.array([PHASES.index(op.phase) for op in operators], np.int64),
        np.array(sizes, dtype=np.float64).reshape(-1, 6).T,
        np.array([op.moved_bytes for op in operators]),
        np.array([op.launches for op in operators], dtype=np.float64),
        np.array([op.kind.endswith("matmul") and not any(word in op.name for word in WIDE) for op in operators], bool),
        np.array([op.plain for op in operators], bool),
        np.array([op.odd for op in operators], bool),
    )


def joined(each: Sequence[Rows]) -> Rows:
    """Return the rows of several in one, one behind the other."""
    names = tuple(name for one in each for name in one.names)
    columns = (field.name for field in fields(Rows)[1:])
    return Rows(names, *(np.concatenate([getattr(one, name) for one in each], axis=-1) for name in columns))
