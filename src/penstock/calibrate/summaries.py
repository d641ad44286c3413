"""Errors of many predictions in a few figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.calibrate.validation import Compared

APART = 1.5
"""Times of a source are ranked if the longest is at least so many times the shortest."""
SAME = (
    "source_title", "model_name", "layers", "hidden", "device", "devices", "seq_len", "global_batch", "precision",
    "series",
)  # fmt: skip
"""Rows that agree in these, and in the model that is read from them, are choices for one task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of ``n`` predictions of one thing: relative errors, as shares; ``bias`` is the signed median."""

    n: int
    median: float
    p90: float
    bias: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows of two or more setups for one task."""

    rows: tuple[Compared, ...]

    @property
    def fastest(self) -> Compared:
        """The row that is measured to be best."""
        return min(self.rows, key=_time)

    @property
    def picked(self) -> Compared:
        """The row that is predicted to be best."""
        return min(self.rows, key=lambda row: row.figures.seconds if row.figures else np.inf)

    @property
    def regret(self) -> float:
        """Measured time of the one that is picked over that of the fastest, less 1."""
        return _time(self.picked) / _time(self.fastest) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How well a set of rows is predicted; ``None`` where no row says.

    Args:
        rows: all of them.
        predicted: those for which there is a prediction.
        time, memory: errors of step times and of peaks of memory, of rows whose setup is known.
        spearman: rank correlation of predicted and measured times, where they differ by more than ``APART``.
        regret, choices: measured time of what is predicted to be best over that of what is, less 1, mean over so many
            tasks with a choice of two or more.
        inside: share of measured times in their interval.
        judged_right, judged: share of rows of which it is rightly said whether they fit, and how many they are.
    """

    rows: int
    predicted: int
    time: Errors | None
    memory: Errors | None
    spearman: float | None
    regret: float | None
    choices: int
    inside: float | None
    judged_right: float | None
    judged: int


def summary(rows: Sequence[Compared], *, strict: bool = True) -> Summary:
    """Return the figures of a set of rows.

    Args:
        rows: each beside its prediction.
        strict: rows whose setup is not known well enough (``strict_time``, ``strict_mem`` 0) do not count.
    """
    timed = in_time(rows, strict=strict)
    sized = [row for row in rows if row.memory_error is not None and (row.strict_memory or not strict)]
    judged = [row for row in rows if row.judged_right is not None and (_known(row) or not strict)]
    regrets = [one.regret for one in choices(timed)]
    return Summary(
        rows=len(rows),
        predicted=sum(row.figures is not None for row in rows),
        time=errors(row.time_error for row in timed),
        memory=errors(row.memory_error for row in sized),
        spearman=_ranked(timed),
        regret=float(np.mean(regrets)) if regrets else None,
        choices=len(regrets),
        inside=_share(row.inside for row in timed),
        judged_right=_share(row.judged_right for row in judged),
        judged=len(judged),
    )


def in_time(rows: Iterable[Compared], *, strict: bool = True) -> list[Compared]:
    """Return the rows that count in the errors of time; ``strict`` as in ``summary``."""
    return [row for row in rows if row.time_error is not None and (row.strict_time or not strict)]


def summaries(rows: Sequence[Compared], *, strict: bool = True) -> dict[str, dict[str, Summary]]:
    """Return the figures of all rows, and by source, device and framework, those with most rows first."""
    keys: dict[str, Callable[[Compared], str]] = {
        "all": lambda row: "all",
        "source": lambda row: row.source,
        "device": lambda row: row.device,
        "framework": lambda row: row.framework,
    }
    return {
        name: {value: summary(group, strict=strict) for value, group in grouped(rows, key).items()}
        for name, key in keys.items()
    }


def grouped(rows: Iterable[Compared], key: Callable[[Compared], str]) -> dict[str, list[Compared]]:
    """Return the rows by a key, the largest group first."""
    found: dict[str, list[Compared]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def errors(relative: Iterable[float | None]) -> Errors | None:
    """Return the figures of relative errors, ``None`` for none.

    >>> errors([0.1, -0.3, 0.2])
    Errors(n=3, median=0.2, p90=0.28, bias=0.1)
    """
    each = np.array([error for error in relative if error is not None])
    if not len(each):
        return None
    median, p90, bias = (round(float(value), 12) for value in (*np.quantile(abs(each), [0.5, 0.9]), np.median(each)))
    return Errors(n=len(each), median=median, p90=p90, bias=bias)


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return the rank correlation of two rows of numbers, equal ones sharing their rank; ``None`` if one is constant.

    >>> spearman([1, 2, 3, 4], [10, 30, 20, 40])
    0.8
    """
    x, y = _ranks(np.asarray(a, float)), _ranks(np.asarray(b, float))
    if len(x) < 3 or not x.std() or not y.std():
        return None
    return round(float(np.corrcoef(x, y)[0, 1]), 12)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def choices(rows: Iterable[Compared]) -> list[Choice]:
    """Return the tasks with two or more setups: rows of a source, and of a series where it names some, with equal
    model, devices, sequences and batch."""
    tasks: dict[Any, list[Compared]] = defaultdict(list)
    for row in rows:
        tasks[(row.run.model, *(row.run.row.get(name, "") for name in SAME))].append(row)
    return [Choice(tuple(group)) for group in tasks.values() if len({row.run.setup for row in group}) > 1]


def _time(row: Compared) -> float:
    return row.measured_s or np.inf


def _ranked(rows: Sequence[Compared]) -> float | None:
    measured = [_time(row) for row in rows]
    if not measured or max(measured) < APART * min(measured):
        return None
    return spearman([row.figures.seconds for row in rows if row.figures], measured)


def _known(row: Compared) -> bool:
    """Whether enough is known of a row to say that it fits; what did not fit is always wanted."""
    return row.strict_time or row.strict_memory or row.fitted is False


def _share(flags: Iterable[bool | None]) -> float | None:
    each = [flag for flag in flags if flag is not None]
    return sum(each) / len(each) if each else None
