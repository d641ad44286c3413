"""The table of names. Adding a schedule is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

from numpy.typing import NDArray

from penstock.core.op import Op, Weights
from penstock.core.placement import Placement
from penstock.core.slicing import equal_time, rounded
from penstock.schedules import (
    bitpipe,
    breadth_first,
    chimera,
    dualpipe,
    dualpipev,
    eager_1f1b,
    gis,
    gis_h,
    gpipe,
    hanayo,
    interleaved,
    interleaved_zb,
    mixpipe,
    modular,
    one_f_one_b,
    one_f_one_b_v,
    pipedream,
    pipedream_2bw,
    seq1f1b,
    seq1f1b_i,
    seq1f1b_zb,
    spectrain,
    uniform,
    v_auto,
    v_half,
    v_min,
    zb_1p,
    zb_2p,
    zb_h1,
    zb_h2,
    zb_v,
    zb_v_auto,
    zeropp,
)
from penstock.schedules.phases import Phase
from penstock.schedules.task import reads_costs

Ops = NDArray[Any] | Iterable[Phase] | Iterable[Op] | Iterable[str]
FINE = 10_000
"""Units of a sequence in which lengths of its slices are given where its tokens are not known."""
MOST_CHUNKS = 8
"""How many chunks per rank are looked at for the fewest that a schedule can have."""
LaneFunction = Callable[..., Any]
"""``lane(r, p, m, v) -> Ops``, or ``lanes(task) -> Iterable[Ops]``, one entry per rank; knobs may follow."""


def _always(p: int, m: int, v: int, **options: int) -> str:
    return ""


def _proved(p: int, m: int, v: int, f: float, i: float, w: float, **options: int) -> tuple[bool, bool]:
    return True, True


@lru_cache(maxsize=256)
def options_of(lane: LaneFunction) -> tuple[str, ...]:
    """Names of the knobs that a schedule's function has behind ``r, p, m, v`` or ``task``."""
    return tuple(signature(lane).parameters)[1 if reads_costs(lane) else 4 :]


def slices_of(lane: LaneFunction, options: Mapping[str, int]) -> int:
    """Slices of each micro-batch: the knob ``slices`` of a schedule that has it, else 1."""
    knob = signature(lane).parameters.get("slices")
    return 1 if knob is None else int(options.get("slices", knob.default))


def lengths_of(lane: LaneFunction, options: Mapping[str, int]) -> tuple[int, ...]:
    """Lengths of the slices by ``attention``, per cent of a sequence's time; none where all are equal."""
    if "attention" not in options or "attention" in options_of(lane):
        return ()
    if not 0 <= options["attention"] <= 100:
        raise ValueError(f"attention={options['attention']} per cent of a sequence's time; give 0 to 100")
    return rounded(equal_time(slices_of(lane, options), options["attention"] / 100), FINE)


def knobs_of(lane: LaneFunction) -> tuple[str, ...]:
    """Names of all options: the function's own, and ``attention`` where it has slices."""
    own = options_of(lane)
    return (*own, "attention") if "slices" in own and "attention" not in own else own


def own_options(lane: LaneFunction, options: Mapping[str, int]) -> dict[str, int]:
    """Those of the options that are the function's own."""
    return {option: value for option, value in options.items() if option in options_of(lane)}


