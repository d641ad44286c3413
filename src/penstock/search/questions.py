"""Verbs that answer how many nodes, how long a sequence and how large a model."""

from __future__ import annotations

from math import inf
from pathlib import Path

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.members import family
from penstock.core.config.text import model_of
from penstock.core.setup import FRAMEWORK
from penstock.cost.stack import Stack
from penstock.search.batches import batches_of
from penstock.search.fleet import Sized, fleet_of
from penstock.search.largest import Member, largest
from penstock.search.longest import Longest, longest
from penstock.search.numbers import of_one
from penstock.search.planner import HEADROOM
from penstock.search.sizing import Limits, sized
from penstock.search.space import space_of
from penstock.search.wishes import Wished


def size_cluster(
    model: str | Path | Architecture,
    cluster: str | Path | Cluster,
    framework: str | Stack = FRAMEWORK,
    *,
    seq: int,
    batch: int | str | None,
    tokens: float,
    deadline_s: float = inf,
    budget_usd: float = inf,
    nodes: str = "",
    fix: Wished = None,
    exclude: Wished = None,
    headroom: float = HEADROOM,
) -> Sized:
    """Return the fewest nodes that train so many tokens in time, or, without a deadline, the fastest number of them.

    Args:
        model, cluster, framework, seq, fix, exclude, headroom: as ``plan`` takes them.
        batch: sequences per step, or several of which each number of nodes has its best: ``"512..2048"``,
            ``"512/1024"``; ``None``: what published laws suggest, rounded to the devices.
        tokens: of the whole training.
        deadline_s, budget_usd: what it may take.
        nodes: numbers to choose from, ``"8..64"`` or ``"8/16/32"``; left out, up to those of the cluster, or 1,024
            where its name has no number.

    Raises:
        ValueError: none is within the limits (it says the earliest end, or the least cost), or as ``plan`` raises it.

    Example:
        >>> asked = {"seq": 4096, "batch": 64, "tokens": 1e11, "fix": "cp=1,zero=1,recompute=none,tp=2"}
        >>> found = size_cluster("llama-3-8b", "dgx-h100:8", **asked, deadline_s=5 * 86400)
        >>> found.nodes, found.choice.setup.devices
        (4, 32)
    """
    machines = cluster if isinstance(cluster, Cluster) else Cluster.read(cluster)
    architecture = model if isinstance(model, Architecture) else model_of(str(model))
    batches = batches_of(batch, architecture, seq, machines.devices, tokens)
    fleet = fleet_of(
        lambda grown: of_one(
            space_of(
                architecture, grown, framework, seq=seq, batch=batches.on(grown.devices)[0], fix=fix, exclude=exclude
            )
        ),
        machines,
        nodes,
        headroom=headroom,
        batches=batches,
    )
    return sized(fleet, Limits(tokens / fleet.space.base.tokens, deadline_s, budget_usd))


def longest_sequence(
    model: str | Path | Architecture,
    cluster: str | Path | Cluster,
    framework: str | Stack = FRAMEWORK,
    *,
    seq: int,
    batch: int | str | None,
    fix: Wished = None,
    exclude: Wished = None,
    top: int = 20,
    headroom: float = HEADROOM,
) -> Longest | None:
    """Return the longest sequence for which a strategy fits, a multiple of 1,024; ``None`` if none does.

    Args:
        seq, batch: say how many tokens a step has, which stay (see ``longest``); of several batches the largest counts.
        model, cluster, framework, fix, exclude, top, headroom: as ``plan`` takes them.

    Raises:
        ValueError: as ``plan`` raises it.

    Example:
        >>> fix = "tp=8,zero=1,recompute=full"
        >>> found = longest_sequence("llama-3-8b", "dgx-h100:1", seq=8192, batch=32, fix=fix, top=1)
        >>> found.seq, found.batch
        (262144, 1)
    """
    machines = cluster if isinstance(cluster, Cluster) else Cluster.read(cluster)
    architecture = model if isinstance(model, Architecture) else model_of(str(model))
    most = batches_of(batch, architecture, seq, machines.devices).on(machines.devices)[0]
    space = of_one(space_of(architecture, machines, framework, seq=seq, batch=most, fix=fix, exclude=exclude))
    return longest(space, top=top, headroom=headroom)


def largest_model(
    name: str,
    cluster: str | Path | Cluster,
    framework: str | Stack = FRAMEWORK,
    *,
    seq: int,
    batch: int | str | None,
    fix: Wished = None,
    exclude: Wished = None,
    top: int = 20,
    headroom: float = HEADROOM,
) -> list[Member]:
    """Return the models of a family from the largest on, up to the first for which a strategy fits.

    Args:
        name: how names of the catalogue begin, such as ``"llama-3"``, or one of them; or ``"gpt:"`` with any sizes but
            ``layers``, from which the others follow then.
        cluster, framework, seq, batch, fix, exclude, top, headroom: as ``plan`` takes them.

    Raises:
        ValueError: no name begins so, or as ``plan`` raises it.

    Example:
        >>> found = largest_model("llama-2", "dgx-h100:1", seq=4096, batch=64, fix="zero=1,cp=1,recompute=full", top=1)
        >>> [(one.model.name, bool(one.choices)) for one in found]
        [('llama-2-70b', False), ('llama-2-13b', True)]
    """
    machines = cluster if isinstance(cluster, Cluster) else Cluster.read(cluster)
    models = family(name, machines.devices * machines.device.memory_bytes, seq)

    def batch_of(model: Architecture) -> int:
        return batches_of(batch, model, seq, machines.devices).on(machines.devices)[0]

    sizes = {"seq": seq, "batch": batch_of(models[0])}
    space = of_one(space_of(models[0], machines, framework, **sizes, fix=fix, exclude=exclude))
    return largest(space, models, top=top, headroom=headroom, batch_of=batch_of)
