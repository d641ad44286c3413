"""The longest sequence and the largest model that fit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from penstock.cli import asks_text as text
from penstock.cli.asks import Answer, Training
from penstock.cli.plan_ask import suggested_facts
from penstock.cli.plan_text import choice_facts
from penstock.cli.progress import Watcher
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.members import family
from penstock.search.largest import Member, largest
from penstock.search.longest import STEP, Longest, at, longest, most_seq
from penstock.search.misses import nearest, too_much
from penstock.search.space import Space
from penstock.units import human_bytes

STOPPED = "nothing yet; the search was stopped, and longer ones may fit"


def longest_answer(training: Training, machines: Mapping[str, Cluster], watch: Watcher) -> Answer:
    """Return the longest sequence that fits.

    Raises:
        ValueError: none does.
    """
    began = time.perf_counter()
    ((name, cluster),) = machines.items()
    space = training.space(cluster)
    found = longest(
        space, top=training.top, headroom=training.headroom, tell=lambda seq: watch.tell(f"sequences of {seq:,}")
    )
    if found is None and watch.stopped:
        raise ValueError("stopped before a sequence was found that fits; nothing is known yet")
    if found is None:
        raise ValueError(
            f"no sequence of {STEP:,} tokens or more fits; {text.need(nearest(at(space, STEP)), training.headroom)}"
        )
    here, more, asked = at(space, found.seq), found.next_choice, training.asked(name)
    facts = {
        "asked": asked,
        "headroom": training.headroom,
        "search_seconds": time.perf_counter() - began,
        "seq": found.seq,
        "batch": found.batch,
        "stopped": watch.stopped,
        "limit": STOPPED if watch.stopped else _limit(space, found, training.headroom),
        "next": None if more is None else choice_facts(more, at(space, more.setup.seq), asked),
        "proven": found.planned.proven,
        "choices": [choice_facts(one, here, asked) for one in found.planned.choices],
        "suggested": _law(training, space.model, cluster),
    }
    show = partial(text.print_longest, facts)
    return Answer(facts, show, (space.model, cluster, found.planned.best.setup, space.stack))


def largest_answer(training: Training, machines: Mapping[str, Cluster], watch: Watcher) -> Answer:
    """Return the largest model of a family that fits.

    Raises:
        ValueError: no name begins so, or none fits.
    """
    began = time.perf_counter()
    ((name, cluster),) = machines.items()
    models = family(training.model, cluster.devices * cluster.device.memory_bytes, training.seq)
    space = training.space(cluster, models[0])
    tried = largest(
        space,
        models,
        top=training.top,
        headroom=training.headroom,
        tell=lambda name: watch.tell(f"looking at {name}"),
        batch_of=lambda model: training.batches(cluster, model).on(cluster.devices)[0],
    )
    if watch.stopped and not (tried and tried[-1].choices):
        raise ValueError(f"stopped before a model was found that fits; of {len(models)}, {len(tried)} do not")
    best = tried[-1]
    if not best.choices:
        raise ValueError(
            f"{best.model.name}, the smallest of its family, does not fit: {text.need(best.nearest, training.headroom)}"
        )
    here, asked = replace(space, model=best.model), training.asked(name) | {"model": best.model.name}
    facts = {
        "asked": training.asked(name),
        "headroom": training.headroom,
        "search_seconds": time.perf_counter() - began,
        "models": [_member_facts(one) for one in tried],
        "stopped": watch.stopped,
        "smaller": [one.name for one in models if one.parameters < best.model.parameters],
        "proven": best.proven,
        "batch": best.choices[0].setup.batch,
        "choices": [choice_facts(one, here, asked) for one in best.choices],
        "suggested": _law(training, best.model, cluster),
    }
    show = partial(text.print_largest, facts)
    return Answer(facts, show, (best.model, cluster, best.choices[0].setup, space.stack))


def _law(training: Training, model: Architecture, cluster: Cluster) -> dict[str, Any] | None:
    """What laws say of the batch, where nobody said any."""
    law = training.batches(cluster, model).law
    return None if law is None else suggested_facts(law)


def _member_facts(one: Member) -> dict[str, Any]:
    near = one.nearest
    return {
        "model": one.model.name,
        "parameters": one.model.parameters,
        "active_parameters": one.model.active_parameters,
        "fits": bool(one.choices),
        "nearest": None if near is None else near.split,
        "needed_bytes": None if near is None else near.needed_bytes,
        "device_memory_bytes": None if near is None else near.memory_bytes,
    }


def _limit(space: Space, found: Longest, headroom: float) -> str:
    """What allows no longer sequence, in words."""
    learnt = space.model.embedding.positions
    if found.next_seq is None:
        return f"{space.model.name} has {learnt:,} positions" if learnt == most_seq(space) else (
            f"a step has {space.base.seq * space.base.batch:,} tokens; a larger --batch allows more")  # fmt: skip
    if found.next_choice is None:
        return f"no strategy divides {found.next_seq:,} tokens"
    most = sorted(found.next_choice.peak.parts().items(), key=lambda part: -part[1])[:2]
    parts = " and ".join(f"{name} {human_bytes(size)}" for name, size in most)
    return f"memory; {found.next_seq:,} tokens need {too_much(found.next_choice, headroom)}, most of it {parts}"
