"""What a job asks of activations between forward and backward, and the plan that does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.core.costs import Costs
from penstock.core.job import Strategy
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.engine.options import read
from penstock.engine.passes import PASSES, apply_passes

ADDS = {"recompute": Kind.R, "offload": Kind.OFFLOAD}
"""The settings that save memory, which are passes of the same name, and what these add."""


@dataclass(frozen=True)
class Keeping:
    """What the plan does not say of the micro-batches that it makes again or moves.

    Args:
        selective: whether recompute keeps what is dear to make, or only the input.
        host_share: share of what can move to the host that does.
    """

    selective: bool = False
    host_share: float = 1.0

    @classmethod
    def of(cls, strategy: Strategy) -> Keeping:
        """As the settings say.

        Example:
            >>> Keeping.of(Strategy(recompute="selective,keep=1", offload="0.5"))
            Keeping(selective=True, host_share=0.5)
        """
        (_, again), (_, moved) = (read(text, PASSES) for text in (_text(strategy, name) or name for name in ADDS))
        return cls(again.get("what") == "selective", moved.get("share", cls.host_share))


def with_less_memory(plan: Plan, costs: Costs, strategy: Strategy) -> Plan:
    """The plan with the recompute and the copies to the host that the settings ask for, where it has none itself.

    Args:
        plan: legal; without sends, unless it has what is asked for.
        costs: by which copies are planned and limits of memory judged.
        strategy: the settings ``recompute`` and ``offload``.

    Raises:
        ValueError: see ``engine.passes.apply_passes``; or the plan cannot have, or cannot run with, what is asked for.
    """
    texts = []
    for name, kind in ADDS.items():
        has = bool((plan.ops[:, 0] == kind).any())
        if _text(strategy, name) and not has:
            if plan.lowered:
                raise ValueError(
                    f"{name}={getattr(strategy, name)}, but plan {plan.name!r} has sends already, and no {kind.name}"
                )
            texts.append(_text(strategy, name))
    plan, _ = apply_passes(plan, costs, texts)
    moves = np.isin(plan.ops[:, 0], Kind.OFFLOAD).any()
    if moves and plan.slices > 1:
        raise ValueError(f"plan {plan.name!r} has {plan.slices} slices, which share keys and values; they cannot move")
    if moves and plan.weights != "synced":
        raise ValueError(f"plan {plan.name!r} keeps versions of weights, which micro-batches share; they cannot move")
    return plan


def _text(strategy: Strategy, name: str) -> str:
    """A setting as a pass; empty if it is not set."""
    value = getattr(strategy, name)
    return f"{name}={value}" if value else ""
