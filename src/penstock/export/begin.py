"""A plan that begins with the setup of another framework's file: what is asked, and the setup to do better than."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.filling import filling
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.cost.stack_file import named
from penstock.export.read import Read, read_file
from penstock.predict import predict
from penstock.search.choice import Choice, Planned
from penstock.search.improve import Change, changes_to
from penstock.search.planner import HEADROOM, best_of
from penstock.search.space import Space, space_of
from penstock.search.wishes import SEARCHED, Wished, wishes

APART = ("seq", "batch", "overlap", "pp_overlap")
"""Fields that are not searched, but that the best need not have as the file has them: no step is faster where less is
hidden."""
OF_RECIPES = ("wide_first", "wide_last", "low_weights")
"""Fields that have a meaning with a recipe alone: the file's are for its own."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a file asks of a planner, and its own setup on all devices of a cluster.

    ``notes``: what was made other than the file says.
    """

    model: Architecture
    stack: Stack
    cluster: Cluster
    setup: Setup
    notes: tuple[str, ...] = ()

    def space(self, fix: Wished = None, exclude: Wished = None) -> Space:
        """Return the strategies beside which the setup stands: all that is not searched is as the setup has it.

        Raises:
            ValueError: as ``space_of``.
        """
        given = self.setup
        space = space_of(
            self.model, self.cluster, self.stack, seq=given.seq, batch=given.batch, fix=fix, exclude=exclude
        )
        said = wishes(fix)
        free = {field.name for field in fields(Setup)} - {*SEARCHED, *APART, *said}
        free -= {*OF_RECIPES} if "precision" in said else set()
        return replace(space, base=replace(space.base, **{name: getattr(given, name) for name in sorted(free)}))

    def mine(self) -> Choice:
        """Return the setup, predicted."""
        return Choice.of(self.setup, predict(self.model, self.cluster, self.setup, self.stack))


@dataclass(frozen=True, kw_only=True)
class Improved:
    """A setup from a file beside the best one.

    ``changes``: what to change, in order; empty if nothing fits. ``unread``: what of the file is not
    read; ``notes``: what was made other than it says.
    """

    mine: Choice
    planned: Planned
    changes: tuple[Change, ...]
    unread: tuple[str, ...]
    notes: tuple[str, ...]


def improve(
    file: str | Path,
    cluster: str | Path | Cluster,
    *,
    model: str | None = None,
    framework: str | None = None,
    seq: int | None = None,
    batch: int | None = None,
    fix: Wished = None,
    exclude: Wished = None,
    top: int = 20,
    headroom: float = HEADROOM,
) -> Improved:
    """Return the setup of another framework's file beside the fastest that fits, and what to change.

    Args:
        file: as ``read_file`` takes it: of torchtitan, DeepSpeed, Megatron-LM, Megatron-Bridge or ``penstock run``.
        cluster: where it runs, on all of its devices.
        model, framework, seq, batch: in place of those that the file says.
        fix, exclude, top, headroom: as ``plan`` takes them.

    Raises:
        ValueError: the file cannot be read, or does not say what is asked.
        OSError: there is no such file.

    Example:
        >>> import tempfile
        >>> words = "--num-layers 12 --hidden-size 768 --num-attention-heads 12 --seq-length 1024 --micro-batch-size 1"
        >>> script = Path(tempfile.mkdtemp()) / "train.sh"
        >>> _ = script.write_text(f"N=4\\nrun {words} --global-batch-size 64 --tensor-model-parallel-size $N --bf16")
        >>> found = improve(script, "dgx-h100:1", fix="pp=1,cp=1")
        >>> found.mine.setup.tp, found.planned.best.seconds < found.mine.seconds
        (4, True)
    """
    machines = cluster if isinstance(cluster, Cluster) else Cluster.read(cluster)
    read = read_file(Path(file), machines.devices)
    begun = begin(read, str(file), machines, model, framework, {"seq": seq, "batch": batch})
    space, mine = begun.space(fix, exclude), begun.mine()
    found = best_of(space, top=top, headroom=headroom)
    changes = changes_to(space, mine, found.best, headroom) if found.choices else ()
    return Improved(mine=mine, planned=found, changes=changes, unread=read.unread, notes=begun.notes)


def begin(
    read: Read,
    file: str,
    cluster: Cluster,
    model: str | None = None,
    framework: str | None = None,
    asked: Mapping[str, int | None] | None = None,
) -> Begun:
    """Return what a file asks; ``asked`` are ``seq`` and ``batch`` where they are not to be those of the file.

    Raises:
        ValueError: it does not say the model or the length of sequences, or its setup cannot be on these devices.
    """
    wanted = model or read.model
    if wanted is None:
        raise ValueError(f"--model is missing, and {file} does not say which it is; name one")
    said = read.fields | {name: value for name, value in (asked or {}).items() if value is not None}
    for name in ("seq", "batch"):
        if name not in said:
            raise ValueError(f"--{name} is missing, and {file} does not say it")
    stack = named(framework or read.framework)
    notes = []
    own = prod(said.get(name, 1) for name in ("tp", "cp", "pp", "dp"))
    if "dp" in said and own != cluster.devices:
        for name in ("dp", "shards"):
            said.pop(name, None)
        notes.append(f"{file} is for {own} devices, {cluster.name} has {cluster.devices}; dp takes them all")
    try:
        setup = filling(cluster.devices, **stack.usual | said)
    except ValueError as error:
        raise ValueError(f"{file} on {cluster.devices} devices: {error}") from None
    architecture = model_of(wanted) if isinstance(wanted, str) else wanted
    return Begun(model=architecture, stack=stack, cluster=cluster, setup=setup, notes=tuple(notes))
