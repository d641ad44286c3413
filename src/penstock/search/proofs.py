"""Proofs in a search: which placement the next one is tried on, and what is known of it then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from penstock.engine.bounds import Bound
from penstock.search.arms import Arm
from penstock.search.exact import MOST_OPS, Proof, exact, installed

FIRST_S, LAST_S = 0.5, 8.0
"""Proofs on a placement double from one to the other, about."""
QUICK = 4
"""Proofs without the solver at once."""
OP_S = 0.05
"""About what a unit of effort takes for each op."""


def worth_proving(arms: Iterable[tuple[str, Arm]]) -> list[str]:
    """Placements that a proof may still say something of, whose orders are all there is to say: some for which it is
    quick, since the solver is not asked, or else the one that was tried least."""
    able = [(arm.proofs, name, _small(arm)) for name, arm in arms if _open(arm) and (not arm.proofs or _small(arm))]
    quick = [name for _, name, small in able if not small]
    return quick[:QUICK] or [name for _, name, _ in sorted(able)[:1]]


def _open(arm: Arm) -> bool:
    return arm.way.plain and arm.stints > 0 and arm.share > 0


def seconds_of_proof(arm: Arm) -> float:
    """About how long the next proof takes; 0 where the solver is not asked."""
    return min(LAST_S, FIRST_S * 2.0**arm.proofs) if _small(arm) else 0.0


def prove(arm: Arm, beat_s: float, seed: int) -> Proof:
    """Try to beat the best order of all, and to show that this placement has none; equal arguments, equal results."""
    effort = seconds_of_proof(arm) / (OP_S * len(arm.work.codes))
    return exact(arm.task, arm.work, arm.bound.seconds, beat_s, effort, seed, arm.share)


def proven(arm: Arm, proof: Proof) -> Arm:
    """The arm after a proof."""
    arm = replace(arm, proofs=arm.proofs + 1, share=proof.share)
    if proof.run is not None and proof.run.score(arm.task.objective)[0] < arm.seconds:
        arm = replace(arm, run=proof.run)
    if proof.kind and proof.bound_s > arm.bound.seconds * (1 + 1e-12):
        arm = replace(arm, bound=Bound(proof.bound_s, proof.kind, arm.bound.rank))
    return arm


def _small(arm: Arm) -> bool:
    return len(arm.work.codes) <= MOST_OPS and installed()
