"""The verb ``export``: a setup as files of another framework, by ``NAME:PATH``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.files import writable, write_whole
from penstock.core.setup import Setup
from penstock.core.words import suggest
from penstock.cost.stack import Stack
from penstock.export.accelerate import accelerate
from penstock.export.bridge import bridge
from penstock.export.deepspeed import deepspeed
from penstock.export.job import job
from penstock.export.megatron import megatron
from penstock.export.schedule import schedule
from penstock.export.slurm import slurm
from penstock.export.stale import stale
from penstock.export.torchtitan import torchtitan
from penstock.export.written import Left, Written

MEGATRON: Mapping[str, Callable[[Architecture, Cluster, Setup, Stack | None], Written]] = {
    "megatron": megatron,
    "bridge": bridge,
}
"""Those that take one file and say what is not as the framework has it for which a setup was predicted."""
FILES: Mapping[str, Callable[[Architecture, Cluster, Setup], Written]] = {
    "deepspeed": deepspeed,
    "accelerate": accelerate,
    "slurm": slurm,
    "job": job,
    "schedule": schedule,
}
"""Others that take one file."""
SUFFIXES = {"job": ".toml", "schedule": ".csv"}
"""How files end whose readers tell them by their names."""
FOLDER = "torchtitan"
"""The one that takes several."""


def target(text: str) -> tuple[str, Path]:
    """Return the framework and the path of ``NAME:PATH``.

    Raises:
        ValueError: no such framework, or no path.

    >>> target("megatron:train.sh")[0]
    'megatron'
    """
    name, _, path = text.partition(":")
    if name not in (FOLDER, *MEGATRON, *FILES):
        raise ValueError(f"--export {text}: {suggest(name, (FOLDER, *MEGATRON, *FILES))}")
    if not path:
        kind = "DIR" if name == FOLDER else "FILE"
        raise ValueError(f"--export {text}: say where to write it, {name}:{kind}")
    if not path.endswith(SUFFIXES.get(name, "")):
        raise ValueError(f"--export {text}: its readers want {SUFFIXES[name]}; write {name}:{path}{SUFFIXES[name]}")
    return name, Path(path)


def export(
    text: str, model: Architecture, cluster: Cluster, setup: Setup, framework: Stack | None = None
) -> tuple[Left, ...]:
    """Write a setup as ``NAME:PATH`` says, and return what the framework has no words for.

    Args:
        text: ``torchtitan:DIR``, or one of ``MEGATRON`` and ``FILES`` with a path, such as ``megatron:FILE``.
        model, cluster, setup: what is trained, where and how.
        framework: for which it was predicted.

    Raises:
        ValueError: no such framework, or it cannot train so; then nothing is written.
        OSError: writing failed.
    """
    name, path = target(text)
    setup.layers_of(model.layers)
    if name == FOLDER:
        written = torchtitan(model, cluster, setup, str(path))
        path.mkdir(parents=True, exist_ok=True)
    else:
        writable(path)
        megatron = name in MEGATRON
        written = MEGATRON[name](model, cluster, setup, framework) if megatron else FILES[name](model, cluster, setup)
    left_behind = [*stale(path, written.files)] if name == FOLDER else []
    for file, body in written.files.items():
        where = path / file if file else path
        write_whole(where, body)
        if body.startswith("#!") and where.is_file():
            os.chmod(where, 0o755)
    for old in left_behind:
        old.unlink()
    return written.left
