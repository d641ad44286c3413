"""The noun ``Curves``: what was measured of a device or of the links of a node, as tables of sizes and seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from penstock.core.tables import check_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[Any]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "matmul": ("precision", "layout", "batch", "m", "n", "k", "seconds", "spread"),
    "attention": (
        *("precision", "batch", "heads", "kv_heads", "seq", "head", "causal", "gradient", "backend"),
        *("seconds", "spread"),
    ),
    "memory": ("kind", "precision", "moved_bytes", "kernels", "seconds", "spread"),
    "launch": ("what", "seconds"),
    "sustained": ("precision", "layout", "batch", "m", "n", "k", "after_s", "seconds"),
    "block": (*("precision", "hidden", "inner", "heads", "kv_heads", "seq", "batch", "layers", "gradient", "seconds"),),
    "transfer": ("way", "bytes", "seconds"),
    "collective": ("kind", "ranks", "bytes", "seconds"),
    "disk": ("bytes", "seconds"),
}
"""What may be measured, and the columns of each table."""
_TEXT = frozenset({"precision", "layout", "backend", "kind", "what", "way"})
_FLAGS = frozenset({"causal", "gradient"})


@dataclass(frozen=True, eq=False)
class Curves:
    """Measurements of one device, or of the links of one node.

    Args:
        name: what predictions call their source.
        about: date, device and versions, as text.
        tables: part of ``COLUMNS`` -> column -> values.
        failed: what could not be measured, and why.
    """

    name: str
    about: Mapping[str, str]
    tables: Mapping[str, Mapping[str, Column]]
    failed: tuple[str, ...] = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """A field of this type takes what ``read`` made, nothing else."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)

    @staticmethod
    def read(name: str, table: object) -> Curves:
        """Return the curves of a table ``[curves.NAME]`` of a cluster file.

        Raises:
            ValueError: an unknown part or column, rows of unequal length, or a value that cannot be.
        """
        where = f"curves {name}"
        check_keys(where, table, ("about", "failed", *COLUMNS))
        assert isinstance(table, Mapping)
        about, failed = table.get("about", {}), table.get("failed", [])
        if not isinstance(about, Mapping) or not isinstance(failed, list):
            raise ValueError(f"{where}: about must be a table and failed a list of text")
        tables = {part: _columns(f"{where}.{part}", part, table[part]) for part in COLUMNS if part in table}
        return Curves(name, {key: str(value) for key, value in about.items()}, tables, tuple(map(str, failed)))

    def rows(self, part: str, **chosen: object) -> Mapping[str, Column]:
        """Return the rows of a part whose columns have these values; no columns where the part was not measured.

        >>> Curves("mine", {}, {}).rows("disk")
        {}
        """
        import numpy as np

        if part not in self.tables:
            return {}
        table = self.tables[part]
        keep = np.ones(len(table["seconds"]), bool)
        for column, value in chosen.items():
            keep &= table[column] == value
        return {column: values[keep] for column, values in table.items()} if keep.any() else {}

    @cached_property
    def launches(self) -> Mapping[str, float]:
        """Seconds of the host per operator by what it is: ``operator``, ``forward``, ``backward``, ..."""
        rows = self.rows("launch")
        return dict(zip(rows["what"].tolist(), rows["seconds"].tolist(), strict=True)) if rows else {}


def _columns(where: str, part: str, table: object) -> Mapping[str, Column]:
    """The columns of ``columns = [...]`` and ``rows = [[...], ...]``."""
    import numpy as np

    check_keys(where, table, ("columns", "rows"))
    assert isinstance(table, Mapping)
    names, rows = table.get("columns"), table.get("rows")
    if not isinstance(names, list) or not isinstance(rows, list) or not rows:
        raise ValueError(f"{where} needs columns = [names] and rows = [[values], ...], one row at least")
    needed = [name for name in COLUMNS[part] if name != "spread"]
    if not set(needed) <= set(names) <= set(COLUMNS[part]) or len(set(names)) != len(names):
        raise ValueError(f"{where}: columns={names} must be {needed}, and may have 'spread'")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            raise ValueError(f"{where}: row {number} is {row!r}; give {len(names)} values")
        for name, value in zip(names, row, strict=True):
            if not _fits(name, value):
                raise ValueError(f"{where}: row {number} has {name}={value!r}; {_wanted(name)}")
    return {name: np.array([row[at] for row in rows]) for at, name in enumerate(names)}


def _fits(name: str, value: object) -> bool:
    if name in _TEXT:
        return isinstance(value, str)
    if name in _FLAGS:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return value >= 0 if name in ("spread", "after_s") else value > 0


def _wanted(name: str) -> str:
    if name in _TEXT:
        return "give text"
    return "give true or false" if name in _FLAGS else "give a number above 0"
