"""The verb ``site_plans``: strategies for several sites with slow links between them, local updates beside synchronous
ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from penstock.core.cluster import Cluster
from penstock.core.words import suggest
from penstock.predict.outer import outers
from penstock.search.finals import Tell, on, told
from penstock.search.planner import HEADROOM, best_of
from penstock.search.site_plan import SitePlan, SitesPlanned
from penstock.search.site_ways import Inside, alone, data_parallel, inside, local, pipelined
from penstock.search.sites import Sites, shares_of
from penstock.search.space import Space

LOCAL = tuple(outers(1))
"""Local updates by name."""
NOTHING = "stopped before a strategy of each site was found; nothing is known yet"


def site_plans(
    space: Space,
    sites: Sites,
    names: Iterable[str] = LOCAL,
    *,
    every: int | None = None,
    headroom: float = HEADROOM,
    tell: Tell = on,
) -> SitesPlanned:
    """Return what strategies over several sites take, fastest first.

    Local updates run the best strategy inside each site and an outer step now and then; they are not gradient-equal.
    Beside them stand those that are: gradients summed over the sites in every step, a pipeline over the sites, and the
    fastest site alone.

    Args:
        space: what there is to choose from inside a site; its batch is that of all sites together.
        sites: the clusters and their links.
        names: local updates to try, of ``LOCAL``.
        every: inner steps between outer steps; left out, the published number.
        headroom: share of a device's memory that stays free.
        tell: is called with what is looked at; the search ends with what is known when it says ``False``.

    Raises:
        ValueError: as ``plan``, a name or a number that cannot be, or nothing is known when the search ends.

    >>> from penstock.search.sites import sites_of
    >>> from penstock.search.space import space_of
    >>> cluster = Cluster.read("h100:2+h100:2")
    >>> space = space_of("gpt2-xl", cluster, seq=1024, batch=64, fix="tp=1,cp=1")
    >>> found = site_plans(space, sites_of(cluster, bytes_per_s=1e8))
    >>> [one.name for one in found.plans if one.gradient_equal]
    ['site 1 alone', 'pipeline over sites', 'data parallel over sites']
    """
    if every is not None and every < 1:
        raise ValueError(f"--every {every}: give how many inner steps lie between two outer steps, 1 or more")
    published = outers(space.model.layers)
    for name in names:
        if name not in published:
            raise ValueError(f"{name!r} is no local update that is known; {suggest(name, published)}")
    batches = _batches(space, sites, headroom, tell)
    each = _each(space, sites, batches, headroom, tell)
    tries: dict[str, SitePlan | str] = {}
    for name in names:
        outer = published[name].at(every) if every else published[name]
        tries[name] = local(sites, each, name, outer, headroom)
    tries["data parallel over sites"] = data_parallel(sites, each)
    searched = {"pipeline over sites": pipelined, "a site alone": alone}
    tries |= {name: look(space, sites, headroom) for name, look in searched.items() if tell(name)}
    plans = sorted((one for one in tries.values() if isinstance(one, SitePlan)), key=lambda one: one.seconds)
    if not plans:
        raise ValueError(next(why for why in tries.values() if isinstance(why, str)))
    impossible = {name: why for name, why in tries.items() if isinstance(why, str)}
    stopped = not searched.keys() <= tries.keys()
    return SitesPlanned(sites=sites, batches=tuple(batches), plans=tuple(plans), impossible=impossible, stopped=stopped)


def _of_site(space: Space, cluster: Cluster, batch: int) -> Space:
    return replace(space, cluster=cluster, base=replace(space.base, batch=batch))


def _each(space: Space, sites: Sites, batches: list[int], headroom: float, tell: Tell) -> list[Inside]:
    """Strategies inside each site, those of equal sites found once."""
    found: dict[Any, Inside] = {}
    keys = [(cluster.groups, batch) for cluster, batch in zip(sites.clusters, batches, strict=True)]
    for key, cluster in zip(keys, sites.clusters, strict=True):
        if key not in found:
            found[key] = inside(_of_site(space, cluster, key[1]), headroom, told(tell, cluster.name))
            if not (found[key].tried or tell(cluster.name)):
                raise ValueError(NOTHING)
    return [found[key] for key in keys]


def _batches(space: Space, sites: Sites, headroom: float, tell: Tell) -> list[int]:
    """Sequences of each site, by how fast its best strategy is with as many as the others."""
    even = shares_of(space.base.batch, [1.0] * len(sites.clusters))
    if sites.alike:
        return even
    speeds = []
    for cluster, batch in zip(sites.clusters, even, strict=True):
        found = best_of(_of_site(space, cluster, batch), top=1, headroom=headroom, watch=told(tell, cluster.name))
        if found.stopped and not found.choices:
            raise ValueError(NOTHING)
        if not found.choices:
            raise ValueError(f"no strategy fits on the site {cluster.name}; leave it out, or fix less")
        speeds.append(batch / found.best.seconds)
    return shares_of(space.base.batch, speeds)
