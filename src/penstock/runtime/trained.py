"""What one rank knows at the end of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

WARM_STEPS = 2
"""Steps left out of all measurements: allocators and caches settle."""
CALIBRATION_STEPS = 6
"""Steps after those from which the prediction takes its costs."""


@dataclass(frozen=True)
class Change:
    """A change of order between two steps, or that there was nothing to gain.

    Args:
        step: the last step with the order before.
        changed: whether there was something to gain.
        measured_before_s: median of the steps before the search began.
        predicted_before_s, predicted_s: step times at the costs measured then.
        bound_s: what no order of these stages beats within the memory.
    """

    step: int
    changed: bool
    measured_before_s: float
    predicted_before_s: float
    predicted_s: float
    bound_s: float


@dataclass
class Trained:
    """What one rank knows at the end."""

    times: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Op times of the lane by step, shape (2, ops of the lane)."""
    wall_s: dict[int, float] = field(default_factory=dict)
    """Time of each whole step on this rank."""
    saved: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Per stage, bytes kept by a forward and the share of them kept until ``W``."""
    shares: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Per stage, the share of those bytes that is kept where ``R`` makes the rest again, and the share that moves to
    the host."""
    loss: float = math.nan
    held_out_before: float = math.nan
    held_out: float = math.nan
    peak_buffers: int = 0
    rollbacks: int = 0
    """Optimizer steps taken back (post-validation)."""
    rollback_bytes: int = 0
    """What is kept to take one back."""
    boundary_bytes: float = 0.0
    change: Change | None = None
    """Of the order, if the run looked for a better one and the search ended."""

    def begin_anew(self) -> None:
        """Forget times: those of the next steps are of another order."""
        self.times, self.wall_s = {}, {}
