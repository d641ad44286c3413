"""What happened, or would happen, when a plan runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import of_kind
from penstock.core.op import WORK
from penstock.core.plan import Plan

FORMAT = 2


@dataclass(frozen=True, eq=False)
class MemoryCurve:
    """Bytes alive on one rank over time: a step function that holds each value until the next time."""

    time_s: NDArray[np.float64]
    activation_bytes: NDArray[np.float64]
    """Kept by forwards for backwards still to come."""
    buffer_bytes: NDArray[np.float64]
    """Boundary tensors in flight: receives posted and not consumed, sends not completed."""
    gathered_bytes: NDArray[np.float64]
    """Weights gathered from their shards."""

    @property
    def total_bytes(self) -> NDArray[np.float64]:
        """Sum of all."""
        return self.activation_bytes + self.buffer_bytes + self.gathered_bytes

    @property
    def peak_bytes(self) -> float:
        """Highest sum of all."""
        return float(self.total_bytes.max(initial=0.0))


@dataclass(frozen=True, eq=False)
class Timeline:
    """Start and end of every op of a plan, simulated or measured.

    Args:
        plan: what ran; op ids are its row numbers.
        label: for people, for example ``predicted``.
        start_s, end_s: shape (ops,), seconds from the start of the step; for a message, from posting to arrival.
        waited_for: id of the op whose result came last, -1 if the rank itself was the last to be free; shape (ops,).
        memory: one curve per rank.

    Example:
        >>> from penstock import Costs, build, simulate
        >>> plan = build("1f1b", ranks=2, micros=3)
        >>> timeline = simulate(plan, Costs.uniform(plan.placement))
        >>> timeline.makespan_s, timeline.bubble_sync, timeline.peak_bytes.tolist()
        (12.0, 0.25, [2.0, 1.0])
    """

    plan: Plan
    label: str
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    waited_for: NDArray[np.int32]
    memory: tuple[MemoryCurve, ...]

    def _per_rank(self, values: NDArray[np.float64], empty: float, how: Any) -> NDArray[np.float64]:
        found, first = np.full(self.plan.placement.ranks, empty), self.plan.first
        some = np.flatnonzero(np.diff(first))
        found[some] = how.reduceat(np.where(self.plan.memo(_work), values, empty), first[some])
        return found

    @cached_property
    def first_s(self) -> NDArray[np.float64]:
        """Start of each rank's first compute, shape (ranks,)."""
        return self._per_rank(self.start_s, np.inf, np.minimum)

    @cached_property
    def last_s(self) -> NDArray[np.float64]:
        """End of each rank's last compute, shape (ranks,)."""
        return self._per_rank(self.end_s, -np.inf, np.maximum)

    @cached_property
    def busy_s(self) -> NDArray[np.float64]:
        """Compute time of each rank, shape (ranks,)."""
        taken = self.end_s - self.start_s
        taken[np.flatnonzero(self.plan.fused)] = 0.0  # a block counts once
        worked = np.where(self.plan.memo(_work), taken, 0.0)
        return np.asarray(np.bincount(self.plan.rank_of_op, worked, self.plan.placement.ranks), dtype=np.float64)

    @property
    def step_s(self) -> float:
        """End of the last op of any kind, the optimizer's step included."""
        return float(self.end_s.max(initial=0.0))

    @property
    def makespan_s(self) -> float:
        """End of the last compute: what a synchronous optimizer waits for."""
        return float(self.last_s.max())

    @property
    def span_s(self) -> float:
        """Longest time on one rank from its first compute to its last: what repeats if steps may overlap
        (Qi et al. 2023, arXiv:2401.10241)."""
        return float((self.last_s - self.first_s).max())

    @property
    def bubble_sync(self) -> float:
        """Share of the makespan in which the busiest rank idles, 0..1."""
        return 1.0 - float(self.busy_s.max()) / self.makespan_s if self.makespan_s else 0.0

    @property
    def bubble_span(self) -> float:
        """Share of the span in which the busiest rank idles, 0..1."""
        return 1.0 - float(self.busy_s.max()) / self.span_s if self.span_s else 0.0

    @property
    def peak_bytes(self) -> NDArray[np.float64]:
        """Highest memory of each rank, shape (ranks,)."""
        return np.array([curve.peak_bytes for curve in self.memory])

    @cached_property
    def step_only_s(self) -> float:
        """Time after the last compute (optimizer step, late messages)."""
        return self.step_s - self.makespan_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "penstock_timeline": FORMAT,
            "label": self.label,
            "plan": self.plan.to_dict(),
            "start_s": np.round(self.start_s, 9).tolist(),
            "end_s": np.round(self.end_s, 9).tolist(),
            "waited_for": self.waited_for.tolist(),
            "memory": [
                {
                    "time_s": np.round(curve.time_s, 9).tolist(),
                    "activation_bytes": curve.activation_bytes.tolist(),
                    "buffer_bytes": curve.buffer_bytes.tolist(),
                    "gathered_bytes": curve.gathered_bytes.tolist(),
                }
                for curve in self.memory
            ],
        }

    def to_json(self) -> str:
        """One JSON object; ``from_json`` reads it back."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Timeline:
        """Inverse of ``to_json``.

        Raises:
            ValueError: malformed JSON or not a timeline.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"malformed JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
        if not isinstance(data, dict) or data.get("penstock_timeline") != FORMAT:
            raise ValueError(f"not a Penstock timeline of format {FORMAT}")
        try:
            memory = tuple(
                MemoryCurve(**{key: np.array(row) for key, row in curve.items()}) for curve in data["memory"]
            )
            plan = Plan.from_dict(data["plan"])
            times = (np.array(data["start_s"], dtype=np.float64), np.array(data["end_s"], dtype=np.float64))
            return cls(plan, data["label"], *times, np.array(data["waited_for"], dtype=np.int32), memory)
        except KeyError as missing:
            raise ValueError(f"the timeline lacks the key {missing}") from None


def _work(plan: Plan) -> NDArray[np.bool_]:
    return of_kind(plan.ops[:, 0], WORK)
