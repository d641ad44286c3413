"""How many nodes, and which of several clusters: what was tried, for scripts, and what answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from penstock.cli import asks_text as text
from penstock.cli.asks import NO_ASKS, Answer, Asks, Training
from penstock.cli.plan_ask import beyond, suggested_facts
from penstock.cli.plan_text import choice_facts
from penstock.cli.predict_text import BILLION
from penstock.cli.progress import Watcher
from penstock.core.catalogue import find
from penstock.core.cluster import Cluster
from penstock.core.node import Node
from penstock.cost.laws import suggested
from penstock.search.choice import Choice
from penstock.search.fleet import Fleet, Sized, fleet_of
from penstock.search.nodes import kinds
from penstock.search.planner import best_of, check_wanted
from penstock.search.sizing import Limits, cheapest, near, sized
from penstock.search.space import Space
from penstock.units import parse_s

Facts = dict[str, Any]


@dataclass(frozen=True)
class _Asked:
    """What is asked of every cluster."""

    asks: Asks
    training: Training
    most_s: float
    most_usd: float
    watch: Watcher

    @property
    def counts_nodes(self) -> bool:
        """Whether a number of nodes is asked for."""
        return self.asks != NO_ASKS

    def fleet(self, name: str, cluster: Cluster) -> Fleet:
        """All numbers of nodes that are asked of a cluster."""
        training = self.training

        def tell(nodes: int) -> bool:
            settled = f"{fleet.searched:,} of {len(fleet.counts):,} numbers settled"
            return self.watch.tell(f"{name}: nodes {nodes}; {settled}")

        fleet = fleet_of(
            training.space, cluster, self.asks.nodes or "", headroom=training.headroom, tell=tell,
            batches=training.batches(cluster),
        )  # fmt: skip
        return fleet

    def limits(self, space: Space) -> Limits:
        """What it may take, in steps of a space."""
        tokens = self.training.tokens
        return Limits(1.0 if tokens is None else tokens / space.base.tokens, self.most_s, self.most_usd)

    def facts(self, name: str) -> Facts:
        """The question, by names for scripts."""
        most = {"deadline_seconds": self.most_s, "budget_usd": self.most_usd}
        said = {key: None if value == inf else value for key, value in most.items()}
        return self.training.asked(name) | said | {"nodes": self.asks.nodes}

    def row(self, cluster: str, fleet: Fleet, one: Sized, within_s: float = inf) -> Facts:
        """Figures of a number of nodes, a step of which may take so long."""
        batch = one.choice.setup.batch if one.choice else fleet.tried(one.nodes)[0]
        space = fleet.of(one.nodes, batch)
        said = None if one.choice is None else choice_facts(one.choice, space, self.training.asked(cluster))
        per_step = None if said is None else said["usd_per_step"]
        return {
            "cluster": cluster,
            "nodes": one.nodes,
            "devices": one.devices,
            "device": space.cluster.device.name,
            "mixed": not space.cluster.uniform,
            "batch": batch,
            "tokens_per_step": space.base.tokens,
            "within": one.seconds <= within_s < inf or one.seconds < inf == within_s,
            "least_seconds": None if one.least_s == inf else one.least_s * batch / fleet.space.base.batch,
            "proven": one.proven,
            "usd_per_billion_tokens": None if per_step is None else per_step / space.base.tokens * BILLION,
            "choice": said,
        }

    def laws(self, devices: int, best: Facts) -> Facts:
        """What laws say of the batch of the best, where it was not one number; ``suggested`` where nobody said any."""
        training = self.training
        if training.batch is not None and training.batch.isdecimal():
            return {"suggested": None, "beyond": ""}
        laws = suggested(training.architecture(), training.seq, devices, training.tokens)
        said = beyond(laws, best["tokens_per_step"])
        return {"suggested": suggested_facts(laws) if training.batch is None else None, "beyond": said}


def sizes_answer(asks: Asks, training: Training, machines: Mapping[str, Cluster], watch: Watcher) -> Answer:
    """Return the answer of the numbers of nodes of one cluster, or of several clusters.

    Raises:
        ValueError: what a limit needs is not known, or nothing is within it.
    """
    check_wanted(training.top, training.headroom)
    if (asks.deadline or asks.budget is not None) and training.tokens is None:
        raise ValueError("--tokens is missing; a deadline or a budget is for a training of so many")
    if asks.budget is not None and not 0 < asks.budget < inf:
        raise ValueError(f"--budget {asks.budget:g}: give US dollars, for example 2e6")
    most_s = inf if asks.deadline is None else parse_s(asks.deadline)
    asked = _Asked(asks, training, most_s, inf if asks.budget is None else asks.budget, watch)
    machines = _apart(machines, asks.nodes)
    if len(machines) == 1:
        return _numbers(asked, *next(iter(machines.items())))
    return _clusters(asked, machines)


def _apart(machines: Mapping[str, Cluster], nodes: str | None) -> Mapping[str, Cluster]:
    """Machines, or each kind of the nodes of one cluster, and all of them at the pace of the slowest."""
    ((name, cluster), *others) = machines.items()
    return machines if others or cluster.uniform else kinds(cluster) | ({} if nodes else {name: cluster})


def _numbers(asked: _Asked, name: str, cluster: Cluster) -> Answer:
    """The answer of one cluster."""
    began, fleet = time.perf_counter(), asked.fleet(name, cluster)
    limits = asked.limits(fleet.space)
    within, compares = limits.step_s(fleet), limits == Limits(limits.steps)
    if compares:
        for nodes in fleet.splits:
            fleet.best(nodes)
    best = sized(fleet, limits)
    rented = fleet.space.cluster.usd_per_hour is not None
    low = cheapest(fleet) if rented and (compares or asked.asks.budget is not None) else None
    shown = [one for one in fleet.rows() if one.choice] if compares else near(fleet, best.nodes)
    shown += [low] if low is not None and low.nodes not in {one.nodes for one in shown} else []
    shown.sort(key=lambda one: abs(one.nodes - best.nodes))
    search_s = time.perf_counter() - began
    rows = {
        one.nodes: asked.row(_named(name, cluster, one.nodes), fleet, one, within(one.nodes)) for one in fleet.rows()
    }
    facts = {
        "asked": asked.facts(name),
        "headroom": fleet.headroom,
        "search_seconds": search_s,
        "searched": fleet.searched,
        "stopped": fleet.stopped,
        "answer": rows[best.nodes],
        "cheapest": None if low is None else rows[low.nodes],
        "rows": [*rows.values()],
        "without": [nodes for nodes in fleet.counts if fleet.known(nodes).least_s == inf],
    } | asked.laws(best.devices, rows[best.nodes])
    some = sorted(shown[: asked.training.top], key=lambda one: one.nodes)
    listed = [(rows[one.nodes], one.choice) for one in some if one.choice]
    return Answer(facts, partial(text.print_numbers, facts, listed), _export(fleet.of(best.nodes), best.choice))


def _clusters(asked: _Asked, machines: Mapping[str, Cluster]) -> Answer:
    """The answer of several clusters, the cheapest first; those without one last."""
    began, made, errors = time.perf_counter(), list[tuple[Facts, Choice | None, Space | None]](), list[ValueError]()
    for name, cluster in machines.items():
        try:
            if not asked.watch.tell(f"looking at {name}"):
                raise ValueError("stopped before it was looked at")
            made.append(_of_cluster(asked, name, cluster))
        except ValueError as error:
            errors.append(error)
            made.append(({"cluster": name, "choice": None, "why": str(error)}, None, None))
    if len(errors) == len(machines):
        raise errors[0]
    made.sort(key=lambda one: _rank(one[0]))
    rows = [facts for facts, *_ in made]
    fitting = [facts for facts in rows if facts["choice"]]
    priced = [facts for facts in fitting if facts["usd_per_billion_tokens"] is not None]
    facts: Facts = {
        "asked": asked.facts(",".join(machines)),
        "headroom": asked.training.headroom,
        "search_seconds": time.perf_counter() - began,
        "stopped": asked.watch.stopped,
        "cheapest": priced[0]["cluster"] if priced else None,
        "fastest": min(fitting, key=_each_s)["cluster"] if fitting else None,
        "rows": rows,
    }
    listed = [(facts, choice) for facts, choice, _ in made[: asked.training.top] if choice]
    _, choice, space = made[0]
    facts |= asked.laws(rows[0]["devices"], rows[0]) if choice else {"suggested": None, "beyond": ""}
    return Answer(facts, partial(text.print_clusters, facts, listed), _export(space, choice))


def _of_cluster(asked: _Asked, name: str, cluster: Cluster) -> tuple[Facts, Choice | None, Space | None]:
    """One of several clusters: all of it, or as many of its nodes as answer."""
    if asked.counts_nodes:
        fleet = asked.fleet(name, cluster)
        one = sized(fleet, asked.limits(fleet.space))
        space = fleet.of(one.nodes)
        return asked.row(_named(name, cluster, one.nodes), fleet, one) | {"why": ""}, one.choice, space
    training, space = asked.training, asked.training.space(cluster)
    fleet = Fleet(space, (cluster.nodes,), training.headroom, batches=training.batches(cluster))
    tried = [
        best_of(fleet.of(cluster.nodes, batch), top=1, headroom=training.headroom, watch=asked.watch)
        for batch in fleet.tried(cluster.nodes)
    ]
    found = max(tried, key=lambda one: one.choices[0].tokens_per_s_per_device if one.choices else 0.0)
    best = found.choices[0] if found.choices else None
    scale = space.base.batch / best.setup.batch if best else 1.0
    least_s = best.seconds * scale if best else inf
    one = Sized(cluster.nodes, cluster.devices, best, least_s, all(one.proven for one in tried), scale)
    none = "stopped before a strategy was found that fits" if found.stopped and not best else ""
    why = none if found.nearest is None else text.need(found.nearest, found.headroom)
    return asked.row(name, fleet, one) | {"why": why}, best, space


def _rank(facts: Facts) -> tuple[float, float]:
    if facts["choice"] is None:
        return inf, inf
    usd = facts["usd_per_billion_tokens"]
    return inf if usd is None else usd, _each_s(facts)


def _each_s(facts: Facts) -> float:
    """Seconds of a sequence."""
    return float(facts["choice"]["seconds"] / facts["batch"])


def _export(space: Space | None, choice: Choice | None) -> Any:
    return None if space is None or choice is None else (space.model, space.cluster, choice.setup, space.stack)


def _named(name: str, cluster: Cluster, nodes: int) -> str:
    """The words for so many nodes of a cluster."""
    node = cluster.groups[0][0]
    known = find(node.name)
    catalogued = isinstance(known, Node) and known.devices == node.devices and not name.endswith(".toml")
    return f"{node.name}:{nodes}" if catalogued and nodes != cluster.nodes else name
