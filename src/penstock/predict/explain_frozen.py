"""The figure of weights that are made wide before their products read them."""

from __future__ import annotations

from penstock.cost.origins import of_memory
from penstock.cost.passes import CLASSES, Work, hot_share
from penstock.predict.explain_kernels import lasting_constants
from penstock.predict.figure import Figure
from penstock.predict.frozen import widened_s
from penstock.predict.micro import Rank


def widening(rank: Rank, work: Work, times: float) -> Figure:
    """Return the seconds of ``times`` passes in which a block's matrices are made wide."""
    lasting = float(rank.lasting(rank.low, hot_share(work.seconds.sum(axis=1)))[CLASSES.index("memory")])
    setup = rank.setup
    how = f"{work.weights:,.4g} parameters from {setup.frozen_bytes:.3g} to {rank.width_bytes:.3g} bytes each"
    constants = (*of_memory(rank.device), *lasting_constants(rank, "memory", rank.low))
    seconds = times * widened_s(rank, work) / lasting
    return Figure(name="making frozen weights wide", value=seconds, unit="s", how=how, constants=constants)
