"""Jitter, slow ranks and stragglers, as flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from penstock.core.costs import Costs
    from penstock.core.plan import Plan
    from penstock.engine import Noise
    from penstock.search import Judged, Robust


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Noises:
    """Ops that take longer or shorter than they should."""

    jitter: float = 0.0
    """Deviation of each op's time, as a share of it: 0.05 for 5 %. Times are then drawn, and the mean is given too."""
    slow: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    """A slow rank as RANK=FACTOR, for example 3=1.25 for a quarter longer; may be given more than once."""
    straggler: Annotated[float, Parameter(show_default=False)] = 1.0
    """Factor on one rank, another in each draw: 1.25 for a quarter longer."""
    draws: int = 100
    """How often times are drawn."""
    seed: int = 0
    """Equal seeds draw equal times, and search the same way."""


def noise_of(flags: Noises) -> Noise | None:
    """What the flags ask for; ``None`` for no noise."""
    from penstock.engine import Noise

    if not flags.jitter and not flags.slow and flags.straggler == 1:
        return None
    return Noise(flags.jitter, dict(map(_slow, flags.slow)), flags.seed, flags.straggler)


def noise_facts(plan: Plan, costs: Costs, flags: Noises) -> dict[str, Any]:
    """Figures of a plan under the noise that the flags ask for, by the names that scripts read; none if they ask for
    none."""
    noise = noise_of(flags)
    if noise is None:
        return {}
    import numpy as np

    from penstock.engine import noisy

    spread = noisy(plan, costs, noise, flags.draws)
    return {
        "noisy_makespan": float(spread.makespan_s.mean()),
        "noisy_makespan_p95": float(np.quantile(spread.makespan_s, 0.95)),
        "noisy_span": float(spread.span_s.mean()),
        "noisy_span_p95": float(np.quantile(spread.span_s, 0.95)),
    }


def print_noise(facts: dict[str, Any]) -> None:
    """One line on what noise does, if it was asked for."""
    if "noisy_makespan" in facts:
        mean, high = facts["noisy_makespan"], facts["noisy_makespan_p95"]
        more = 100 * (mean / facts["makespan"] - 1)
        print(f"with noise: makespan {mean:.6g} on the mean ({more:+.2f} %), {high:.6g} at most in 95 of 100 steps")


def noise_to_keep(flags: Noises) -> Noise:
    """The noise that an order shall be robust against."""
    noise = noise_of(flags)
    if noise is None:
        raise ValueError("--robust needs noise; give --jitter, --straggler or --slow, for example --jitter 0.1")
    if flags.draws < 1:
        raise ValueError(f"--draws {flags.draws}; draw at least once")
    return noise


def robust_facts(found: Robust | None) -> dict[str, Any]:
    """What an order that is robust is expected to take and what it saves, by the names that scripts read."""
    if found is None:
        return {}

    def beside(other: Judged | None) -> dict[str, Any] | None:
        if other is None:
            return None
        saved, error = found.ours.saves(other)
        facts = {"name": other.plan.name, "placement": other.where, "expected": other.seconds}
        return facts | {"saved": saved, "saved_error": error}

    noise = found.noise
    return {
        "robust": {
            "jitter": noise.jitter,
            "slow": {str(rank): factor for rank, factor in noise.slow.items()},
            "straggler": noise.straggler,
            "seed": noise.seed,
            "draws": len(found.ours.times_s),
            "expected": found.ours.seconds,
            "bound": found.bound.seconds,
            "bound_kind": found.bound.kind,
            "gap": 100 * found.gap,
            "at_mean_costs": beside(found.at_means),
            "best_named": beside(found.named),
            "stints": found.stints,
        }
    }


def print_robust(facts: dict[str, Any]) -> None:
    """What robust orders are expected to take, if one was asked for."""
    if "robust" not in facts:
        return
    found = facts["robust"]
    print(
        f"expected under noise: {found['expected']:.6g}, {found['gap']:.2f} % above what no order is expected to beat "
        f"({found['bound']:.6g}, {found['bound_kind']}); {found['draws']} draws"
    )
    for what, words in (("at_mean_costs", "the best order without noise"), ("best_named", "the best named schedule")):
        other = found[what]
        if other is not None:
            share = [100 * other[part] / other["expected"] for part in ("saved", "saved_error")]
            print(
                f"  {words} ({other['name']}, {other['placement']}): {other['expected']:.6g}; "
                f"this saves {share[0]:.2f} +- {share[1]:.2f} %"
            )


def _slow(text: str) -> tuple[int, float]:
    rank, _, factor = text.partition("=")
    try:
        return int(rank), float(factor)
    except ValueError:
        raise ValueError(f"--slow {text}: write RANK=FACTOR, for example 3=1.25") from None
