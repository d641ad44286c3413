"""What ops cost, as flags: the times that the planning commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    from penstock.cost import Pricing


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Prices:
    """What the ops cost."""

    costs: str = "1,1,1,0"
    """Times F,I,W of one rank for all its chunks together, and of a message between ranks; or the name of a measured
    profile, for example 6.2B; or a JSON file with times per rank, layer or stage."""
    w_share: float | None = None
    """Share of a micro-batch's activations that W needs after I, 0 to 1; left out, what a file says, else 1."""


def pricing_of(prices: Prices) -> Pricing:
    """The costs of any placement at the user's prices."""
    from penstock.cost import pricing

    return pricing(prices.costs, prices.w_share)
