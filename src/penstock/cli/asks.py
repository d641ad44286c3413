"""Questions of ``penstock plan`` beyond the fastest strategy: how many nodes, which cluster, how long, how large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.core.setup import FRAMEWORK

if TYPE_CHECKING:
    from penstock.core.architecture import Architecture
    from penstock.core.cluster import Cluster
    from penstock.core.setup import Setup
    from penstock.cost.stack import Stack
    from penstock.search.batches import Batches
    from penstock.search.space import Space


@dataclass(frozen=True, kw_only=True)
class Asks:
    """Flags of questions; none is asked by default."""

    deadline: Annotated[
        str | None,
        Parameter(help="the fewest nodes that train --tokens in this time, for example 30d or 12h."),
    ] = None
    budget: Annotated[
        float | None,
        Parameter(help="US dollars that the training may cost; alone, the fastest number of nodes that costs no more."),
    ] = None
    nodes: Annotated[
        str | None,
        Parameter(
            help="numbers of nodes to compare, for example 8..64 or 8/16/32; left out, up to those of --cluster."
        ),
    ] = None
    longest: Annotated[
        bool,
        Parameter(negative="", help="the longest sequence that fits, at the tokens of a step of --seq and --batch."),
    ] = False
    largest: Annotated[
        bool,
        Parameter(
            negative="",
            help="the largest model that fits of those whose names begin as --model does, or of gpt: without layers.",
        ),
    ] = False


NO_ASKS = Asks()


@dataclass(frozen=True)
class Training:
    """What is planned, but for the machines; fields are flags of ``penstock plan``."""

    model: str
    framework: str
    seq: int
    batch: str | None
    tokens: float | None
    fix: tuple[str, ...]
    exclude: tuple[str, ...]
    top: int
    headroom: float

    def batches(self, cluster: Cluster, model: Architecture | None = None) -> Batches:
        """Those that are asked for, or what laws suggest for the model or another."""
        from penstock.search.batches import batches_of

        return batches_of(self.batch, model or self.architecture(), self.seq, cluster.devices, self.tokens)

    def space(self, cluster: Cluster, model: Architecture | None = None) -> Space:
        """The strategies on a cluster, of the model or another, with the largest of its batches."""
        from penstock.search.numbers import of_one
        from penstock.search.space import space_of

        asked = model or self.architecture()
        sizes = {"seq": self.seq, "batch": self.batches(cluster, model).on(cluster.devices)[0]}
        return of_one(space_of(asked, cluster, self.framework, **sizes, fix=self.fix, exclude=self.exclude))

    def architecture(self) -> Architecture:
        """The model."""
        from penstock.core.config.text import model_of

        return model_of(self.model)

    def asked(self, cluster: str) -> dict[str, Any]:
        """The question, by names for scripts."""
        batch = int(self.batch) if self.batch is not None and self.batch.isdecimal() else self.batch
        sizes = {"seq": self.seq, "batch": batch, "tokens": self.tokens}
        return {"model": self.model, "cluster": cluster, "framework": self.framework} | sizes


def training_of(
    model: str | None, framework: str | None, seq: int | None, batch: str | None, tokens: float | None, *others: Any
) -> Training:
    """Return what is planned, from flags that may be left out elsewhere; ``others`` as in ``Training``.

    Raises:
        ValueError: model or seq is left out, or the batch is none.
    """
    from penstock.search.batches import read_batches

    if model is None or seq is None:
        raise ValueError(
            f"--{'model' if model is None else 'seq'} is missing; questions beyond one plan need --model and --seq"
        )
    if batch is not None:
        read_batches(batch, seq)
    return Training(model, framework or FRAMEWORK, seq, batch, tokens, *others)


@dataclass(frozen=True)
class Answer:
    """What is printed and written: facts for scripts, a printer for people, and the best, if any, for exports."""

    facts: dict[str, Any]
    show: Callable[[], None]
    best: tuple[Architecture, Cluster, Setup, Stack] | None


def machines_of(clusters: Iterable[str], rents: tuple[float, ...]) -> dict[str, Cluster]:
    """Return clusters by the words that name them, with rents of their nodes in place of the catalogue's: one for all,
    or one for each.

    Raises:
        ValueError: an unknown name, one twice, or another number of rents.
    """
    from penstock.cli.machines import priced
    from penstock.core.cluster import Cluster

    names = [name.strip() for text in clusters for name in text.split(",") if name.strip()]
    if len(set(names)) < max(1, len(names)):
        raise ValueError(f"--cluster {','.join(names)}: name one or several different clusters")
    if len(rents) not in (0, 1, len(names)):
        raise ValueError(f"--usd-per-hour is given {len(rents)} times for {len(names)} clusters; give one, or one each")
    each = (rents or (None,)) * (len(names) if len(rents) < 2 else 1)
    return {name: priced(Cluster.read(name), rent) for name, rent in zip(names, each, strict=True)}


def refuse(given: Mapping[str, Any]) -> None:
    """Refuse flags that are of one plan.

    Raises:
        ValueError: one is given.
    """
    for name, value in given.items():
        if value:
            raise ValueError(f"--{name} is of the plan of one cluster; ask for that by itself")


def answer(
    asks: Asks,
    training: Training,
    machines: dict[str, Cluster],
    json: list[Path] | None,
    export: list[str] | None,
) -> None:
    """Answer a question: print it, and write files.

    Raises:
        ValueError: questions that do not go together, something is missing for one, or there is no answer.
    """
    from penstock.cli import asks_limits as limits
    from penstock.cli import asks_sizes as sizes
    from penstock.cli.export import check_written, checked, write_exports
    from penstock.cli.json import json_file, write_facts
    from penstock.cli.progress import watching

    json_file(json)
    targets = checked(export, json or [])
    alone = Asks(longest=asks.longest, largest=asks.largest)
    if (asks.longest or asks.largest) and (asks != alone or asks.longest == asks.largest or len(machines) > 1):
        raise ValueError("--longest and --largest are questions of their own, of one cluster; ask one at a time")
    with watching() as watch:
        if asks.longest:
            found = limits.longest_answer(training, machines, watch)
        elif asks.largest:
            found = limits.largest_answer(training, machines, watch)
        else:
            found = sizes.sizes_answer(asks, training, machines, watch)
    cannot = [] if found.best is None else write_exports(targets, *found.best)
    write_facts(found.facts, json, found.show)
    check_written(cannot)
