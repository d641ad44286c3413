"""The ends of the model as flags: what head and embedding take, and whether all ranks share them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from penstock.core.costs import Costs
    from penstock.core.plan import Plan
    from penstock.cost import Pricing


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Ends:
    """Output head and input embedding."""

    head: float = 0.0
    """Time of the head's forward with the loss, on top of the last stage's; the gradients of its input and of its
    weights take as long each."""
    embedding: float = 0.0
    """Time of the input embedding's forward, and of its backward, on top of the first stage's."""
    vocabulary: Literal[0, 1, 2] = 0
    """Split both over all ranks by rows of the vocabulary: algorithm 1 or 2 of Yeung et al. 2024; 0 keeps them
    whole."""


def with_ends(pricing: Pricing, ends: Ends) -> Pricing:
    """The prices of placements with whole ends; as they are where the ends are split."""
    from penstock.cost import with_whole

    for name in ("head", "embedding"):
        value = getattr(ends, name)
        if not 0 <= value < float("inf"):
            raise ValueError(f"--{name} {value:g}: times are finite and not negative")
    if ends.vocabulary or not (ends.head or ends.embedding):
        return pricing
    return replace(pricing, on=lambda place: with_whole(pricing.on(place), place, ends.head, ends.embedding))


def ends_in(plan: Plan, ends: Ends) -> Ends:
    """The ends as a plan has them that may hold vocabulary passes already."""
    from penstock.lower import algorithm_of

    has = algorithm_of(plan)
    if has and ends.vocabulary not in (0, has):
        raise ValueError(f"--vocabulary {ends.vocabulary}: plan {plan.name!r} has the passes of {has} already")
    return replace(ends, vocabulary=has or ends.vocabulary)


def split_ends(plan: Plan, costs: Costs, ends: Ends) -> tuple[Plan, Costs]:
    """The plan with the vocabulary passes asked for, unless it has them, and what it costs then, of slices
    the cost of one (``costs`` are of whole micro-batches)."""
    from penstock.cost import with_parts
    from penstock.lower import algorithm_of, split_vocabulary

    if not ends.vocabulary:
        return plan, costs.sliced(plan.slices)
    costs = with_parts(costs, plan.placement, ends.vocabulary, ends.head, ends.embedding).sliced(plan.slices)
    return plan if algorithm_of(plan) else split_vocabulary(plan, ends.vocabulary, costs=costs), costs
