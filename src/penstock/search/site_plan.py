"""The nouns ``SitePlan``, a strategy over several sites, and ``SitesPlanned``, all that were tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock.core.setup import Setup
from penstock.predict.prediction import Room
from penstock.search.sites import Sites

Place = Literal["device", "host", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePlan:
    """A strategy over several sites.

    Args:
        name: what it is.
        gradient_equal: whether its steps are those of one process on the whole batch.
        seconds: of a step of the whole batch, on average; ``exposed_s`` of it a site waits for links between sites, and
            ``update_s`` the outer optimizer takes.
        setups: what each site runs, or the one setup of all.
        usd_per_hour: rent of the sites that work, of ``devices``; ``None`` where one has no price.
        room: memory of the fullest device, of ``memory_bytes``, without the outer optimizer's.
        every: inner steps from one outer step to the next; 0 without.
        outer_bytes: of a device for the outer optimizer, by what they hold; ``outer_place`` says in whose memory.
        link_share: of the time in which the link of a site is busy.
        needed_bytes_per_s: of a site's link, with which inner steps are 95 % of the time; ``None`` where there is none.
        source: who published it.
    """

    name: str
    gradient_equal: bool
    seconds: float
    exposed_s: float = 0.0
    update_s: float = 0.0
    setups: tuple[Setup, ...]
    devices: int
    usd_per_hour: float | None
    room: Room
    memory_bytes: float
    every: int = 0
    outer_bytes: Mapping[str, float] = field(default_factory=dict)
    outer_place: Place = ""
    link_share: float = 0.0
    needed_bytes_per_s: float | None = None
    source: str = ""

    @property
    def needed_bytes(self) -> float:
        """What must fit on the device, the outer optimizer's part included if it lives there."""
        outer = sum(self.outer_bytes.values()) if self.outer_place == "device" else 0.0
        return self.room.needed + outer

    @property
    def headroom(self) -> float:
        """Share of the device's memory that is left."""
        return 1 - self.needed_bytes / self.memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SitesPlanned:
    """Strategies over sites, fastest first; ``batches`` are the sequences of each site where they train apart, and
    ``impossible`` says why others cannot be. ``stopped``: the search ended early, and others may be faster."""

    sites: Sites
    batches: tuple[int, ...]
    plans: tuple[SitePlan, ...]
    impossible: Mapping[str, str]
    stopped: bool = False
