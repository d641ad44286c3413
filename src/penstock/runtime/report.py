"""``report.html`` and the closing lines of a run: predicted beside measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from penstock.core.files import write_whole
from penstock.core.timeline import Timeline
from penstock.runtime.metrics import read_metrics
from penstock.units import human_bytes, human_s
from penstock.view.html import Curve, Table, page


def report(folder: Path) -> dict[str, Any]:
    """Write ``report.html`` from what a run left in its folder; returns the content of ``result.json``.

    Raises:
        ValueError: the run has not come to its end.
    """
    file = folder / "result.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no result.json; the run has not ended, go on with --resume --out {folder}")
    result: dict[str, Any] = json.loads(file.read_text())
    timelines = [Timeline.from_json((folder / f"{name}.json").read_text()) for name in ("predicted", "measured")]
    title = f"{result['model']}, {result['schedule']} on {result['ranks']} ranks"
    write_whole(folder / "report.html", page(timelines, title, _tables(result), _curves(folder, result)))
    return result


def summary(folder: Path, result: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    rows = _rows(result)
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}  {'predicted':>12}  {'measured':>12}"]
    lines += [f"{name:{width}}  {predicted:>12}  {measured:>12}" for name, predicted, measured in rows]
    if (solve := result.get("solve")) is not None and solve["changed"]:
        predicted, measured = _gains(solve)
        lines.append(f"order changed after step {solve['step']}: step time predicted {predicted}, measured {measured}")
    before, after = result["held_out_loss_before"], result["held_out_loss"]
    if after is not None:
        lines.append(f"held-out loss {before:.3f} -> {after:.3f} after {result['steps']} steps")
    lines.append(f"{result['tokens_per_s']:,.0f} tokens/s; report: {folder / 'report.html'}")
    return "\n".join(lines)


def _rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    predicted, measured = (human_bytes(max(result[f"{which}_peak_bytes"])) for which in ("predicted", "measured"))
    return [
        ("step time", human_s(result["predicted_step_s"]), human_s(result["measured_step_s"])),
        ("bubble", f"{result['predicted_bubble']:.1%}", f"{result['measured_bubble']:.1%}"),
        ("peak activations", predicted, measured),
    ]


def _gains(solve: dict[str, Any]) -> tuple[str, str]:
    """What a change of order was to bring, and what it brought."""
    pairs = [(solve[f"{which}_before_s"], solve[f"{which}_s"]) for which in ("predicted", "measured")]
    one, two = (f"{human_s(before)} -> {human_s(then)} ({then / before - 1:+.1%})" for before, then in pairs)
    return one, two


def _tables(result: dict[str, Any]) -> list[Table]:
    facts = [
        ("training loss", f"{result['train_loss']:.3f}"),
        ("held-out loss", _change(result)),
        ("steps", str(result["steps"])),
        ("tokens/s", f"{result['tokens_per_s']:,.0f}"),
        ("prediction off by", f"{result['step_error']:+.1%}"),
    ]
    tables = [
        Table("Predicted and measured", ("", "predicted", "measured"), _rows(result)),
        Table("Training", ("", ""), facts),
    ]
    if (solve := result.get("solve")) is not None and solve["changed"]:
        rows = [(f"step time before and after step {solve['step']}", *_gains(solve))]
        tables.insert(1, Table("Change of order", ("", "predicted", "measured"), rows))
    return tables


def _change(result: dict[str, Any]) -> str:
    if result["held_out_loss"] is None:
        return "not measured"
    return f"{result['held_out_loss_before']:.3f} -> {result['held_out_loss']:.3f}"


def _curves(folder: Path, result: dict[str, Any]) -> list[Curve]:
    rows = read_metrics(folder / "metrics.jsonl")
    steps = np.array([row["step"] for row in rows], dtype=np.float64)

    def column(name: str) -> Any:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)

    predicted = np.full(len(steps), result["predicted_step_s"])
    return [
        Curve("training loss", steps, column("loss"), "nats per token", "Loss"),
        Curve("measured", steps, column("step_s"), "s", "Step time"),
        Curve("predicted", steps, predicted, "s", "Step time"),
        Curve("learning rate", steps, column("learning_rate"), "", "Learning rate"),
    ]
