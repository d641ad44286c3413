"""What a search may decide besides the order, as flags of ``penstock solve``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.core.costs import Costs
    from penstock.core.placement import Placement
    from penstock.cost import Pricing
    from penstock.search.ways import Way

CHOICES = ("cut", "recompute", "selective", "offload", "vocabulary")
DEFAULT_PLACEMENTS = "line,v,loop2,loop4,v4"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is searched."""

    placements: str = DEFAULT_PLACEMENTS
    """Where stages may live: line, v, loopN (N chunks per rank in turn), vN (N chunks to and fro), both (two directions
    over two copies of the weights), or the rank of each stage as 0:1:1:0; any of these but the last with x2, x3 or x4
    behind it (each stage in so many parts that follow each other on its rank); separated by commas."""
    allow: Annotated[str, Parameter(show_default=False)] = ""
    """What else may be decided, separated by commas: cut (how many layers each stage has), recompute (which forwards
    run again in the backward), selective (the same, keeping what matrix products and attention gave), offload (which
    activations wait in host memory), vocabulary (head and embedding split over all ranks)."""
    layers: int | None = None
    """Layers of the model, all equal, that F, I and W are the times of; a file of costs per layer says so itself."""
    head: float = 0.0
    """Time of the output head's forward with the loss, on top of the last stage's; the gradients of its input and of
    its weights take as long each."""
    embedding: float = 0.0
    """Time of the input embedding's forward, and of its backward, on top of the first stage's."""


DEFAULT_CHOICES = Choices()


def ways(choices: Choices, pricing: Pricing, ranks: int, memory: float) -> tuple[dict[str, Way], float]:
    """All ways to search, by name, and the limit in bytes: the same for all, since they hold the same model.

    Of the default placements only those that the costs can be spread over.
    """
    from penstock.cost import layered, whole_bytes

    allowed = _allowed(choices.allow)
    for name in ("head", "embedding"):
        value = getattr(choices, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"--{name} {value:g}: times are finite and not negative")
    if choices.layers is not None:
        pricing = layered(pricing, ranks, choices.layers)
    if "cut" in allowed and not pricing.layers:
        raise ValueError("--allow cut: say how many layers there are with --layers, or give a file of costs per layer")
    if "vocabulary" in allowed and not choices.head + choices.embedding:
        raise ValueError("--allow vocabulary: say with --head and --embedding what is to be split")
    found: dict[str, Way] = {}
    for name, place in _placements(choices.placements, ranks).items():
        try:
            begun = _begun(name, place, pricing, choices, allowed)
        except ValueError:
            if choices.placements != DEFAULT_PLACEMENTS:
                raise
            continue
        found |= begun
    if not found:
        raise ValueError(f"--placements {choices.placements}: the costs fit none of them")
    whole = min(whole_bytes(way.placement, way.costs) for way in found.values())
    limit = memory * whole
    best = {way.placement: (name, way) for name, way in reversed(found.items()) if way.plain}
    for name, way in best.values():
        found |= _more(name, way, allowed, limit)
    _check_memory(found, memory, whole)
    return found, limit


def _check_memory(found: dict[str, Way], memory: float, whole: float) -> None:
    """Raises: ValueError: no way holds one micro-batch, whatever the order."""
    least = {name: way.least_bytes / whole if way.loose <= 1 else 0.0 for name, way in found.items()}
    name = min(least, key=least.__getitem__)
    if memory < least[name] * (1 - 1e-9):
        enough = math.ceil(least[name] * 1e4 * (1 - 1e-9)) / 1e4
        raise ValueError(f"--memory {memory:g} does not hold one micro-batch; it needs at least {enough:g}, on {name}")


def _allowed(text: str) -> set[str]:
    from penstock.core.words import suggest

    found = {part.strip() for part in text.split(",") if part.strip()}
    for part in sorted(found - {*CHOICES}):
        raise ValueError(f"--allow {part}: unknown; {suggest(part, CHOICES)}")
    return found


def _begun(name: str, place: Placement, pricing: Pricing, choices: Choices, allowed: set[str]) -> dict[str, Way]:
    """A placement with its cuts, or an even one, and with its vocabulary split."""
    from penstock.cost import with_whole
    from penstock.search.choices import with_cuts, with_vocabulary
    from penstock.search.ways import Way

    def whole(place: Placement, *cut: Sequence[int]) -> Costs:
        return with_whole(pricing.on(place, *cut), place, choices.head, choices.embedding)

    def ways_at(on: Callable[..., Costs]) -> dict[str, Way]:
        if "cut" not in allowed:
            return {name: Way(place, on(place))}
        return {f"{name} {what}": way for what, way in with_cuts(place, pricing.layers, on).items()}

    found = ways_at(whole)
    if "vocabulary" in allowed and place.chains == 1:
        bare = next(iter(ways_at(pricing.on).values()))
        more = with_vocabulary(bare, choices.head, choices.embedding)
        found |= {f"{name} {what}": way for what, way in more.items()}
    return found


def _more(name: str, way: Way, allowed: set[str], limit: float) -> dict[str, Way]:
    """A plain way with less memory."""
    from penstock.engine.passes import SELECTIVE
    from penstock.search.choices import to_fit, with_copies, with_recompute

    found: dict[str, Way] = {}
    for what, (kept, time) in (("recompute", (None, 1.0)), ("selective", SELECTIVE)):
        if what in allowed:
            both = with_recompute(way, kept, time) | to_fit(way, kept, time, limit)
            found |= {f"{name} {what} {words}": one for words, one in both.items()}
    if "offload" in allowed:
        found |= {f"{name} {words}": one for words, one in with_copies(way).items()}
    return found


def _placements(text: str, ranks: int) -> dict[str, Placement]:
    """Placements by name, each once."""
    found: dict[str, Placement] = {}
    for name in dict.fromkeys(part.strip() for part in text.split(",")):
        place = placement(name, ranks)
        if place not in found.values():
            found[name] = place
    return found


def placement(name: str, ranks: int) -> Placement:
    """The placement of a name.

    Example:
        >>> placement("loop2", 2).rank_of, placement("0:1:1", 2).rank_of
        ((0, 1, 0, 1), (0, 1, 1))
        >>> placement("vx2", 2).rank_of
        (0, 0, 1, 1, 1, 1, 0, 0)
    """
    from penstock.core.placement import Placement

    if ranks < 1:
        raise ValueError(f"--ranks {ranks}; it must be at least 1")
    shapes = {"line": Placement.loop, "both": Placement.both_ways, "v": Placement.vee}
    if name in shapes:
        return shapes[name](ranks)
    cut = re.fullmatch(r"([a-z]+\d*)x([2-4])", name)
    if cut:
        return placement(cut[1], ranks).in_parts(int(cut[2]))
    many = re.fullmatch(r"(loop|v)([1-9]\d?)", name)
    if many:
        return (Placement.loop if many[1] == "loop" else Placement.vee)(ranks, int(many[2]))
    if re.fullmatch(r"\d+(:\d+)+", name):
        rank_of = tuple(map(int, name.split(":")))
        if {*rank_of} != {*range(ranks)}:
            raise ValueError(f"--placements {name}: give stages to all ranks, 0 to {ranks - 1}, and to no other")
        return Placement(rank_of)
    known = "line, v, loop2, loop4, v4, v4x2, both or the rank of each stage as 0:1:1:0"
    raise ValueError(f"--placements {name!r}: unknown; write {known}, separated by commas")
