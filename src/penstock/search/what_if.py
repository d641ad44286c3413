"""What would change: the best plan on other machines, longer sequences, more nodes or with a slow rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from penstock.core.cluster import Cluster, Link, Node
from penstock.core.setup import Setup
from penstock.predict.step import begun
from penstock.predict.straggler import slow_rank_s
from penstock.search.choice import Choice
from penstock.search.finals import predicted_of
from penstock.search.misses import grown
from penstock.search.planner import best_of
from penstock.search.space import Space
from penstock.units import human_bytes

SLOW_BY = 0.1
"""By how much the slow rank is slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one change comes to.

    Args:
        what: the change, in words.
        now_s, now_tokens_per_s: what the plan does without it.
        seconds, tokens_per_s: what the same split does with it, ``None`` where it cannot be.
        best: how the best one is split then; empty where none fits.
        best_seconds, best_tokens_per_s: what that one does.
        same: whether that is the same split.
        why: why the same split cannot be, or does not fit, or none does; in words.
    """

    what: str
    now_s: float
    now_tokens_per_s: float
    seconds: float | None = None
    tokens_per_s: float | None = None
    best: str = ""
    best_seconds: float | None = None
    best_tokens_per_s: float | None = None
    same: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Change:
    """In words, what it makes of the space, whether what was measured of machines must be left out, since it says
    nothing of machines that nobody has, and whether it adds nodes, which may also stand by."""

    what: str
    of: Callable[[Space], Space]
    measured_out: bool = False
    adds: bool = False


def what_if(
    space: Space, choices: Sequence[Choice], headroom: float, tell: Callable[[str], bool] = lambda what: True
) -> Iterator[Answer]:
    """Give what each change would make of the first of some choices, and of which choice is the best.

    Args:
        space: what they were chosen from.
        choices: the best, fastest first; with a slow rank the best is one of them, else of the whole space.
        headroom: share of a device's memory that stays free.
        tell: is told of each change; what follows is left out when it says ``False``.

    Example:
        >>> from penstock.search.planner import best_of
        >>> from penstock.search.space import space_of
        >>> space = space_of("llama-3-8b", "dgx-h100:1", seq=4096, batch=64, fix="tp=2,zero=1,cp=1,micro=1")
        >>> found = {one.what: one for one in what_if(space, best_of(space, top=3, headroom=0.05).choices, 0.05)}
        >>> one = found["products twice as fast"]
        >>> one.seconds < one.now_s, one.same
        (True, True)
    """
    for change in CHANGES:
        if not tell(change.what):
            return
        yield _answer(space, choices[0], change, headroom)
    yield _slow(space, choices)


def on_nodes(space: Space, change: Callable[[Node], Node]) -> Space:
    """Return the space on machines whose nodes are changed."""
    groups = tuple((change(node), count) for node, count in space.cluster.groups)
    return replace(space, cluster=replace(space.cluster, groups=groups))


def _twice(link: Link) -> Link:
    return replace(link, bytes_per_s=2 * link.bytes_per_s)


def _bigger(node: Node) -> Node:
    return replace(node, device=replace(node.device, memory_bytes=node.device.memory_bytes * 5 // 4))


def _faster(node: Node) -> Node:
    peaks = {precision: 2 * flops for precision, flops in node.device.matrix_flops.items()}
    return replace(node, device=replace(node.device, matrix_flops=peaks))


def _longer(space: Space) -> Space:
    """Sequences twice as long, as many tokens in a step."""
    base = space.base
    if base.batch % 2:
        raise ValueError(f"batch={base.batch} is odd, so that tokens of a step cannot stay as many")
    return replace(space, base=replace(base, seq=2 * base.seq, batch=base.batch // 2))


def _one_more(cluster: Cluster) -> Cluster:
    *rest, (node, count) = cluster.groups
    return replace(cluster, name=f"{cluster.name} and 1", groups=(*rest, (node, count + 1)), measured=None)


CHANGES = (
    _Change(
        "network twice as fast", lambda space: on_nodes(space, lambda node: replace(node, nic=_twice(node.nic))), True
    ),
    _Change(
        "links inside nodes twice as fast",
        lambda space: on_nodes(space, lambda node: replace(node, links=tuple(map(_twice, node.links)))),
        True,
    ),
    _Change("products twice as fast", lambda space: on_nodes(space, _faster), True),
    _Change("a quarter more memory", lambda space: on_nodes(space, _bigger)),
    _Change("sequences twice as long", _longer),
    _Change("one more node", lambda space: replace(space, cluster=_one_more(space.cluster)), True, True),
    _Change("twice the nodes", lambda space: replace(space, cluster=grown(space.cluster, 2)), True, True),
)


def _unmeasured(space: Space) -> Space:
    """The space on machines of which nothing was measured."""

    def bare(node: Node) -> Node:
        links = tuple(replace(link, curves=None) for link in node.links)
        device, nic = replace(node.device, curves=None), replace(node.nic, curves=None)
        return replace(node, links=links, device=device, nic=nic)

    plain = on_nodes(space, bare)
    return replace(plain, cluster=replace(plain.cluster, measured=None))


def _answer(space: Space, best: Choice, change: _Change, headroom: float) -> Answer:
    """The change's; what cannot be is said."""
    before = _unmeasured(space) if change.measured_out else space
    now = Answer(what=change.what, now_s=best.seconds, now_tokens_per_s=best.setup.tokens / best.seconds)
    if before.cluster != space.cluster and (bare := predicted_of(before, best.setup)) is not None:
        now = replace(now, now_s=bare.seconds, now_tokens_per_s=bare.setup.tokens / bare.seconds)
    try:
        after = change.of(before)
    except ValueError as error:
        return replace(now, why=str(error))
    found = _same_split(now, after, best.setup, headroom)
    try:
        then = best_of(after, top=1, headroom=headroom).choices
    except ValueError as error:
        return replace(found, why=str(error))
    if not then:
        return replace(found, why=found.why or "nothing fits")
    if change.adds and then[0].seconds >= now.now_s:
        slower = then[0].seconds / now.now_s - 1
        return replace(found, why=f"the best on {after.devices:,} devices is {slower:.0%} slower; better spare nodes")
    return _with_best(found, then[0], best.setup)


