"""The legality check, the simulator and the lower bounds."""

from penstock.engine.bounds import Bound, Bounds, bounds
from penstock.engine.check import check, problems
from penstock.engine.fit_memory import recompute_to_fit
from penstock.engine.noise import Noise, Spread, noisy
from penstock.engine.problem import IllegalPlan, Problem
from penstock.engine.simulate import last_s, simulate
from penstock.engine.steady import period_s

__all__ = [
    "Bound",
    "Bounds",
    "IllegalPlan",
    "Noise",
    "Problem",
    "Spread",
    "bounds",
    "check",
    "last_s",
    "noisy",
    "period_s",
    "problems",
    "recompute_to_fit",
    "simulate",
]
