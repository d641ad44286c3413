"""The verb ``tune_plans``: ways to fine-tune side by side, the best strategy and the fewest devices for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.words import all_divisors, suggest
from penstock.predict.micro import Rank
from penstock.predict.sizes import parameters, trained
from penstock.predict.stage import Stage
from penstock.search.choice import Choice, Planned
from penstock.search.finals import Tell, Watch, on, told
from penstock.search.misses import MOST_TIMES, frugal, grown, least
from penstock.search.planner import HEADROOM, best_of
from penstock.search.space import Space

RANK = 16
"""Of adapters, where none is given: that of Megatron-Bridge's recipe for LoRA of Llama 3 70B; the 8B has 8 there."""
HALF_BYTES = 2.0
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Of a parameter in NF4 with double quantisation: 4 bits, a scale of 8 bits for each 64 parameters, and one of 32 bits
for each 256 of these scales (Dettmers et al. 2023, arXiv:2305.14314, section 3)."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """A way to fine-tune: whether adapters are trained in place of the weights, and what is published of it.

    ``block_bytes``: of a parameter of a block that stays as it is; those of embedding and head stay in 16 bits.
    """

    adapters: bool
    block_bytes: float
    source: str

    def frozen_bytes(self, model: Architecture) -> float:
        """Return the mean over all parameters that are not trained, to four digits."""
        inside = sum(block.parameters for block in model.blocks) / model.parameters
        return round(inside * self.block_bytes + (1 - inside) * HALF_BYTES, 4)


TUNINGS = {
    "full": Tuning(False, HALF_BYTES, "all weights are trained"),
    "lora": Tuning(True, HALF_BYTES, "Hu et al. 2021, arXiv:2106.09685"),
    "qlora": Tuning(True, NF4_BYTES, "Dettmers et al. 2023, arXiv:2305.14314"),
}
"""Ways to fine-tune, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a way to fine-tune takes.

    Args:
        name: of ``TUNINGS``.
        parameters, trained: of the whole model, and those that are trained.
        planned: the best strategies on all devices.
        fewest: the best strategy on the fewest devices on which one fits; ``None`` if none does on 64 times the nodes.
        stopped: whether the search ended early: what is known by then is all.
    """

    name: str
    parameters: float
    trained: float
    planned: Planned
    fewest: Choice | None
    stopped: bool = False

    @property
    def tuning(self) -> Tuning:
        """What it is."""
        return TUNINGS[self.name]


def tunings_of(text: str) -> tuple[str, ...]:
    """Return the names in ``all`` or ``lora,qlora``.

    Raises:
        ValueError: one is unknown.
    """
    names = tuple(TUNINGS) if text == "all" else tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in TUNINGS:
            raise ValueError(f"--tune {text}: {name!r} is no way to fine-tune; {suggest(name, [*TUNINGS, 'all'])}")
    return names


def tune_plans(
    space: Space,
    names: Iterable[str] = tuple(TUNINGS),
    *,
    rank: int = RANK,
    top: int = 1,
    headroom: float = HEADROOM,
    tell: Tell = on,
) -> list[Tuned]:
    """Return the best strategies of each way to fine-tune.

    Args:
        space: what there is to choose from; its ``adapter`` and ``frozen_bytes`` are those of each way.
        names: of ``TUNINGS``.
        rank: of the adapters.
        top, headroom: as ``plan`` takes them.
        tell: is called with what is looked at; the search ends with what is known when it says ``False``.

    Raises:
        ValueError: as ``plan``, or a rank below 1.

    >>> from penstock.search.space import space_of
    >>> space = space_of("llama-3-8b", "dgx-h100:1", seq=2048, batch=16, fix="cp=1,pp=1,recompute=full")
    >>> [(found.name, found.fewest.setup.devices) for found in tune_plans(space)]
    [('full', 2), ('lora', 1), ('qlora', 1)]
    """
    if rank < 1:
        raise ValueError(f"adapters of rank {rank} are none; use 1 or more, for example {RANK}")
    each = (_tuned(_of(space, TUNINGS[name], rank), name, top, headroom, tell) for name in names if tell(name))
    return [one for one in each if one.planned.choices or not one.stopped]


def _of(space: Space, way: Tuning, rank: int) -> Space:
    """The space of a way."""
    more = {"adapter": rank, "frozen_bytes": way.frozen_bytes(space.model)} if way.adapters else {"adapter": 0}
    return replace(space, base=replace(space.base, **more))


def _tuned(space: Space, name: str, top: int, headroom: float, tell: Tell) -> Tuned:
    whole = Stage(space.model.kinds(), 1, 1)
    one = Rank(space.model, space.cluster, replace(space.base, micro=1), space.stack)
    planned = best_of(space, top=top, headroom=headroom, watch=told(tell, name))
    fewest = _fewest(space, headroom, told(tell, f"{name} on fewer devices"))
    return Tuned(
        name=name,
        parameters=float(sum(parameters(space.model, space.base, *whole.held))),
        trained=float(sum(trained(one, *whole.held))),
        planned=planned,
        fewest=fewest,
        stopped=not tell(name),
    )


def _fewest(space: Space, headroom: float, watch: Watch) -> Choice | None:
    """The best strategy on the fewest devices: parts of a node, then whole nodes, twice as many at a time."""
    for cluster in _clusters(space.cluster):
        part = replace(space, cluster=cluster)
        if not watch(0, None):
            return None
        needed, _ = least(frugal(part))
        if needed <= cluster.device.memory_bytes:
            found = best_of(part, top=1, headroom=headroom, watch=watch)
            if found.choices:
                return found.best
    return None


def _clusters(cluster: Cluster) -> Iterator[Cluster]:
    node, _ = cluster.groups[0]
    for devices in all_divisors(node.devices)[:-1]:
        yield replace(
            cluster, name=f"{devices} devices of {node.name}", groups=((node.part(devices), 1),), measured=None
        )
    alone = replace(cluster, groups=((node, 1),), measured=None)
    times = 1
    while times <= MOST_TIMES * cluster.nodes:
        yield grown(alone, times)
        times *= 2
