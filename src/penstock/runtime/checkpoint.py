"""Checkpoints of a pipeline: every rank saves the tensors it holds, and any cut of the model loads them again.

On disk, ``step-00000100/`` holds torch's distributed checkpoint and ``manifest.json`` with the facts (step, spec) and
the size and CRC-32 of each file. A folder of that name is complete: it is written as ``step-00000100.partial`` and
renamed when all ranks are done and all bytes are on the disk. A crash leaves the ``.partial`` to the next save.
"""

from __future__ import annotations

import errno
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from penstock.core.words import nearest
from penstock.runtime import manifest
from penstock.runtime.manifest import latest, read_facts
from penstock.runtime.rows import Rows
from penstock.units import human_bytes

__all__ = ["latest", "load", "read_facts", "save"]

T = TypeVar("T")

_TREES = ("model", "optimizer")  # the parts of a state that hold tensors; the rest are facts
_PROBE_BYTES = 1 << 24


def save(folder: Path, step: int, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write the checkpoint of ``step`` and return its folder; all ranks of the default process group call it together.

    ``state["model"]`` and ``state["optimizer"]`` are trees of tensors (or ``Rows`` of them), of which each rank gives
    those it holds (a tensor held by several is written once); all else in ``state`` are facts that JSON can hold,
    taken from rank 0.
    The newest ``keep`` checkpoints stay; older ones go when the new one is complete.

    Raises:
        ValueError: on every rank: nothing could be written (no space left, say; older checkpoints are intact), or a
            checkpoint of this or a later step is there already.
    """
    tensors = _tensors(state)
    facts = {key: value for key, value in state.items() if key not in _TREES}
    final, partial = folder / manifest.step_name(step), folder / f"{manifest.step_name(step)}.partial"
    try:
        _first(lambda: manifest.begin(folder, partial, step))
        with _quiet():
            writer = FileSystemWriter(partial, single_file_per_rank=True, sync_files=True)
            dcp_save(tensors, storage_writer=writer, no_dist=not dist.is_initialized())
        marks = _together(lambda: manifest.mark(_own_files(partial)))
        _first(lambda: manifest.complete(partial, final, {k: v for each in marks for k, v in each.items()}, facts))
        _first(lambda: manifest.prune(folder, keep))
    except (OSError, CheckpointException) as error:
        raise ValueError(_why_not_written(folder, partial, step, tensors, error)) from None
    return final


def load(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the tensors of ``state`` from a checkpoint, in place, and return its facts.

    All ranks of the default process group call it together, each with the tensors it holds, which need not be the
    ones it saved. ``state["optimizer"]`` must hold tensors of the right shapes before.

    Raises:
        ValueError: on every rank: a file is missing or damaged (the message names it and an older checkpoint that is
            whole), or a tensor is not in the checkpoint or of another shape or type.
    """
    _together(lambda: manifest.verify(path, _rank(), _ranks()))
    tensors = _tensors(state)
    _together(lambda: _match(path, tensors))
    try:
        with _quiet():
            dcp_load(tensors, storage_reader=FileSystemReader(path), no_dist=not dist.is_initialized())
    except CheckpointException as error:
        raise ValueError(f"checkpoint {path} cannot be read: {_one_line(error)}; {manifest.older(path)}") from None
    return read_facts(path)


def _own_files(partial: Path) -> list[Path]:
    """Return the files this rank wrote; rank 0 also answers for the metadata."""
    return [*partial.glob(f"__{_rank()}_*.distcp"), *([partial / ".metadata"] if _rank() == 0 else [])]


def _match(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that the checkpoint holds every tensor asked for, in its shape and type."""
    saved = FileSystemReader(path).read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        found = saved.get(name)
        if not isinstance(found, TensorStorageMetadata):
            alike = nearest(name, saved)
            hint = f" (nearest is {alike})" if alike else ""
            raise ValueError(f"checkpoint {path} holds no {name}{hint}; resume with the model it was saved with")
        if found.size != tensor.shape or found.properties.dtype != tensor.dtype:
            raise ValueError(
                f"checkpoint {path} holds {name} as {found.properties.dtype} {list(found.size)}, the run wants "
                f"{tensor.dtype} {list(tensor.shape)}; resume with the model and precision it was saved with"
            )


def _why_not_written(
    folder: Path,
    partial: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    error: OSError | CheckpointException,
) -> str:
    """Return the one line for a save that went wrong, and remove what it wrote."""
    own_bytes = sum(tensor.nbytes for tensor in tensors.values())
    cause = _os_error(error) or _probe(partial, own_bytes)
    if _rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    found = latest(folder)
    intact = f"{found.name} is intact" if found else "no older checkpoint exists"
    if cause is not None and cause.errno == errno.ENOSPC:
        return (
            f"no space left for the checkpoint of step {step} in {folder} (rank {_rank()} alone writes up to "
            f"{human_bytes(own_bytes)}); {intact}; free space or choose another folder"
        )
    reason = (cause.strerror if cause else None) or _one_line(error)
    return f"the checkpoint of step {step} in {folder} cannot be written: {reason}; {intact}"


def _probe(partial: Path, own_bytes: int) -> OSError | None:
    """Return what the system says to a write, which torch's writer may hide behind an error of its own."""

    def write() -> None:
        with (partial / f"probe-{_rank()}").open("wb") as file:
            file.write(bytes(min(own_bytes, _PROBE_BYTES)))

    try:
        _together(write)
    except OSError as error:
        return error
    return None


def _failures(error: BaseException) -> list[BaseException]:
    """Return the errors of the ranks below torch's wrapper, or the error itself."""
    return [failure for failure, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]


def _os_error(error: BaseException) -> OSError | None:
    return next((failure for failure in _failures(error) if isinstance(failure, OSError)), None)


def _one_line(error: BaseException) -> str:
    first = _failures(error)[0]
    return " ".join(str(first).split()) or type(first).__name__


def _together(action: Callable[[], T]) -> list[T]:
    """Run ``action`` on every rank and return all results; where one fails, every rank raises its error."""
    mine: T | Exception
    try:
        mine = action()
    except Exception as error:  # any: a rank that left here would leave the others waiting
        mine = error
    results: list[Any] = [mine]
    if dist.is_initialized():
        results = [None] * _ranks()
        dist.all_gather_object(results, mine)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def _first(action: Callable[[], object]) -> None:
    """Run ``action`` on rank 0; when it fails, every rank raises its error."""
    _together(lambda: action() if _rank() == 0 else None)


def _tensors(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for tree in _TREES for name, value in _leaves(state.get(tree, {}), tree)}


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, Rows):
        yield name, tree
    elif isinstance(tree, torch.Tensor):
        yield name, tree.detach()
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}/{key}")
    else:
        raise ValueError(f"state {name} is a {type(tree).__name__}; a checkpoint holds tensors there")


def _quiet() -> warnings.catch_warnings:
    """Return a context without torch's warning that a single process is not distributed."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
