"""Orders of axes over devices that a search tries: those in which some group crosses other links."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from penstock.core import mesh
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.parts import Experts
from penstock.core.setup import Setup
from penstock.core.unchecked import like
from penstock.predict.split import between_stages
from penstock.search.wishes import Wishes

if TYPE_CHECKING:
    from penstock.search.space import Space, Split

NAMES = {"cp": "context", "dp": "data", "pp": "pipeline"}


def check_experts(model: Architecture, fixed: Wishes) -> None:
    """Do nothing where what somebody fixes of experts has a meaning: the model has some.

    Raises:
        ValueError: it has none.
    """
    if any(isinstance(block.mlp, Experts) for block in model.kinds()):
        return
    for name, plain in (("ep", 1), ("etp", 1), ("ep_overlap", "own")):
        if name in fixed and not {plain, "off"} & {*fixed[name]}:
            said = "/".join(map(str, fixed[name]))
            raise ValueError(f"{name}={said}: {model.name} has no experts; use {name}={plain}")


def experts_of(space: Space, tp: int, ranks: int) -> list[tuple[int, int]]:
    """Return pairs of ``ep`` and ``etp``: experts are whole, or their columns are split over the ``tp`` ranks where the
    framework does so, and where there are no more experts to share out."""
    most = max((b.mlp.experts for b in space.model.kinds() if isinstance(b.mlp, Experts)), default=1)
    free = [d for d in range(1, most + 1) if most % d == 0 and ranks * tp % d == 0]
    pairs = []
    for ep in space.values("ep", free):
        columns = (tp,) if space.stack.split_experts and ep > 1 else (1, tp) if 1 < ep == most else (1,)
        pairs += [(ep, etp) for etp in space.values("etp", columns)]
    return [(ep, etp) for ep, etp in dict.fromkeys(pairs) if ranks * tp % (ep * etp) == 0]


def meshes_of(
    space: Space, split: Split, experts: Iterable[tuple[int, int]], orders: Sequence[str]
) -> list[tuple[int, int, int]]:
    """Return triples of ``ep``, ``etp`` and a place among orders.

    An order is left out where an earlier one has the same links for all groups, and where experts would have other
    pipelines than all else.
    """
    has = any(isinstance(block.mlp, Experts) for block in space.model.kinds())
    return _apart(space.cluster, split, tuple(experts), tuple(orders), has)


@lru_cache(maxsize=32768)
def _apart(
    cluster: Cluster, split: Split, experts: tuple[tuple[int, int], ...], orders: tuple[str, ...], has: bool
) -> list[tuple[int, int, int]]:
    """The same on a cluster; ``has``: whether there are experts."""
    tp, cp, pp, dp = split
    sizes = {"cp": cp, "dp": dp, "pp": pp}
    differ = {
        "-".join(axis for axis in order.split("-")[1:] if sizes[axis] > 1): place
        for place, order in [*enumerate(orders)][::-1]
    }
    if len(differ) == 1 and not has:
        return [(ep, etp, place) for ep, etp in experts for place in differ.values()]
    found, one = [], Setup(seq=1, batch=dp, tp=tp, cp=cp, pp=pp, dp=dp)
    for ep, etp in experts:
        seen: set[Any] = set()
        for place in sorted(differ.values()):
            setup = like(one, ep=ep, etp=etp, order=orders[place])
            links = _links(cluster, setup) if len(differ) > 1 else None
            if links not in seen and (not has or mesh.pipes_agree(setup)):
                seen.add(links)
                found.append((ep, etp, place))
    return found


def _links(cluster: Cluster, setup: Setup) -> tuple[Any, ...]:
    """What each group of a setup crosses."""
    rows = [of(setup) for of in (mesh.context, mesh.experts, mesh.replicas, mesh.expert_replicas)]
    paths = (cluster.slowest(*row, devices=setup.devices) for row in rows)
    return (between_stages(cluster, mesh.stages(setup), setup.devices), *paths)


def nearest_axis(setup: Setup, node_devices: int) -> str:
    """Return in words which axis lies next to tensor parallelism in a setup's order."""
    axis = next((name for name in setup.order.split("-")[1:] if getattr(setup, name) > 1), "")
    if not axis:
        return ""
    inside = mesh.stride(setup, axis) < node_devices
    return f"{NAMES[axis]} parallel {'inside the node' if inside else 'next to tensor parallel'}"
