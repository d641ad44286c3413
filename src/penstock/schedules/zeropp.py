"""ZeroPP: units of micro-batches, breadth-first inside, W staggered over ranks (Tang et al. 2024, arXiv:2402.03791).

Made for fully sharded weights: each chunk's weights are gathered twice a unit. The order inside a unit is ours, after
the paper's idea: W moves to where a rank would wait.
"""

from penstock.schedules.interleaved import even
from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int, unit: int | None = None) -> list[Phase]:
    """Each unit runs F through every chunk, then I back; its last 2(p-1-r) W wait for the turn of the next unit.

    Args:
        unit: micro-batches of a unit; default 2p-1, the fewest that fill every wait at v=1. Where it does not divide m,
            units are larger and even.

    Example:
        >>> from penstock.schedules import build
        >>> [str(lane) for lane in build("zeropp", ranks=2, micros=2, unit=2).lanes]
        ['0F0 0F1 0I0 0W0 0I1 0W1', '1F0 1F1 1I0 1I1 1W0 1W1']
    """
    units = sizes(p, m, unit)
    phases: list[Phase] = []
    kept = 0
    for number, micros in enumerate(units, 1):
        keep = min(micros * v, 2 * (p - 1 - r)) if number < len(units) else 0
        late = min(micros * v, keep + 2 * r)
        phases += [*((micros, f"F{c}") for c in range(v)), (kept, "w"), *_back(micros, v, late), (late - keep, "w")]
        kept = keep
    return phases


def _back(micros: int, v: int, late: int) -> list[Phase]:
    """All I from the last chunk, of which the first ``late`` leave W waiting."""
    phases: list[Phase] = []
    for c in reversed(range(v)):
        alone = min(micros, late)
        phases += [(alone, f"I{c}"), (micros - alone, f"I{c} w")]
        late -= alone
    return phases


def sizes(p: int, m: int, unit: int | None) -> list[int]:
    """Micro-batches of each unit, the largest first."""
    return even(m, max(1, m // (2 * p - 1 if unit is None else unit)))


def valid(p: int, m: int, v: int, unit: int | None = None) -> str:
    """Any unit will do."""
    return f"unit={unit} is not a number of micro-batches; use {2 * p - 1}" if unit is not None and unit < 1 else ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float, unit: int | None = None) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I)/v where F+I = 2W.

    Shorter W leave (p-1)(F+I-2W)/v more at every further unit.
    """
    return (p - 1) * (f + i + (len(sizes(p, m, unit)) - 1) * (f + i - 2 * w)) / v


def holds(p: int, m: int, v: int, f: float, i: float, w: float, unit: int | None = None) -> tuple[bool, bool]:
    """Where the figure is proved: units of at least p micro-batches and 2(p-1) W, and F+I >= 2W."""
    units = sizes(p, m, unit)
    return (units[-1] >= p and units[-1] * v >= 2 * (p - 1) and f + i >= 2 * w,) * 2


def peak_micros(r: int, p: int, m: int, v: int, unit: int | None = None) -> float:
    """Micro-batches whose activations rank r holds at its peak, if W needs all: a unit and 2(p-1-r)/v of another."""
    largest, *more = sizes(p, m, unit)
    before = largest
    peak = largest * v
    for micros in more:
        peak = max(peak, micros * v + min(before * v, 2 * (p - 1 - r)))
        before = micros
    return peak / v
