"""Setups in the words of other frameworks, on the command line: written by ``--export``, read by ``--from``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.core.architecture import Architecture
    from penstock.core.cluster import Cluster
    from penstock.core.setup import Setup
    from penstock.cost.stack import Stack
    from penstock.export.read import Read

SPLIT = ("tp", "cp", "pp")
"""Fields that leave another number of devices to data parallelism."""


def checked(targets: Sequence[str] | None, others: Iterable[Path] = ()) -> Sequence[str]:
    """Return what ``--export`` was given, before anything is worked out; ``others`` are files that are written too.

    Raises:
        ValueError: no such framework, no path, or one path for two files.
    """
    from penstock.export.frameworks import target

    paths = [target(text)[1] for text in targets or ()] + [*others]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is named twice; give each file a name of its own")
    return targets or ()


def write_exports(
    targets: Iterable[str], model: Architecture, cluster: Cluster, setup: Setup, framework: Stack
) -> list[str]:
    """Write a setup as each ``NAME:PATH`` says, and on the standard error what the frameworks have no words for, or not
    those of the framework that it was predicted for; return why some cannot train so."""
    from penstock.export.frameworks import export

    cannot = []
    for text in targets:
        try:
            for left in export(text, model, cluster, setup, framework):
                print(f"penstock: not in {text}: {left}", file=sys.stderr)
        except ValueError as error:
            cannot.append(str(error))
    return cannot


def check_written(cannot: Sequence[str]) -> None:
    """Do nothing where all files of ``write_exports`` could be written.

    Raises:
        ValueError: some could not, and why.
    """
    if cannot:
        raise ValueError("; ".join(cannot))


def read_setup(path: Path, devices: int) -> Read:
    """Return what a file of another framework says; what of it is not read goes to the standard error.

    Raises:
        ValueError: it cannot be read.
    """
    from penstock.export.read import read_file

    read = read_file(path, devices)
    for name in read.unread:
        print(f"penstock: not read from {path}: {name}", file=sys.stderr)
    return read


def merged(fields: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a file under those of flags, which win; data parallelism follows from a new split."""
    taken = dict(fields)
    if "dp" not in flags and any(flags.get(name, taken.get(name, 1)) != taken.get(name, 1) for name in SPLIT):
        for name in ("dp", "shards"):
            taken.pop(name, None)
    if "recompute_layers" not in flags and {"pp", "chunks", "recompute"} & set(flags):
        for name in ("recompute_layers", "recompute_first"):
            taken.pop(name, None)
    if "stage_layers" not in flags and {"pp", "chunks"} & set(flags):
        taken.pop("stage_layers", None)
    return taken | dict(flags)
