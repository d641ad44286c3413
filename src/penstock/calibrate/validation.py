"""Measured runs beside their predictions, row by row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from penstock.calibrate.conventions import Convention, convention, flops_in, measured_tflops
from penstock.calibrate.printed import GIB
from penstock.calibrate.published import Run
from penstock.core.device import device, plain
from penstock.cost.stack import stack
from penstock.predict import Prediction, Room, predict


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a prediction says of a row, in the units that tables of runs have.

    ``seconds``, ``low_s``, ``high_s``: of a step. ``memory_gb``: what the row would print, in its own gigabytes, of
    what it ``counts`` (see ``Room.counted``); ``device_gb``: all that the fullest device holds, in GiB. ``tflops``: of
    a device a second, as ``convention`` counts them. ``parts``: seconds. ``room``: bytes of the device that is meant.
    """

    seconds: float
    low_s: float
    high_s: float
    memory_gb: float
    counts: str
    device_gb: float
    fits: bool
    tokens_per_s_per_device: float
    tflops: float
    convention: Convention
    mfu: float
    parts: Mapping[str, float]
    room: Room
    guessed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A row of a table of runs, measured and predicted.

    ``why_not``: why it is not predicted; then ``figures`` is ``None``. ``unread``: which measured figure is none.
    ``strict_time``, ``strict_memory``: whether its setup is known well enough that its figures count.
    ``fitted``: whether it ran, ``False`` where memory was too small; ``None`` where neither is known.
    """

    run: Run
    figures: Figures | None = None
    why_not: str = ""
    unread: str = ""
    measured_s: float | None = None
    measured_gb: float | None = None
    measured_tflops: float | None = None
    strict_time: bool = True
    strict_memory: bool = True
    fitted: bool | None = None

    @property
    def source(self) -> str:
        """Title of the source."""
        return self.run.row.get("source_title") or "no source"

    @property
    def device(self) -> str:
        """The catalogue's name of the device, or the row's for one that is not known."""
        if self.run.cluster is not None:
            return self.run.cluster.device.name
        return _device_name(self.run.row.get("device", "")) or "no device"

    @property
    def framework(self) -> str:
        """Our name of the framework, or the row's for one that is not known."""
        return _framework_name(self.run.row.get("system", "")) or "no framework"

    @property
    def time_error(self) -> float | None:
        """Predicted over measured time, less 1."""
        return self.figures.seconds / self.measured_s - 1 if self.figures and self.measured_s else None

    @property
    def measured_rate(self) -> float | None:
        """Measured tokens of a device in a second."""
        setup = self.run.setup
        return setup.tokens / setup.devices / self.measured_s if setup and self.measured_s else None

    @property
    def memory_error(self) -> float | None:
        """Predicted over measured peak of memory, less 1."""
        return self.figures.memory_gb / self.measured_gb - 1 if self.figures and self.measured_gb else None

    @property
    def tflops_error(self) -> float | None:
        """Predicted over measured TFLOP/s of a device, less 1."""
        return self.figures.tflops / self.measured_tflops - 1 if self.figures and self.measured_tflops else None

    @property
    def inside(self) -> bool | None:
        """Whether the measured time lies in the predicted interval."""
        if self.figures is None or self.measured_s is None:
            return None
        return self.figures.low_s <= self.measured_s <= self.figures.high_s

    @property
    def judged_right(self) -> bool | None:
        """Whether what fits is said to fit, and what does not, not."""
        return None if self.figures is None or self.fitted is None else self.figures.fits == self.fitted


TELLING = ("status", "set", "seconds_per_iter", "tokens_per_s_per_device", "peak_mem_gb")
"""Columns in which the word OOM says that memory was too small."""


@lru_cache(maxsize=1024)
def _device_name(text: str) -> str:
    try:
        return device(text).name
    except ValueError:
        return plain(text)


@lru_cache(maxsize=1024)
def _framework_name(text: str) -> str:
    try:
        return stack(text).name
    except ValueError:
        return text


def compared(runs: Iterable[Run]) -> Iterator[Compared]:
    """Predict each run, those that are set up alike once, and set it beside what was measured."""
    known: dict[Any, Figures | str] = {}
    for run in runs:
        if run.why_not:
            yield Compared(run=run, why_not=run.why_not, **_measured(run, 0.0))
            continue
        kind = convention(run.row)
        key = (run.cluster and run.cluster.name, run.setup, run.stack, run.guessed, kind, run.memory, run.model)
        if key not in known:
            known[key] = _figures(run, kind)
        yield _compared(run, known[key])


def _compared(run: Run, found: Figures | str) -> Compared:
    if isinstance(found, str):
        return Compared(run=run, why_not=found, **_measured(run, 0.0))
    peak_flops = found.tflops / found.mfu * 1e12
    return Compared(run=run, figures=found, **_measured(run, peak_flops))


def _figures(run: Run, kind: Convention) -> Figures | str:
    """What is predicted, or why it cannot be; a row that breaks the prediction must not hide the others."""
    model, setup = run.model, run.setup
    if model is None or setup is None or run.cluster is None or run.stack is None:
        return "the row says nothing that can be predicted"
    try:
        found = predict(model, run.cluster, setup, run.stack)
        flops = flops_in(kind, model, setup)
    except ValueError as error:
        return str(error)
    except Exception as error:
        return f"the prediction breaks: {error!r}"
    return _in_units(run, found, flops, kind)


def _in_units(run: Run, found: Prediction, flops: float, kind: Convention) -> Figures:
    memory = run.memory
    return Figures(
        seconds=found.seconds,
        low_s=found.low_s,
        high_s=found.high_s,
        memory_gb=memory.of(found),
        counts=memory.counts,
        device_gb=found.peak.total / GIB,
        fits=found.fits,
        tokens_per_s_per_device=found.tokens_per_s_per_device,
        tflops=flops / found.seconds / found.devices / 1e12,
        convention=kind,
        mfu=flops / found.seconds / found.peak_flops,
        parts=found.parts,
        room=memory.room(found),
        guessed=(*run.guessed, *found.guessed),
    )


def _measured(run: Run, peak_flops: float) -> dict[str, Any]:
    """What a row says was measured; a cell that is none is named, and the row has no measured figures."""
    row = run.row
    found: dict[str, Any] = {
        "strict_time": row.get("strict_time") != "0",
        "strict_memory": row.get("strict_mem") != "0",
    }
    if any("oom" in _words(row.get(name, "")) for name in TELLING):
        return found | {"fitted": False}
    try:
        found |= {"measured_s": run.measured_s, "measured_gb": run.measured_gb}
        found["measured_tflops"] = measured_tflops(row, peak_flops)
    except ValueError as error:
        return {"unread": str(error)}
    ran = found["measured_s"] is not None or found["measured_gb"] is not None
    return found | {"fitted": True if ran else None}


def _words(text: str) -> list[str]:
    return re.split(r"[^a-z]+", text.lower())
