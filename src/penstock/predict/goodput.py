"""Which share of the time trains, over weeks with failures, restarts, stragglers, checkpoints and nodes in repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, exp, expm1, sqrt

from penstock.core.cluster import Cluster
from penstock.predict.failures import Failures
from penstock.predict.prediction import Prediction

ROUNDS = 100
"""In which the best interval is found; each halves where it may be."""
MOST_BETWEEN = 10.0
"""Interruptions, in the mean, in the time that one checkpoint takes to be reached; beyond, nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """What a training comes to over weeks.

    Args:
        share: of all time, what steps take where nothing fails and nobody is slow.
        parts: what the time goes to, as shares of it that add up to 1.
        failures_per_s: interruptions over all of the time.
        mtbf_s: mean time between two interruptions of the job while it runs.
        every_s, every_steps: training between two checkpoints, in whole steps.
        best_s: the best such interval, by ``best_interval_s``, in which one checkpoint can be written beside the
            training; ``young_s`` and ``daly_s`` by the published formulas.
        write_s, stop_s: until a checkpoint is written, and what of it training stands still.
        load_s: to read one.
        step_s: of a step, slowed by stragglers.
        nodes, spares: those that train, and those that wait to stand in.
    """

    share: float
    parts: Mapping[str, float]
    failures_per_s: float
    mtbf_s: float
    every_s: float
    every_steps: int
    best_s: float
    young_s: float
    daly_s: float
    write_s: float
    stop_s: float
    load_s: float
    step_s: float
    nodes: int
    spares: int


def goodput(found: Prediction, cluster: Cluster, failures: Failures | None = None) -> Goodput:
    """Return the share of time in which a predicted training trains.

    Args:
        found: the step.
        cluster: its machines.
        failures: how often they fail, and what that takes; left out, as published.

    Example:
        >>> from penstock import Cluster, predict_step
        >>> step = predict_step("llama-3-8b", "dgx-h100:64", seq=8192, batch=512, tp=2, zero=1)
        >>> found = goodput(step, Cluster.read("dgx-h100:64"))
        >>> 0.9 < found.share < 1, found.parts["steps"] == found.share
        (True, True)
    """
    return goodput_of(found.seconds, found.checkpoint_bytes, found.devices, cluster, failures or Failures())


def goodput_of(step_s: float, stored_bytes: float, devices: int, cluster: Cluster, failures: Failures) -> Goodput:
    """Return the same from the seconds of a step and the bytes of a checkpoint, on so many of a cluster's devices.

    Interruptions come at random, at one rate, while the job runs (exponential times between them). Then the mean time
    from one checkpoint to the next is as Daly has it (2006, doi:10.1016/j.future.2004.11.016), with a time that cannot
    be interrupted because nothing runs (Bouguerra et al. 2013, IEEE Transactions on Computers 62): with rate r, work
    and stop L, reading the checkpoint and warming up R, down D, and w until a checkpoint counts that is written beside
    the training: ``exp(r (R + w)) (exp(r L) - 1) (1 / r + D)``.

    Raises:
        ValueError: interruptions come faster than a checkpoint can be reached.
    """
    nodes = ceil(devices * cluster.nodes / cluster.devices)
    slowed = 1 + failures.slow_by * (1 - (1 - failures.slow_share) ** nodes)
    write_s, stop_s, load_s = _checkpoint(stored_bytes / devices, failures)
    late_s = write_s - stop_s
    mtbf_s = failures.mtbf_s / devices
    best_s = max(best_interval_s(stop_s, mtbf_s), late_s)
    wanted_s = best_s if failures.every_s is None else failures.every_s
    if wanted_s < late_s:
        raise ValueError(
            f"every_s={wanted_s:g} is less than the {late_s:g} s in which a checkpoint is written beside the training; "
            "give as much or more"
        )
    steps = max(1, ceil(late_s / (slowed * step_s)), round(wanted_s / (slowed * step_s)))
    turn = _Turn(
        work_s=steps * slowed * step_s,
        stop_s=stop_s,
        late_s=late_s,
        back_s=load_s + failures.warm_up_s,
        down_s=failures.restart_s,
        rate=1 / mtbf_s,
    )
    if (turn.work_s + write_s + turn.back_s) / mtbf_s > MOST_BETWEEN:
        raise ValueError(
            f"{devices:,} devices are interrupted every {mtbf_s:,.3g} s, and a checkpoint is reached after "
            f"{turn.work_s + write_s + turn.back_s:,.3g} s; checkpoint more often, or use fewer devices"
        )
    per_s = turn.failures / turn.whole_s
    load = failures.node_share * per_s * failures.repair_s
    spares = cheapest_spares(nodes, load) if failures.spares is None else failures.spares
    waiting = blocked(spares + 1, load)
    parts = {name: (1 - waiting) * part / turn.whole_s for name, part in turn.parts(slowed).items()}
    return Goodput(
        share=parts["steps"],
        parts=parts | {"waiting for nodes": waiting},
        failures_per_s=(1 - waiting) * per_s,
        mtbf_s=mtbf_s,
        every_s=turn.work_s,
        every_steps=steps,
        best_s=best_s,
        young_s=young_s(stop_s, mtbf_s),
        daly_s=daly_s(stop_s, mtbf_s),
        write_s=write_s,
        stop_s=stop_s,
        load_s=load_s,
        step_s=slowed * step_s,
        nodes=nodes,
        spares=spares,
    )


