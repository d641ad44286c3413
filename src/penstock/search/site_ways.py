"""What each way to train over several sites takes: local updates, sums over sites, a pipeline over them, one alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from penstock.core.node import Node
from penstock.core.op import Kind
from penstock.core.setup import Setup
from penstock.cost.constants import constants
from penstock.cost.kernels import memory_bound
from penstock.predict.across import Across, across
from penstock.predict.outer import WIDE_BYTES, Outer, OuterCost, outer_cost, rate_for
from penstock.predict.step import Step
from penstock.search.choice import Choice
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
class Inside:
    """Strategies of a site that fit, fastest first, each with its step; ``why`` says why there is none to look at."""

    node: Node
    choices: tuple[Choice, ...]
    steps: tuple[Step, ...]
    why: str = ""

    def fitting(self, each_bytes: float, headroom: float) -> int | None:
        """Return the place of the fastest with room on its devices for so many bytes more of each parameter that a
        device's optimizer updates."""
        for place, (one, step) in enumerate(zip(self.choices, self.steps, strict=True)):
            needed = one.needed_bytes + each_bytes * float(step.owned.max())
            if needed <= (1 - headroom) * one.memory_bytes:
                return place
        return None


def inside(space: Space, headroom: float) -> Inside:
    """Return the best strategies of the space of a site."""
    try:
        found = best_of(space, top=TRIED, headroom=headroom)
    except ValueError as error:
        return Inside(space.cluster.node_of(0), (), (), f"inside of a site, {error}")
    steps = tuple(Step(space.model, space.cluster, one.setup, space.stack) for one in found.choices)
    return Inside(space.cluster.node_of(0), found.choices, steps)


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
    """The same in one place."""
    state = sum(outer.state_bytes.values())
    at = [one.fitting(state if place == "device" else 0.0, headroom) for one in each]
    picked = [(one, n) for one, n in zip(each, at, strict=True) if n is not None]
    if len(picked) < len(each):
        return None
    if place == "host" and any(_host_bytes(one, n, state) > one.node.host_bytes for one, n in picked):
        return None
    inner_s = max(one.choices[n].seconds for one, n in picked)
    update_s = max(_update_s(one, n, place) for one, n in picked)
    parameters = trained_of(picked[0][0].steps[picked[0][1]])
    cost = outer_cost(outer, sites.uplink, inner_s=inner_s, parameters=parameters, update_s=update_s)
    return _plan(sites, picked, name, cost, place, inner_s, parameters)


def _plan(
    sites: Sites,
    picked: list[tuple[Inside, int]],
    name: str,
    cost: OuterCost,
    place: Place,
    inner_s: float,
    parameters: float,
) -> SitePlan:
    outer = cost.outer
    owned = [float(one.steps[n].owned.max()) for one, n in picked]
    state = sum(outer.state_bytes.values()) if place == "device" else 0.0
    fullest = max(range(len(picked)), key=lambda s: _share(picked[s], state * owned[s]))
    one, n = picked[fullest]
    needed = rate_for(outer, sites.uplink, SHOWN_SHARE, inner_s=inner_s, parameters=parameters)
    return SitePlan(
        name=name,
        gradient_equal=False,
        seconds=cost.seconds,
        exposed_s=cost.exposed_s,
        update_s=cost.update_s,
        setups=tuple(one.choices[n].setup for one, n in picked),
        devices=sites.devices,
        usd_per_hour=sites.usd_per_hour,
        room=one.choices[n].peak,
        memory_bytes=one.choices[n].memory_bytes,
        every=outer.every,
        outer_bytes={what: size * owned[fullest] for what, size in outer.state_bytes.items()},
        outer_place=place,
        link_share=cost.link_share,
        needed_bytes_per_s=needed,
        source=outer.source,
    )


def _share(picked: tuple[Inside, int], more_bytes: float) -> float:
    one = picked[0].choices[picked[1]]
    return (one.needed_bytes + more_bytes) / one.memory_bytes


def _host_bytes(one: Inside, n: int, state: float) -> float:
    return state * float(one.steps[n].owned.max()) * one.node.devices


def _update_s(one: Inside, n: int, place: Place) -> float:
    """Seconds of the outer optimizer on the fullest device, or through its host's memory and link."""
    owned, node = float(one.steps[n].owned.max()), one.node
    if place == "device":
        return float(memory_bound(node.device, owned * MOVED_BYTES).seconds)
    rate = constants("host")["optimizer_share"] * node.host_bytes_per_s / node.devices
    return max(owned * 2 * WIDE_BYTES / node.host_link.bytes_per_s, owned * MOVED_BYTES / rate)


def trained_of(step: Step) -> float:
    """Return the parameters of the whole model that a step trains."""
    setup = step.setup
    return float(step.dense.sum() * setup.tp + step.experts.sum() * setup.ep * setup.etp)


# -- synchronous ones


def data_parallel(sites: Sites, each: list[Inside]) -> SitePlan | str:
    """Return the best strategy inside each site with gradients summed over all in every step; or why there is none."""
    if not all(one.choices for one in each):
        return next((one.why for one in each if one.why), "no strategy fits on a site")
    bests, steps = [one.choices[0] for one in each], [one.steps[0] for one in each]
    stack = steps[0].stack
    whole_s = sites.uplink.sum_s(trained_of(steps[0]) * stack.reduced_bytes)
    backward_s = min(float(max(step.op_s[Kind.B, stages].sum() for stages in step.on)) for step in steps)
    shown_s = max(whole_s - stack.dp_hidden * backward_s, (1 - stack.dp_most) * whole_s)
    seconds = max(one.seconds for one in bests) + shown_s
    fullest = max(bests, key=lambda one: one.needed_bytes / one.memory_bytes)
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
            found += [(choice, place, cluster) for choice in one.choices[:1]]
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
    each = zip(best.rooms, best.memory_bytes, strict=True)
    room, size = max(each, key=lambda pair: pair[0].needed / pair[1])
    return SitePlan(
        name="pipeline over sites",
        gradient_equal=True,
        seconds=best.seconds,
        exposed_s=best.seconds - free.seconds,
        setups=(best.setup,),
        devices=sites.devices,
        usd_per_hour=sites.usd_per_hour,
        room=room,
        memory_bytes=size,
        link_share=min(1.0, best.message_s * best.setup.micros * best.setup.chunks / best.seconds),
    )


def _setups(space: Space, sites: Sites, headroom: float) -> Iterator[Setup]:
    """Pipelines that are fast where links are, and the same with schedules that leave messages time to pass."""
    count, node = len(sites.clusters), sites.clusters[0].groups[0][0]
    nodes = sum(cluster.nodes for cluster in sites.clusters)
    ranks = tuple(p for p in range(count, space.model.layers + 1, count) if sites.devices % p == 0)
    wanted = tuple(p for p in ranks if p in space.fixed.get("pp", ranks))
    if not wanted:
        return
    plain = "schedule" not in space.fixed and "chunks" not in space.fixed
    fixed = space.fixed | {"pp": wanted} | ({"schedule": ("1f1b",)} if plain else {})
    part = replace(space, cluster=replace(space.cluster, groups=((node, nodes),), measured=None), fixed=fixed)
    if not any(len(part.grid([split])) for split in part.splits()):
        return
    for one in best_of(part, top=TRIED, headroom=0.0).choices:
        yield one.setup
        yield from (replace(one.setup, schedule=name) for name in PASSING if plain)
