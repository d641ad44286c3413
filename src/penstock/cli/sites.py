"""What ``penstock plan --sites`` prints and writes: strategies over several sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.cli.columns import print_columns, training
from penstock.cli.progress import early
from penstock.search.apart import LOCAL, site_plans
from penstock.search.choice import flags_of, split_of
from penstock.search.site_plan import SitePlan, SitesPlanned
from penstock.search.sites import sites_of
from penstock.search.space import Space
from penstock.units import human_bytes, human_rate, human_s, parse_rate
from penstock.view.columns import training_cells

if TYPE_CHECKING:
    from penstock.cli.special import Special
    from penstock.search.finals import Tell


def sites_answer(
    given: Special, space: Space, asked: dict[str, Any], *, top: int, headroom: float, tell: Tell
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return the figures of strategies over sites by names for scripts, and what prints them for people."""
    rate = None if given.between is None else parse_rate(given.between)
    sites = sites_of(space.cluster, str(given.sites), bytes_per_s=rate, latency_s=given.delay)
    names = LOCAL if given.local is None else [name.strip() for name in given.local.split(",")]
    found = site_plans(space, sites, names, every=given.every, headroom=headroom, tell=tell)
    facts = {
        "asked": asked,
        "stopped": found.stopped,
        "sites": [
            {"cluster": cluster.name, "devices": cluster.devices, "device": cluster.device.name, "batch": batch}
            for cluster, batch in zip(sites.clusters, found.batches, strict=True)
        ],
        "bytes_per_s": sites.uplink.bytes_per_s,
        "latency_s": sites.uplink.latency_s,
        "headroom": headroom,
        "strategies": [_facts(one, space, asked, found) for one in found.plans[:top]],
        "impossible": dict(found.impossible),
    }
    return facts, partial(_print, found, facts)


def _facts(one: SitePlan, space: Space, asked: dict[str, Any], found: SitesPlanned) -> dict[str, Any]:
    tokens = asked["seq"] * asked["batch"]
    seconds, usd = training(asked["tokens"], tokens / one.seconds, one.usd_per_hour)
    return {
        "name": one.name,
        "gradient_equal": one.gradient_equal,
        "source": one.source,
        "seconds": one.seconds,
        "exposed_s": one.exposed_s,
        "outer_update_s": one.update_s,
        "devices": one.devices,
        "tokens_per_s": tokens / one.seconds,
        "tokens_per_s_per_device": tokens / one.seconds / one.devices,
        "every": one.every,
        "outer_bytes": dict(one.outer_bytes),
        "outer_place": one.outer_place or None,
        "memory_bytes": asdict(one.room) | {"total": one.room.total, "needed": one.needed_bytes},
        "device_memory_bytes": one.memory_bytes,
        "headroom": one.headroom,
        "link_share": one.link_share,
        "needed_bytes_per_s": one.needed_bytes_per_s,
        "training_seconds": seconds,
        "training_usd": usd,
        "setups": [asdict(setup) for setup in one.setups],
        "predict": _predicts(one, space, asked, found),
    }


def _predicts(one: SitePlan, space: Space, asked: dict[str, Any], found: SitesPlanned) -> list[str]:
    """The commands that predict what runs inside of a site; none where a step spans several."""
    if len(one.setups) != len(found.sites.clusters):
        return []
    words = {
        f"penstock predict --model {asked['model']} --cluster {cluster.name} --framework {asked['framework']} "
        f"{flags_of(setup, space.stack.usual)}": None
        for setup, cluster in zip(one.setups, found.sites.clusters, strict=True)
    }
    return [*words]


def _print(found: SitesPlanned, facts: dict[str, Any]) -> None:
    uplink = found.sites.uplink
    links = f"{human_rate(uplink.bytes_per_s)} from each, {human_s(uplink.latency_s)} apart"
    print(f"{uplink.sites} sites, {links}{early(facts)}")
    for place, site in enumerate(facts["sites"], 1):
        print(f"  {place}  {site['devices']:,} {site['device']}, {site['batch']:,} sequences where sites train apart")
    print()
    print_columns(_table(found, facts), left=(0, 1, 10 + 2 * (facts["asked"]["tokens"] is not None)))
    for name, why in found.impossible.items():
        print(f"{name}: {why}")
    if not all(one.gradient_equal for one in found.plans):
        print("\nnot gradient-equal: sites train apart between outer steps, and the same tokens may reach another loss")
        print("\nmemory of the fullest device for the outer optimizer")
        print_columns(_outer(found))
    shown: list[str] = next((said["predict"] for said in facts["strategies"] if said["predict"]), [])
    if shown:
        print("\ninside of a site")
        for line in shown:
            print(f"  {line}")


def _table(found: SitesPlanned, facts: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    head = ("", "gradient-equal", "every", "step time", "waits", "tokens/s", "link busy", "95% from", "memory", "left")
    whole = ("days", "cost") if facts["asked"]["tokens"] is not None else ()
    yield (*head, *whole, "split")
    for one, said in zip(found.plans, facts["strategies"], strict=False):
        needed = one.needed_bytes_per_s
        yield (
            one.name, "yes" if one.gradient_equal else "no", f"{one.every:,}" if one.every else "",
            human_s(one.seconds), human_s(one.exposed_s), f"{said['tokens_per_s']:,.0f}", f"{one.link_share:.0%}",
            "" if needed is None else human_rate(needed), human_bytes(one.needed_bytes), f"{one.headroom:.0%}",
            *training_cells(said["training_seconds"], said["training_usd"]),
            "; ".join(dict.fromkeys(map(split_of, one.setups))),
        )  # fmt: skip


def _outer(found: SitesPlanned) -> Iterable[tuple[str, ...]]:
    some = [one for one in found.plans if one.outer_bytes]
    yield ("", *(one.name for one in some))
    for what in dict.fromkeys(what for one in some for what in one.outer_bytes):
        yield (what, *(human_bytes(one.outer_bytes.get(what, 0.0)) for one in some))
    yield ("kept by the", *(one.outer_place for one in some))
