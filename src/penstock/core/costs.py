"""What each op takes: seconds, message times and bytes, per stage and kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.core.placement import Placement


@dataclass(frozen=True, eq=False)
class Costs:
    """Durations and bytes that the simulator needs.

    Args:
        seconds: time of each kind on each stage, shape (kinds, stages); zero for sends and receives.
        hop_s: time of one boundary tensor from rank to rank, shape (ranks, ranks), zero on the diagonal.
        saved_bytes: what ``F`` keeps for the backward, shape (stages,).
        w_share: share of ``saved_bytes`` that lives on after ``I`` until ``W``, shape (stages,).
        boundary_bytes: size of each stage's output (and of its gradient), shape (stages,).
    """

    seconds: NDArray[np.float64]
    hop_s: NDArray[np.float64]
    saved_bytes: NDArray[np.float64]
    w_share: NDArray[np.float64]
    boundary_bytes: NDArray[np.float64]

    def __post_init__(self) -> None:
        stages, ranks = len(self.saved_bytes), len(self.hop_s)
        shapes = {
            "seconds": (len(Kind), stages),
            "hop_s": (ranks, ranks),
            "w_share": (stages,),
            "boundary_bytes": (stages,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")
        for name in (*shapes, "saved_bytes"):
            if not (getattr(self, name) >= 0).all():
                raise ValueError(f"{name} holds a negative value or NaN: {getattr(self, name).min()}")
        if self.hop_s.diagonal().any():
            raise ValueError(f"hop_s is {self.hop_s.diagonal().max()} from a rank to itself; it must be 0")

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
    ) -> Costs:
        """Equal ranks: every figure is that of one micro-batch on one rank, for all its chunks of the micro-batch's
        chain together, as papers quote them.

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
        for kind, per_rank_s in ((Kind.F, f_s), (Kind.B, i_s + w_s), (Kind.I, i_s), (Kind.W, w_s)):
            seconds[kind] = per_rank_s / chunks
        hop_s = np.full((placement.ranks, placement.ranks), link_s)
        np.fill_diagonal(hop_s, 0.0)
        stages = np.ones(placement.stages)
        return cls(seconds, hop_s, rank_bytes / chunks, w_share * stages, boundary_bytes * stages)

    def with_seconds(self, kind: Kind, stage: int, seconds: float) -> Costs:
        """The same costs with another time for one kind on one stage."""
        changed = self.seconds.copy()
        changed[kind, stage] = seconds
        return replace(self, seconds=changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, seconds by kind letter."""
        return {
            "seconds": {kind.name: self.seconds[kind].tolist() for kind in Kind if self.seconds[kind].any()},
            "hop_s": self.hop_s.tolist(),
            "saved_bytes": self.saved_bytes.tolist(),
            "w_share": self.w_share.tolist(),
            "boundary_bytes": self.boundary_bytes.tolist(),
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
            arrays = (np.array(data[key], dtype=np.float64) for key in list(cls.__dataclass_fields__)[1:])
            return cls(seconds, *arrays)
        except KeyError as missing:
            raise ValueError(f"the costs lack the key {missing}") from None
