"""What each op takes: seconds, message times and bytes, per stage and kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import AMONG_RANKS, COMPUTE, OF_STAGE, VOCABULARY, Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan

ARRAYS = (
    "seconds",
    "hop_s",
    "saved_bytes",
    "w_share",
    "boundary_bytes",
    "kept_share",
    "host_share",
    "weight_bytes",
    "host_of",
)
"""The fields of ``Costs`` that are arrays, in order."""


ATTENDING = (*COMPUTE, Kind.R)
"""Kinds that attend to earlier slices of a sequence."""


def _unset() -> NDArray[Any]:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class Costs:
    """Durations and bytes that the simulator needs.

    Args:
        seconds: time of each kind on each stage, shape (kinds, stages); zero for sends and receives.
        hop_s: time of one boundary tensor from rank to rank, shape (ranks, ranks), zero on the diagonal.
        saved_bytes: what ``F`` keeps for the backward, shape (stages,).
        w_share: share of ``saved_bytes`` that lives on after ``I`` until ``W``, shape (stages,).
        boundary_bytes: size of each stage's output (and of its gradient), shape (stages,).
        kept_share: share of ``saved_bytes`` that ``F`` keeps where ``R`` will make the rest again, shape (stages,);
            default nothing.
        host_share: share of what is kept that ``OFFLOAD`` moves to the host, shape (stages,); default all.
        weight_bytes: weights that ``UNSHARD`` gathers, shape (stages,); default 0.
        host_of: the host link of each rank, shape (ranks,); ranks of equal number share one. Default one each.
        slice_factor: time of a forward or backward on each slice of a sequence by ``seconds``; none: 1 for each. Later
            slices of equal length take longer, as they attend to more.
        overlap: share of the shorter op of a fused block that the longer one hides, 0 to 1.
    """

    seconds: NDArray[np.float64]
    hop_s: NDArray[np.float64]
    saved_bytes: NDArray[np.float64]
    w_share: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]
    kept_share: NDArray[np.float64] = field(default_factory=_unset)
    host_share: NDArray[np.float64] = field(default_factory=_unset)
    weight_bytes: NDArray[np.float64] = field(default_factory=_unset)
    host_of: NDArray[np.int64] = field(default_factory=_unset)
    overlap: float = 0.0
    slice_factor: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        stages, ranks = len(self.saved_bytes), len(self.hop_s)
        defaults = {
            "kept_share": np.zeros(stages),
            "host_share": np.ones(stages),
            "weight_bytes": np.zeros(stages),
            "host_of": np.arange(ranks),
        }
        for name, default in defaults.items():
            if not len(getattr(self, name)):
                object.__setattr__(self, name, default)
        for name, shape in self._shapes().items():
            values = getattr(self, name)
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}, not {shape}")
            if not (values >= 0).all():
                raise ValueError(f"{name} holds a negative value or NaN: {values.min()}")
        if self.hop_s.diagonal().any():
            raise ValueError(f"hop_s is {self.hop_s.diagonal().max()} from a rank to itself; it must be 0")
        if self.host_of.max(initial=0) >= ranks:
            raise ValueError(f"host_of names link {self.host_of.max()}; host links count from 0 to {ranks - 1}")
        if not all(0 <= factor < np.inf for factor in self.slice_factor):
            raise ValueError(f"slice_factor={self.slice_factor}; factors are finite and not negative")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"overlap={self.overlap}; it is a share between 0 and 1")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        stages, ranks = len(self.saved_bytes), len(self.hop_s)
        sizes = {"seconds": (len(Kind), stages), "hop_s": (ranks, ranks), "host_of": (ranks,)}
        return {name: sizes.get(name, (stages,)) for name in ARRAYS}

    def fused_s(self, f_s: Any, b_s: Any) -> Any:
        """Time of a forward and a backward as one block, ``overlap`` of the shorter one hidden. Numbers or arrays."""
        return f_s + b_s - self.overlap * np.minimum(f_s, b_s)

    def of(self, plan: Plan) -> NDArray[np.float64]:
        """Time of each op id, of both ops of a block the block's: shape (ops,)."""
        found: NDArray[np.float64] = self.seconds.take(plan.cells)
        if self.slice_factor:
            kind, _, micro = plan.ops.T
            factor = np.array(self.slice_factor)
            if len(factor) != plan.slices:
                raise ValueError(
                    f"slice_factor={self.slice_factor}, but the plan has slices={plan.slices}; make them fit"
                )
            found = found * np.where(np.isin(kind, ATTENDING), factor[micro % plan.slices], 1.0)
        first = np.flatnonzero(plan.fused)
        found[first] = found[first + 1] = self.fused_s(found[first], found[first + 1])
        return found

    def sliced(self, slices: int) -> Costs:
        """Of the mean slice of a micro-batch, from those of the whole: 1/slices of times, messages and bytes. What does
        not depend on tokens (weights and what is done with them once a step) stays.

        Example:
            >>> costs = Costs.uniform(Placement.loop(2)).sliced(4)
            >>> float(costs.seconds[Kind.F, 0]), float(costs.saved_bytes[0])
            (0.25, 0.25)
        """
        if slices == 1:
            return self
        seconds = self.seconds / slices
        seconds[list(OF_STAGE)] = self.seconds[list(OF_STAGE)]
        return replace(
            self,
            seconds=seconds,
            hop_s=self.hop_s / slices,
            saved_bytes=self.saved_bytes / slices,
            boundary_bytes=self.boundary_bytes / slices,
        )

    @classmethod
    def uniform(
        cls,
        placement: Placement,
        f_s: float = 1.0,
        i_s: float = 1.0,
        w_s: float = 1.0,
        link_s: float = 0.0,
        w_share: float = 1.0,
        rank_bytes: float = 1.0,
        boundary_bytes: float = 0.0,
        overlap: float = 0.0,
        other_s: Mapping[Kind, float] | None = None,
    ) -> Costs:
        """Equal ranks: every figure is that of one micro-batch on one rank, for all its chunks of the micro-batch's
        chain together, as papers quote them. ``R`` takes as long as ``F``; ``other_s`` gives times of further kinds.

        Example:
            >>> costs = Costs.uniform(Placement.loop(4, 2), f_s=2.0)
            >>> float(costs.seconds[Kind.F, 0]), float(costs.seconds[Kind.B, 0])
            (1.0, 1.0)
        """
        share = [
            rank * placement.chains + chain for rank, chain in zip(placement.rank_of, placement.chain_of, strict=True)
        ]
        chunks = np.bincount(share)[share].astype(np.float64)
        seconds = np.zeros((len(Kind), placement.stages))
        given = {Kind.F: f_s, Kind.B: i_s + w_s, Kind.I: i_s, Kind.W: w_s, Kind.R: f_s} | dict(other_s or {})
        for kind, per_rank_s in given.items():
            seconds[kind] = per_rank_s if kind in VOCABULARY + AMONG_RANKS else per_rank_s / chunks
        hop_s = np.full((placement.ranks, placement.ranks), link_s)
        np.fill_diagonal(hop_s, 0.0)
        stages = np.ones(placement.stages)
        return cls(seconds, hop_s, rank_bytes / chunks, w_share * stages, boundary_bytes * stages, overlap=overlap)

    def with_seconds(self, kind: Kind, stage: int, seconds: float) -> Costs:
        """The same costs with another time for one kind on one stage."""
        changed = self.seconds.copy()
        changed[kind, stage] = seconds
        return replace(self, seconds=changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, seconds by kind letter."""
        return {
            "seconds": {kind.name: self.seconds[kind].tolist() for kind in Kind if self.seconds[kind].any()},
            **{name: getattr(self, name).tolist() for name in ARRAYS[1:]},
            "overlap": self.overlap,
            "slice_factor": list(self.slice_factor),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Costs:
        """Inverse of ``to_dict``.

        Raises:
            ValueError: a key is missing or an array has the wrong shape.
        """
        try:
            seconds = np.zeros((len(Kind), len(data["saved_bytes"])))
            for name, row in data["seconds"].items():
                seconds[Kind[name]] = row
            arrays: dict[str, Any] = {name: np.array(data[name], dtype=np.float64) for name in ARRAYS[1:-1]}
            whole: dict[str, Any] = {"host_of": np.array(data["host_of"]), "overlap": data["overlap"]}
            return cls(seconds, **arrays, **whole, slice_factor=tuple(data.get("slice_factor", ())))
        except KeyError as missing:
            raise ValueError(f"the costs lack the key {missing}") from None
