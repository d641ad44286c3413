"""What ops cost, as flags: the times that the planning commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    from penstock.core.costs import Costs
    from penstock.core.placement import Placement


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Prices:
    """What the ops cost."""

    costs: str = "1,1,1,0"
    """Times F,I,W of one rank for all its chunks together, and of a message between ranks."""
    w_share: float = 1.0
    """Share of a micro-batch's activations that W needs after I, 0 to 1."""


def costs_of(placement: Placement, prices: Prices) -> Costs:
    """What the ops of a placement cost at the user's prices."""
    from penstock.core.costs import Costs

    words = prices.costs.split(",")
    try:
        f_s, i_s, w_s, link_s = map(float, words)
    except ValueError:
        raise ValueError(f"--costs {prices.costs}: give four numbers F,I,W,link, for example 1,1,1,0") from None
    for letter, value in zip(("F", "I", "W", "link"), (f_s, i_s, w_s, link_s), strict=True):
        if not 0 <= value < float("inf"):
            raise ValueError(f"--costs {prices.costs}: {letter} is {value:g}; times are finite and not negative")
    if not 0 <= prices.w_share <= 1:
        raise ValueError(f"--w-share {prices.w_share:g}: a share lies between 0 and 1")
    return Costs.uniform(placement, f_s, i_s, w_s, link_s, prices.w_share)