@dataclass(frozen=True)
class Schedule:
    """A published schedule and what its paper claims, in terms of p, m, v and times of a rank's chunks together."""

    lane: LaneFunction
    """What rank r does: ``lane(r, p, m, v)``, or what all do: ``lanes(task)``. Further parameters are knobs; ``idle``,
    ``peak_micros``, ``valid`` and ``holds`` then have them too."""
    idle: Callable[..., float]
    """Idle time of a step until the last rank is done (sync): ``idle(p, m, v, f, i, w)``."""
    peak_micros: Callable[..., float]
    """Peak activations of rank r in micro-batches: ``peak_micros(r, p, m, v)``."""
    placement: Callable[[int, int], Placement] = Placement.loop
    """Where stages live: ``placement(p, v)``."""
    valid: Callable[..., str] = _always
    """Why these sizes cannot be built, with the nearest that can; empty if they can."""
    chunks: bool = False
    """Whether it can have more than one chunk per rank."""
    holds: Callable[..., tuple[bool, bool]] = _proved
    """Whether ``idle`` is proved for these sizes and times, of the makespan (sync) and of the span:
    ``holds(p, m, v, f, i, w)``."""
    idle_span: Callable[..., float] | None = None
    """Idle time of the busiest rank from its first compute to its last, where it differs from ``idle``."""
    copies: int = 1
    """Copies of the weights over all ranks."""
    weights: Weights = "synced"
    """Which weights forwards run with."""
    searches: bool = False
    """Whether it tries many orders at the costs of its task, which takes a second or so."""

    @property
    def gradient_equal(self) -> bool:
        """Whether it trains as one process would, up to rounding."""
        return self.weights == "synced"

    def least_chunks(self, p: int, m: int, **options: int) -> int:
        """The fewest chunks per rank it can have at these sizes; if none will do, those whose reason is not chunks.

        Example:
            >>> SCHEDULES["1f1b"].least_chunks(4, 8), SCHEDULES["zb-v"].least_chunks(4, 8)
            (1, 2)
            >>> SCHEDULES["bitpipe"].valid(4, 7, SCHEDULES["bitpipe"].least_chunks(4, 7))
            'micros=7 is not a multiple of ranks=4; use 8'
        """
        reasons = {v: self.valid(p, m, v, **options) for v in (range(1, MOST_CHUNKS + 1) if self.chunks else (1,))}
        fits = [v for v, reason in reasons.items() if not reason]
        others = [v for v, reason in reasons.items() if not reason.startswith("chunks=")]
        return (fits or others or [1])[0]


