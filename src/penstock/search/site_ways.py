"""What each way to train over several sites takes: local updates, sums over sites, a pipeline over them, one alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from penstock.core.node import Node
from penstock.core.op import Kind
from penstock.core.setup import Setup
from penstock.cost.kernels import memory_bound
from penstock.cost.stack import Stack
from penstock.predict.across import Across, across
from penstock.predict.after import hides, on_host_s, unhidden_s
from penstock.predict.outer import WIDE_BYTES, Outer, outer_cost, rate_for
from penstock.predict.step import Step
from penstock.search.choice import Choice
from penstock.search.finals import Watch
from penstock.search.planner import best_of
from penstock.search.site_plan import Place, SitePlan
from penstock.search.sites import Sites
from penstock.search.space import Space

TRIED = 16
"""Strategies of a site that are tried with an outer optimizer, and of a pipeline with slow links between sites."""
PASSING = ("eager-1f1b", "gpipe")
"""Schedules that are tried over slow links beside 1F1B: they leave messages time to pass."""
MOVED_BYTES = 6 * WIDE_BYTES
"""Of a parameter in an outer step: outer parameter, momentum and gradient are read, the former two and the weight are
written."""
SHOWN_SHARE = 0.95
"""Share of inner steps in the time for which the needed rate of a link is told."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A strategy of a site, and its step."""

    choice: Choice
    step: Step

    @property
    def owned(self) -> float:
        """Parameters that the optimizer of the fullest device updates."""
        return float(self.step.owned.max())

    @property
    def node(self) -> Node:
        """Of the site."""
        return self.step.cluster.node_of(0)

    def headroom(self, each_bytes: float) -> float:
        """Return the share of a device's memory that is left beside so many bytes of each parameter ``owned``."""
        return self.choice.headroom - each_bytes * self.owned / self.choice.memory_bytes

    def update_s(self, place: Place) -> float:
        """Return the seconds of the outer optimizer on the fullest device, or through its host's memory and link."""
        if place == "device":
            return float(memory_bound(self.node.device, self.owned * MOVED_BYTES).seconds)
        return float(on_host_s(self.node, self.owned * 2 * WIDE_BYTES, self.owned * MOVED_BYTES))


@dataclass(frozen=True, eq=False)
class Inside:
    """Strategies of a site that fit, fastest first; ``why`` says why there is none to look at."""

    tried: tuple[Tried, ...]
    why: str = ""


def inside(space: Space, headroom: float, watch: Watch = lambda done, best: True) -> Inside:
    """Return the best strategies of the space of a site, watched as by ``best_of``."""
    try:
        found = best_of(space, top=TRIED, headroom=headroom, watch=watch)
    except ValueError as error:
        return Inside((), f"inside of a site, {error}")
    steps = (Step(space.model, space.cluster, one.setup, space.stack) for one in found.choices)
    return Inside(tuple(map(Tried, found.choices, steps)))


# -- local updates


def local(sites: Sites, each: list[Inside], name: str, outer: Outer, headroom: float) -> SitePlan | str:
    """Return local updates, with the outer optimizer where the average step is shortest; or why they cannot be."""
    found = [one for place in ("device", "host") if (one := _local(sites, each, name, outer, headroom, place))]
    if found:
        return min(found, key=lambda one: one.seconds)
    if whys := [one.why for one in each if one.why]:
        return whys[0]
    return "no strategy of a site leaves room for the outer optimizer, on its devices or in its host's memory"


def _local(sites: Sites, each: list[Inside], name: str, outer: Outer, headroom: float, place: Place) -> SitePlan | None:
    """The same in one place, each site with its fastest strategy that leaves room there."""
    state = sum(outer.state_bytes.values())
    here = state if place == "device" else 0.0
    fitting = [(one for one in site.tried if one.headroom(here) >= headroom) for site in each]
    picked = [one for some in fitting if (one := next(some, None))]
    if len(picked) < len(each):
        return None
    if place == "host" and any(state * one.owned * one.node.devices > one.node.host_bytes for one in picked):
        return None
    inner_s = max(one.choice.seconds for one in picked)
    update_s, parameters = max(one.update_s(place) for one in picked), picked[0].step.trained
    cost = outer_cost(outer, sites.uplink, inner_s=inner_s, parameters=parameters, update_s=update_s)
    fullest = min(picked, key=lambda one: one.headroom(here))
    return SitePlan(
        name=name,
        gradient_equal=False,
        seconds=cost.seconds,
        exposed_s=cost.exposed_s,
        update_s=cost.update_s,
        setups=tuple(one.choice.setup for one in picked),
        devices=sites.devices,
        usd_per_hour=sites.usd_per_hour,
        room=fullest.choice.peak,
        memory_bytes=fullest.choice.memory_bytes,
        every=cost.outer.every,
        outer_bytes={what: size * fullest.owned for what, size in outer.state_bytes.items()},
        outer_place=place,
        link_share=cost.link_share,
        needed_bytes_per_s=rate_for(cost.outer, sites.uplink, SHOWN_SHARE, inner_s=inner_s, parameters=parameters),
        source=outer.source,
    )