def _same_split(now: Answer, after: Space, setup: Setup, headroom: float) -> Answer:
    """What the same split does after a change, replicas taking what is left of the devices."""
    try:
        split = on_all(setup, after)
    except ValueError as error:
        return replace(now, why=str(error))
    same = predicted_of(after, split)
    if same is None:
        return replace(now, why="the same split cannot be")
    if same.headroom < headroom:
        return replace(now, why=f"needs {human_bytes(same.needed_bytes)} of {human_bytes(same.memory_bytes)}")
    return replace(now, seconds=same.seconds, tokens_per_s=split.tokens / same.seconds)


def on_all(setup: Setup, space: Space) -> Setup:
    """Return the same split of what a space asks for, on all its devices.

    Raises:
        ValueError: these, or the batch, cannot be split so.
    """
    each = setup.tp * setup.cp * setup.pp
    if space.devices % each:
        raise ValueError(f"tp, cp and pp take {each} devices, of which {space.devices} are no multiple")
    return replace(setup, seq=space.base.seq, batch=space.base.batch, dp=space.devices // each)


def _with_best(found: Answer, best: Choice, setup: Setup) -> Answer:
    then = best.setup
    return replace(
        found,
        best=best.split,
        best_seconds=best.seconds,
        best_tokens_per_s=then.tokens / best.seconds,
        same=_split(setup) == _split(then),
    )


def _split(setup: Setup) -> dict[str, Any]:
    """Its fields, but for those that follow from what is asked for and from how many devices there are."""
    return {name: value for name, value in asdict(setup).items() if name not in ("seq", "batch", "dp")}


def _slow(space: Space, choices: Sequence[Choice]) -> Answer:
    """One slow rank, which is the worst that it could be."""
    first = choices[0]
    slowed = [slow_rank_s(begun(space.model, space.cluster, choice.setup, space.stack), SLOW_BY) for choice in choices]
    seconds, at = min((each, place) for place, each in enumerate(slowed))
    now = Answer(
        what=f"one rank {SLOW_BY:.0%} slower",
        now_s=first.seconds,
        now_tokens_per_s=first.setup.tokens / first.seconds,
        seconds=slowed[0],
        tokens_per_s=first.setup.tokens / slowed[0],
    )
    return replace(_with_best(now, replace(choices[at], seconds=seconds), first.setup), same=at == 0)
