"""Local updates: sites that train apart, and what an outer step every so many inner steps takes of time and memory.

The weights are not those of one process that trains on the same batches, so no such strategy is gradient-equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

WIDE_BYTES = 4.0
"""Of an outer parameter, and of its momentum."""
FRAGMENT_LAYERS = 3
"""Of a fragment of Streaming DiLoCo (Douillard et al. 2025, arXiv:2501.18512)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """How sites that train apart are brought together.

    Args:
        every: inner steps from one outer step to the next; 0: as many as hide the messages.
        fragments: parts of the model that are sent one after another, evenly spread over these steps.
        overlap: inner steps during which a message may be under way; 0: all wait for it, -1: ``every``.
        wire_bytes: of a parameter in a message.
        state_bytes: of a parameter between inner steps, by what they hold.
        source: who published it.
    """

    every: int
    fragments: int
    overlap: int
    wire_bytes: float
    state_bytes: Mapping[str, float]
    source: str

    def at(self, every: int) -> Outer:
        """Return the same with another number of inner steps."""
        return replace(self, every=every, overlap=every if self.overlap < 0 else self.overlap)


_NESTEROV = {"outer parameters": WIDE_BYTES, "outer momentum": WIDE_BYTES}


def outers(layers: int) -> dict[str, Outer]:
    """Return the published ways by name, for a model of so many layers.

    >>> {name: (each.every, each.fragments) for name, each in outers(32).items()}
    {'diloco': (500, 1), 'streaming-diloco': (100, 11), 'co2': (0, 1)}
    """
    fragments = ceil(layers / FRAGMENT_LAYERS)
    return {
        "diloco": Outer(
            every=500, fragments=1, overlap=0, wire_bytes=4.0, state_bytes=_NESTEROV,
            source="Douillard et al. 2023, arXiv:2311.08105: 500 AdamW steps, Nesterov momentum",
        ),
        "streaming-diloco": Outer(
            every=100, fragments=fragments, overlap=1, wire_bytes=0.5,
            state_bytes=_NESTEROV | {"outer gradients under way": WIDE_BYTES / fragments},
            source="Douillard et al. 2025, arXiv:2501.18512: fragments of 3 layers, 1 step of overlap, 4 bits",
        ),
        "co2": Outer(
            every=0, fragments=1, overlap=-1, wire_bytes=4.0,
            state_bytes=_NESTEROV | {"outer gradients under way": WIDE_BYTES},
            source="Sun et al. 2024, arXiv:2401.16265: messages of one period pass during the next",
        ),
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """The link from each of ``sites`` to the others: bytes/s in one direction for the whole site, and the latency of a
    message."""

    sites: int
    bytes_per_s: float
    latency_s: float

    def wire_bytes(self, size_bytes: float) -> float:
        """Return what a site sends for a sum over all: a share of it in each turn of a ring, twice round."""
        return 2 * (self.sites - 1) / self.sites * size_bytes

    def sum_s(self, size_bytes: float) -> float:
        """Return seconds of a sum over all sites."""
        return self.wire_bytes(size_bytes) / self.bytes_per_s + 2 * (self.sites - 1) * self.latency_s


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterCost:
    """What local updates cost, per inner step on average.

    ``seconds``: all of it, of which ``exposed_s`` waiting for messages and ``update_s`` the outer optimizer.
    ``message_s``: of one fragment on the link. ``link_share``: of the time in which the link is busy.
    """

    outer: Outer
    seconds: float
    exposed_s: float
    update_s: float
    message_s: float
    link_share: float


def outer_cost(outer: Outer, uplink: Uplink, *, inner_s: float, parameters: float, update_s: float) -> OuterCost:
    """Return what local updates cost.

    A fragment is sent every ``every / fragments`` steps, and must be there ``overlap`` steps later: the sites wait for
    what is left of it then. Where messages take longer than the steps between them, the link sets the pace.

    Args:
        outer: how, with ``every`` and ``overlap`` that are numbers of steps, or 0 as many as hide the messages.
        uplink: the links.
        inner_s: of one inner step on the slowest site.
        parameters: trained ones of the model.
        update_s: of the outer optimizer for all of them, once.

    >>> outer = outers(32)["diloco"].at(100)
    >>> uplink = Uplink(sites=2, bytes_per_s=1e9, latency_s=0.0)
    >>> outer_cost(outer, uplink, inner_s=1.0, parameters=8e9, update_s=0.0).seconds
    1.32
    """
    message_s = uplink.sum_s(outer.wire_bytes * parameters / outer.fragments)
    if not outer.every:
        outer = outer.at(max(1, ceil(message_s / inner_s)))
    between_s = outer.every / outer.fragments * inner_s
    late_s = max(0.0, message_s - outer.overlap * inner_s)
    turn_s = max(between_s + late_s, message_s)
    exposed_s = (turn_s - between_s) * outer.fragments / outer.every
    each_s = update_s / outer.every
    seconds = inner_s + exposed_s + each_s
    link_share = message_s * outer.fragments / outer.every / seconds
    return OuterCost(
        outer=outer, seconds=seconds, exposed_s=exposed_s, update_s=each_s, message_s=message_s, link_share=link_share
    )


def rate_for(outer: Outer, uplink: Uplink, share: float, *, inner_s: float, parameters: float) -> float | None:
    """Return the bytes/s of a site's link with which inner steps are ``share`` of the time; ``None`` where latency
    alone makes them less.

    >>> uplink = Uplink(sites=2, bytes_per_s=1e9, latency_s=0.0)
    >>> rate = rate_for(outers(32)["diloco"], uplink, 0.95, inner_s=1.0, parameters=8e9)
    >>> there = replace(uplink, bytes_per_s=rate)
    >>> round(1 / outer_cost(outers(32)["diloco"], there, inner_s=1.0, parameters=8e9, update_s=0.0).seconds, 6)
    0.95
    """
    between_s = outer.every / outer.fragments * inner_s
    late_s = between_s * (1 / share - 1)
    free_s = late_s + min(outer.overlap * inner_s, between_s) - uplink.sum_s(0.0)
    return uplink.wire_bytes(outer.wire_bytes * parameters / outer.fragments) / free_s if free_s > 0 else None
