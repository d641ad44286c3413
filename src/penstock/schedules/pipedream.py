"""PipeDream: 1F1B in which each stage applies each gradient at once, with stashed weights (Narayanan et al. 2019, SOSP;
Harlap et al. 2018, arXiv:1806.03377)."""

from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """As 1F1B, with an update after each backward; a backward finds the weights of its forward.

    In the steady state the gradient of stage s is applied p-1-s updates after the weights it was made with. The plan is
    a window of m micro-batches that fills and drains the pipeline once; a stream without end would only at its ends.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("pipedream", ranks=2, micros=3).lanes[0])
        '0F0 0F1 0B0 0UPDATE0 0F2 0B1 0UPDATE1 0B2 0UPDATE2'
    """
    warm = min(p - 1 - r, m)
    return [(warm, "F"), (m - warm, "F B U"), (warm, "B U")]