def _checkpoint(own_bytes: float, failures: Failures) -> tuple[float, float, float]:
    """Seconds until a checkpoint is written of which a device has so many bytes, what of it training stands still, and
    seconds to read it."""
    write_s = own_bytes / failures.write_bytes_per_s if failures.write_s is None else failures.write_s
    stop_s = write_s if failures.stop_s is None else failures.stop_s
    if stop_s > write_s:
        raise ValueError(f"stop_s={stop_s:g} is longer than writing takes, {write_s:.4g} s; give less, or write_s too")
    return write_s, stop_s, own_bytes / failures.load_bytes_per_s if failures.load_s is None else failures.load_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """From one checkpoint to the next: training, the stop for the checkpoint and how much later it counts, what going
    back to one takes before training goes on, the time down before that, and the rate of interruptions."""

    work_s: float
    stop_s: float
    late_s: float
    back_s: float
    down_s: float
    rate: float

    @property
    def up_s(self) -> float:
        """Mean time in which the job runs, to train or to go back."""
        around = self.rate * (self.back_s + self.late_s)
        return exp(around) * expm1(self.rate * (self.work_s + self.stop_s)) / self.rate

    @property
    def failures(self) -> float:
        """Mean number of interruptions."""
        return self.rate * self.up_s

    @property
    def whole_s(self) -> float:
        """Mean time of it all."""
        return self.up_s + self.failures * self.down_s

    def parts(self, slowed: float) -> dict[str, float]:
        """Return what the time goes to, in seconds; interruptions may cut going back short."""
        back_s = -self.failures * expm1(-self.rate * self.back_s) / self.rate
        return {
            "steps": self.work_s / slowed,
            "stragglers": self.work_s - self.work_s / slowed,
            "checkpoints": self.stop_s,
            "restarts": self.failures * self.down_s + back_s,
            "work done again": self.up_s - back_s - self.work_s - self.stop_s,
        }


def best_interval_s(stop_s: float, mtbf_s: float) -> float:
    """Return the training between two checkpoints with which least time is lost, if interruptions come at random.

    It solves ``exp(-x - stop / mtbf) = 1 - x`` for ``x = interval / mtbf``, where the mean time of a turn over its
    training is least; what a restart takes does not matter.

    >>> round(best_interval_s(60.0, 6 * 3600.0)), round(young_s(60.0, 6 * 3600.0)), round(daly_s(60.0, 6 * 3600.0))
    (1570, 1610, 1570)
    """
    low, high = 0.0, 1.0
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if exp(-middle - stop_s / mtbf_s) < 1 - middle else (low, middle)
    return high * mtbf_s


def young_s(stop_s: float, mtbf_s: float) -> float:
    """Return that interval to first order (Young 1974, doi:10.1145/361147.361115)."""
    return sqrt(2 * stop_s * mtbf_s)


def daly_s(stop_s: float, mtbf_s: float) -> float:
    """Return it to higher order (Daly 2006, doi:10.1016/j.future.2004.11.016)."""
    if stop_s >= 2 * mtbf_s:
        return mtbf_s
    small = sqrt(stop_s / (2 * mtbf_s))
    return young_s(stop_s, mtbf_s) * (1 + small / 3 + small**2 / 9) - stop_s


def cheapest_spares(nodes: int, load: float) -> int:
    """Return how many spare nodes let ``nodes`` others train at the least cost, with ``load`` in repair if none waits.

    >>> cheapest_spares(2048, 0.5), cheapest_spares(8, 0.002)
    (4, 0)
    """
    spares = 0
    while (nodes + spares + 1) / (1 - blocked(spares + 2, load)) < (nodes + spares) / (1 - blocked(spares + 1, load)):
        spares += 1
    return spares


def blocked(servers: int, load: float) -> float:
    """Return the share of time in which all of so many servers are busy (Erlang's loss formula, 1917).

    Here each node that the job can do without, and one more, is a server, and a repair is a customer: with all of them
    in repair the job waits, and nothing fails. It depends on the mean of repairs alone.

    >>> blocked(1, 0.25), round(blocked(2, 0.25), 4)
    (0.2, 0.0244)
    """
    share = 1.0
    for server in range(1, servers + 1):
        share = load * share / (server + load * share)
    return share
