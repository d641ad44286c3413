"""What is wrong with a plan, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.core.op import Kind, Op
from penstock.core.plan import Plan


@dataclass(frozen=True)
class Problem:
    """One reason why a plan cannot run."""

    rank: int
    op: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"rank {self.rank}, {self.op}: {self.message}; {self.fix}"


class IllegalPlan(ValueError):  # noqa: N818 (a plan is illegal; "error" adds nothing)
    """A plan that cannot run; holds every ``Problem`` found."""

    def __init__(self, name: str, found: list[Problem]) -> None:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        super().__init__(f"plan {name!r} is not legal: {found[0]}{more}")
        self.problems = found


def name(plan: Plan, row: int | np.integer[Any]) -> str:
    """The op of an id as text, also where its kind does not exist."""
    kind, stage, micro = plan.ops[row].tolist()
    if not 0 <= kind < len(Kind):
        return f"op of kind {kind}"
    return str(Op(Kind(kind), stage, micro))
