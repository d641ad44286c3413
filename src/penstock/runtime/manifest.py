"""The files of a folder of checkpoints: names, the manifest with its checksums, what is whole, what goes.

``step-00000100`` is complete; ``step-00000100.partial`` is being written, or was when a crash came.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 22

Marks = dict[str, dict[str, int]]


def step_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdecimal()), key=step_of)


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in ``folder``, or None."""
    found = checkpoints(folder)
    return found[-1] if found else None


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a checkpoint (all of its state but the tensors) without reading a tensor.

    Raises:
        ValueError: the manifest is missing or broken.
    """
    facts: dict[str, Any] = _manifest(path)["facts"]
    return facts


def begin(folder: Path, partial: Path, step: int) -> None:
    """Remove what crashes left and make the folder to write into.

    Raises:
        ValueError: a checkpoint of this or a later step is there: it would be replaced, or stay the newest.
    """
    found = latest(folder)
    if found is not None and step_of(found) >= step:
        raise ValueError(
            f"{folder} already holds {found.name}, so step {step} cannot be saved; "
            f"resume from {found.name} or choose another folder"
        )
    for left in folder.glob("step-*.partial"):
        shutil.rmtree(left)
    partial.mkdir(parents=True)


def mark(files: Iterable[Path]) -> Marks:
    """Return size and CRC-32 of each file by its name."""
    return {file.name: {"bytes": file.stat().st_size, "crc32": _crc(file)} for file in files}


def complete(partial: Path, final: Path, files: Marks, facts: Mapping[str, Any]) -> None:
    """Write the manifest, push all to the disk and give the folder its final name."""
    with (partial / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"files": dict(sorted(files.items())), "facts": facts}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(partial)
    partial.rename(final)
    _sync_folder(final.parent)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    for old in checkpoints(folder)[:-keep]:
        gone = old.with_name(f"{old.name}.partial")  # a crash must not leave a complete name with files missing
        old.rename(gone)
        shutil.rmtree(gone)


def verify(path: Path, share: int, shares: int) -> None:
    """Check the sizes of all files of a checkpoint, and the CRC of this share of them (shares count from 0).

    Raises:
        ValueError: a file is missing or damaged; the message names it and the newest older checkpoint that is whole.
    """
    problem = _problem(path, _manifest(path)["files"], share, shares)
    if problem:
        raise ValueError(f"checkpoint {path}: {problem}; {older(path)}")


def older(path: Path) -> str:
    """Return the end of an error line: which older checkpoint is whole."""
    for other in reversed(checkpoints(path.parent)):
        if step_of(other) < step_of(path) and _is_whole(other):
            return f"{other.name} is whole: remove {path.name} to go on from there"
    return "no older checkpoint is whole: start again in another folder"


def _problem(path: Path, files: Marks, share: int = 0, shares: int = 1) -> str:
    for number, (name, expected) in enumerate(files.items()):
        file = path / name
        if not file.is_file():
            return f"file {name} is missing"
        size = file.stat().st_size
        if size != expected["bytes"]:
            return f"file {name} has {size} bytes instead of {expected['bytes']}"
        if number % shares == share and _crc(file) != expected["crc32"]:
            return f"file {name} has damaged bytes (its CRC-32 differs)"
    return ""


def _is_whole(path: Path) -> bool:
    manifest = _read(path / MANIFEST)
    return isinstance(manifest, dict) and not _problem(path, manifest["files"])


def _manifest(path: Path) -> dict[str, Any]:
    manifest = _read(path / MANIFEST)
    if isinstance(manifest, str):
        raise ValueError(f"checkpoint {path}: file {MANIFEST} {manifest}; {older(path)}")
    return manifest


def _read(file: Path) -> dict[str, Any] | str:
    """Return the manifest, or what is wrong with it."""
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "is missing"
    except ValueError:
        return "is not whole JSON"
    if not isinstance(manifest, dict) or not {"files", "facts"} <= manifest.keys():
        return "lacks the keys 'files' and 'facts'"
    return manifest


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