SCHEDULES: dict[str, Schedule] = {
    "gpipe": Schedule(gpipe.lane, gpipe.idle, gpipe.peak_micros),
    "1f1b": Schedule(one_f_one_b.lane, one_f_one_b.idle, one_f_one_b.peak_micros),
    "interleaved": Schedule(
        interleaved.lane, interleaved.idle, interleaved.peak_micros, valid=interleaved.valid, chunks=True
    ),
    "breadth-first": Schedule(breadth_first.lane, breadth_first.idle, breadth_first.peak_micros, chunks=True),
    "modular": Schedule(modular.lane, breadth_first.idle, breadth_first.peak_micros, chunks=True),
    "eager-1f1b": Schedule(eager_1f1b.lane, eager_1f1b.idle, eager_1f1b.peak_micros),
    "gis": Schedule(gis.lane, gis.idle, gis.peak_micros, valid=gis.valid, chunks=True, holds=gis.holds),
    "gis-h": Schedule(gis_h.lane, gis_h.idle, gis_h.peak_micros, chunks=True, holds=gis_h.holds),
    "uniform": Schedule(uniform.lane, uniform.idle, uniform.peak_micros, chunks=True, holds=uniform.holds),
    "hanayo": Schedule(
        hanayo.lane, hanayo.idle, hanayo.peak_micros, Placement.vee, hanayo.valid, chunks=True, holds=hanayo.holds
    ),
    "chimera": Schedule(
        chimera.lane,
        chimera.idle,
        chimera.peak_micros,
        lambda p, v: Placement.both_ways(p),
        chimera.valid,
        holds=chimera.holds,
        copies=2,
    ),
    "bitpipe": Schedule(
        bitpipe.lane,
        bitpipe.idle,
        bitpipe.peak_micros,
        Placement.both_ways,
        bitpipe.valid,
        chunks=True,
        holds=bitpipe.holds,
        copies=2,
    ),
    "mixpipe": Schedule(
        mixpipe.lane,
        mixpipe.idle,
        mixpipe.peak_micros,
        lambda p, v: Placement.both_ways(p),
        mixpipe.valid,
        holds=mixpipe.holds,
        copies=2,
    ),
    "dualpipe": Schedule(
        dualpipe.lane,
        dualpipe.idle,
        dualpipe.peak_micros,
        lambda p, v: Placement.both_ways(p),
        dualpipe.valid,
        copies=2,
    ),
    "dualpipev": Schedule(
        dualpipev.lane, dualpipev.idle, dualpipev.peak_micros, Placement.vee, dualpipev.valid, chunks=True
    ),
    "zeropp": Schedule(
        zeropp.lane, zeropp.idle, zeropp.peak_micros, valid=zeropp.valid, chunks=True, holds=zeropp.holds
    ),
    "seq1f1b": Schedule(seq1f1b.lane, seq1f1b.idle, seq1f1b.peak_micros, valid=seq1f1b.valid),
    "seq1f1b-i": Schedule(seq1f1b_i.lane, seq1f1b_i.idle, seq1f1b_i.peak_micros, valid=seq1f1b.valid, chunks=True),
    "seq1f1b-zb": Schedule(
        seq1f1b_zb.lane, seq1f1b_zb.idle, seq1f1b_zb.peak_micros, valid=seq1f1b.valid, holds=seq1f1b_zb.holds
    ),
    "zb-h1": Schedule(zb_h1.lane, zb_h1.idle, zb_h1.peak_micros, holds=zb_h1.holds),
    "zb-h2": Schedule(zb_h2.lane, zb_h2.idle, zb_h2.peak_micros, holds=zb_h2.holds, idle_span=zb_h2.idle_span),
    "zb-v": Schedule(
        zb_v.lane,
        zb_v.idle,
        zb_v.peak_micros,
        Placement.vee,
        zb_v.valid,
        chunks=True,
        holds=zb_v.holds,
        idle_span=zb_v.idle_span,
    ),
    "zb-1p": Schedule(zb_1p.lanes, zb_1p.idle, zb_1p.peak_micros, holds=zb_1p.holds, searches=True),
    "zb-2p": Schedule(
        zb_2p.lanes, zb_2p.idle, zb_2p.peak_micros, holds=zb_2p.holds, idle_span=zb_2p.idle_span, searches=True
    ),
    "zb-v-auto": Schedule(
        zb_v_auto.lanes,
        zb_v_auto.idle,
        zb_v_auto.peak_micros,
        Placement.vee,
        zb_v_auto.valid,
        chunks=True,
        holds=zb_v_auto.holds,
        idle_span=zb_v_auto.idle_span,
        searches=True,
    ),
    "interleaved-zb": Schedule(
        interleaved_zb.lane, interleaved_zb.idle, interleaved_zb.peak_micros, chunks=True, holds=interleaved_zb.holds
    ),
    "1f1b-v": Schedule(
        one_f_one_b_v.lanes,
        one_f_one_b_v.idle,
        one_f_one_b_v.peak_micros,
        Placement.vee,
        zb_v.valid,
        chunks=True,
        holds=one_f_one_b_v.holds,
    ),
    "v-half": Schedule(
        v_half.lanes, v_half.idle, v_half.peak_micros, Placement.vee, zb_v.valid, chunks=True, holds=v_half.holds
    ),
    "v-min": Schedule(
        v_min.lanes, v_min.idle, v_min.peak_micros, Placement.vee, zb_v.valid, chunks=True, holds=v_min.holds
    ),
    "v-auto": Schedule(
        v_auto.lanes,
        v_auto.idle,
        v_auto.peak_micros,
        Placement.vee,
        v_auto.valid,
        chunks=True,
        holds=v_auto.holds,
        searches=True,
    ),
    "pipedream": Schedule(pipedream.lane, one_f_one_b.idle, one_f_one_b.peak_micros, weights="stashed"),
    "pipedream-2bw": Schedule(
        pipedream_2bw.lane, pipedream_2bw.idle, pipedream_2bw.peak_micros, valid=pipedream_2bw.valid, weights="double"
    ),
    "spectrain": Schedule(spectrain.lane, one_f_one_b.idle, one_f_one_b.peak_micros, weights="predicted"),
}
