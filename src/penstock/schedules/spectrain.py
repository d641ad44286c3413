"""SpecTrain: pipelined backpropagation with weight prediction (Chen et al. 2018, arXiv:1809.02839; for Adam: Guan et
al. 2019, arXiv:1911.04610)."""

from penstock.schedules import pipedream
from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """PipeDream's order; forwards and backwards run with weights extrapolated along the optimizer's running mean, to
    when their gradient will be applied.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("spectrain", ranks=2, micros=2).lanes[1])
        '1F0 1B0 1UPDATE0 1F1 1B1 1UPDATE1'
    """
    return pipedream.lane(r, p, m, v)