# -- synchronous ones


def data_parallel(sites: Sites, each: list[Inside]) -> SitePlan | str:
    """Return the best strategy inside each site with gradients summed over all in every step; or why there is none."""
    if not all(one.tried for one in each):
        return next((one.why for one in each if one.why), "no strategy fits on a site")
    bests, steps = ([getattr(one.tried[0], name) for one in each] for name in ("choice", "step"))
    stack = steps[0].stack
    if why := _lacks(stack, "dp"):
        return why
    whole_s = sites.uplink.sum_s(steps[0].trained * stack.reduced_bytes)
    backward_s = min(max(step.op_s[Kind.B, stages].sum() for stages in step.on) for step in steps)
    hidden = all(hides(step.setup, "gradients") for step in steps)
    shown_s = float(unhidden_s(stack, whole_s, backward_s)) if hidden else whole_s
    seconds = max(one.seconds for one in bests) + shown_s
    fullest = min(bests, key=lambda one: one.headroom)
    return SitePlan(
        name="data parallel over sites",
        gradient_equal=True,
        seconds=seconds,
        exposed_s=shown_s,
        setups=tuple(one.setup for one in bests),
        devices=sites.devices,
        usd_per_hour=sites.usd_per_hour,
        room=fullest.peak,
        memory_bytes=fullest.memory_bytes,
        link_share=min(1.0, whole_s / seconds),
    )


def alone(space: Space, sites: Sites, headroom: float) -> SitePlan | str:
    """Return the whole batch on the site on which it is fastest; or why it cannot be."""
    found, whys, seen = [], ["no strategy fits on a site"], set()
    for place, cluster in enumerate(sites.clusters, 1):
        if cluster.groups not in seen:
            one = inside(replace(space, cluster=cluster), headroom)
            found += [(best.choice, place, cluster) for best in one.tried[:1]]
            whys += [one.why] if one.why else []
        seen.add(cluster.groups)
    if not found:
        return whys[-1]
    best, place, cluster = min(found, key=lambda one: one[0].seconds)
    return SitePlan(
        name=f"site {place} alone",
        gradient_equal=True,
        seconds=best.seconds,
        setups=(best.setup,),
        devices=cluster.devices,
        usd_per_hour=cluster.usd_per_hour,
        room=best.peak,
        memory_bytes=best.memory_bytes,
    )


def pipelined(space: Space, sites: Sites, headroom: float) -> SitePlan | str:
    """Return the best pipeline whose ranks are dealt to the sites; or why there is none."""
    if len({cluster.devices for cluster in sites.clusters}) > 1:
        return f"sites of {' and '.join(str(c.devices) for c in sites.clusters)} devices have no equal parts of it"
    if space.free("pp") and (why := _lacks(space.stack, "pp")):
        return why
    found: list[Across] = []
    for setup in _setups(space, sites, headroom):
        try:
            one = across(space.model, sites.clusters, sites.uplink, setup, space.stack)
        except ValueError:
            continue
        if one.headroom >= headroom:
            found.append(one)
    if not found:
        return f"no pipeline of a multiple of {len(sites.clusters)} ranks fits"
    best = min(found, key=lambda one: one.seconds)
    instant = replace(sites.uplink, bytes_per_s=inf, latency_s=0.0)
    free = across(space.model, sites.clusters, instant, best.setup, space.stack)
    room, memory_bytes = best.fullest
    return SitePlan(
        name="pipeline over sites",
        gradient_equal=True,
        seconds=best.seconds,
        exposed_s=best.seconds - free.seconds,
        setups=(best.setup,),
        devices=sites.devices,
        usd_per_hour=sites.usd_per_hour,
        room=room,
        memory_bytes=memory_bytes,
        link_share=min(1.0, best.message_s * best.setup.micros * best.setup.chunks / best.seconds),
    )


def _lacks(stack: Stack, axis: str) -> str:
    """Why a framework cannot split an axis; empty where it can."""
    return "" if stack.splits(axis) else f"{stack.name} splits {' and '.join(stack.axes)} alone"


def _setups(space: Space, sites: Sites, headroom: float) -> Iterator[Setup]:
    """Pipelines that are fast where links are, and the same with schedules that leave messages time to pass."""
    count, node = len(sites.clusters), sites.clusters[0].groups[0][0]
    nodes = sum(cluster.nodes for cluster in sites.clusters)
    ranks = tuple(p for p in range(count, space.model.layers + 1, count) if sites.devices % p == 0)
    wanted = tuple(p for p in ranks if p in space.fixed.get("pp", ranks))
    if not wanted:
        return
    plain = space.free("schedule") and space.free("chunks")
    fixed = space.fixed | {"pp": wanted} | ({"schedule": ("1f1b",)} if plain else {})
    part = replace(space, cluster=replace(space.cluster, groups=((node, nodes),), measured=None), fixed=fixed)
    if not any(len(part.grid([split])) for split in part.splits()):
        return
    for one in best_of(part, top=TRIED, headroom=0.0).choices:
        yield one.setup
        yield from (replace(one.setup, schedule=name) for name in PASSING if plain)
