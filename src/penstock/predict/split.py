"""What formulas ask of one setup's rank, or of those of many setups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.device import Device
from penstock.cost.collectives import Collective
from penstock.cost.stack import Stack

if TYPE_CHECKING:
    from penstock.predict.micro import Rank

Floats = NDArray[np.float64]


class Split(Protocol):
    """What formulas ask of a ``Rank``, with numbers, or of ``Ranks``, with arrays."""

    model: Architecture
    cluster: Cluster
    setup: Any
    stack: Stack
    device: Device
    width_bytes: float

    def each(self, of: Callable[[Rank], Any]) -> Any:
        """Return what a function of a rank gives."""
        ...

    def among(self, kind: Collective, whole_bytes: Floats, size: Any, stride: Any, when: Any = True) -> Floats:
        """Return the seconds of a collective, as far as there is one, over ``size`` ranks that are ``stride`` apart."""
        ...
