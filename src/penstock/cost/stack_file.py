"""Frameworks of your own, from a TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any

from penstock.core.tables import check_keys, made, read_toml
from penstock.core.words import suggest
from penstock.cost.operators import Kernels
from penstock.cost.stack import KERNELS, Stack, over, stack, stacks

ABOVE_0 = ("moves", "casts", "routing", "dropped_routing")
"""Fields that others are divided by."""
SHARES = ("_shown", "_hidden", "_most", "_share")
"""How fields end that are at most 1."""


def named(text: str) -> Stack:
    """Return a framework by its name, by a file with one, or by file and name: FILE.toml:NAME.

    Raises:
        ValueError: there is no such framework or file, or the file holds what a framework does not have.

    >>> named("nemo").name
    'nemo'
    """
    stem, suffix, rest = text.partition(".toml")
    if not suffix or (rest and not rest.startswith(":")):
        return stack(text)
    found, name = read_stacks(Path(stem + suffix)), rest[1:]
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ValueError(
            f"{stem}{suffix} holds no framework; write a table, such as [mine], with like = 'megatron-core'"
        )
    if name not in found:
        asked = f"has no framework {name!r}" if name else f"holds {len(found)} frameworks"
        raise ValueError(f"{stem}{suffix} {asked}; {suggest(name, found)}")
    return found[name]


def read_stacks(path: Path) -> dict[str, Stack]:
    """Return the frameworks of a file by name, written like those that come with Penstock: each a table of fields of
    ``Stack``, over the one that its key ``like`` names, of the file before it or of those that are known.

    Raises:
        ValueError: the file is no such table.
    """
    known, own = dict(stacks()), {}
    for name, table in read_toml(path).items():
        where = f"{path}: {name}"
        _check(where, name, table, known)
        known[name] = own[name] = over(name, table, known)
    return own


def _check(where: str, name: str, table: Any, known: Mapping[str, Stack]) -> None:
    names = [field.name for field in fields(Stack) if field.name != "name"]
    check_keys(where, table, ("like", *names))
    like, kernels = table.get("like"), table.get("kernels", {})
    if like is not None and like not in known:
        raise ValueError(f"{where}: like={like!r} is unknown; {suggest(str(like), known)}")
    check_keys(f"{where}.kernels", kernels, ("like", *(field.name for field in fields(Kernels))))
    base = kernels.get("like", "fused")
    if base not in KERNELS:
        raise ValueError(f"{where}.kernels: like={base!r} is unknown; {suggest(str(base), KERNELS)}")
    made(Kernels, f"{where}.kernels", {key: value for key, value in kernels.items() if key != "like"})
    plain = {key: value for key, value in table.items() if key not in ("like", "kernels")}
    made(Stack, where, {"name": name, **plain})
    for key, value in plain.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(where, key, value)


def _check_number(where: str, key: str, value: float) -> None:
    if not isfinite(value) or value < 0 or (key in ABOVE_0 and value == 0):
        raise ValueError(f"{where}: {key}={value} must be a number {'above' if key in ABOVE_0 else 'from'} 0")
    if key.endswith(SHARES) and value > 1:
        raise ValueError(f"{where}: {key}={value} is a share; use 0 to 1")
