"""Fits ``data/constants.toml`` to measured tables: ``python -m penstock.calibrate.fit_kernels``.

The shape of kernels is fitted on A100 alone; the other devices only get a level, and show what carries over.
Collectives are fitted on one node of A100 and one of H100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.calibrate import measured
from penstock.core.catalogue import catalogue
from penstock.core.cluster import Cluster
from penstock.core.device import Device
from penstock.cost import collectives, constants, kernels

Floats = npt.NDArray[np.float64]
Shape = Mapping[str, float]
Bound = Callable[[Shape], Floats]

HEAD = (
    "# Constants of the time model, SI units.",
    "# Those of aiconfigurator-core are fitted by python -m penstock.calibrate.fit_kernels; errors are the fit's.",
    "# The others were not measured: estimates, or figures remembered from the papers that they name.",
)


def off(bound: Floats, seconds: Floats, level: float = 1.0, floor_s: float = 0.0) -> float:
    """Return the mean relative error of ``bound / level + floor_s`` against measured ``seconds``."""
    return float(np.mean(np.abs((bound / level + floor_s) / seconds - 1)))


def level_of(bound: Floats, seconds: Floats, floor_s: float = 0.0) -> float:
    """Return the level, at most 1, that makes the mean relative error least, to half a percent."""
    tried = np.exp(-np.arange(0, 1.6, 0.02))
    level = float(min(tried, key=lambda level: off(bound, seconds, level, floor_s)))
    near = [level * fine for fine in np.exp(np.arange(-0.015, 0.016, 0.005)) if level * fine <= 1]
    return float(min(near, key=lambda level: off(bound, seconds, level, floor_s)))


def fit(shape: Mapping[str, Any], bound: Bound, seconds: Floats, *, leveled: bool = True) -> dict[str, float]:
    """Return constants that make the error after a level least, by turns, each within its range (a pattern search)."""
    limits = {name: [float(word) for word in facts["range"].split(" to ")] for name, facts in shape.items()}
    best = {name: float(facts["value"]) for name, facts in shape.items()}

    def score(values: Shape) -> float:
        found = bound(values)
        floor_s = values.get("floor_s", 0.0)
        if not leveled:
            return off(found, seconds)
        return off(found, seconds, level_of(found, seconds, floor_s), floor_s)

    least, step, tries = score(best), 0.5, 240
    while step > 0.02 and tries > 0:
        before = least
        for name in best:
            low, high = limits[name]
            for way in (1 + step, 1 / (1 + step)):
                tries -= 1
                value = float(np.clip(best[name] * way, low, high))
                found = score({**best, name: value})
                if found < least:
                    best, least = {**best, name: value}, found
        step = step / 2 if least > before * 0.998 else step
    return best


def matmul_bound(device: Device, precision: str, columns: measured.Columns) -> Bound:
    """Return the bound of measured products as a function of the constants."""
    m, n, k = (columns[name] for name in "mnk")
    return lambda shape: kernels.matmul_bound_s(device, precision, m, n, k, shape=shape)


def attention_bound(device: Device, columns: measured.Columns) -> Bound:
    """Return the bound of measured attention as a function of the constants."""
    names = ("batch_size", "num_heads", "isl", "head_dim", "head_dim", "num_key_value_heads")
    sizes = [np.asarray(columns[name], float) for name in names]
    return lambda shape: kernels.attention_bound_s(device, "bf16", *sizes, causal=True, window=None, shape=shape)


def expert_bound(device: Device, columns: measured.Columns) -> Bound:
    """Return the bound of both products of measured experts, and what moves between them, as bytes at the full rate."""
    rows, groups = columns["num_tokens"] * columns["topk"], columns["num_experts"]
    hidden, inner = columns["hidden_size"], columns["inter_size"] / columns["moe_tp_size"]
    moved_s = 2.0 * rows * (4 * hidden + 3 * inner) / device.memory_bytes_per_s

    def bound(shape: Shape) -> Floats:
        up = kernels.matmul_bound_s(device, "bf16", rows / groups, 2 * inner, hidden, groups, shape=shape)
        down = kernels.matmul_bound_s(device, "bf16", rows / groups, hidden, inner, groups, shape=shape)
        return np.asarray(up + down + moved_s)

    return bound


def part(columns: measured.Columns, most: int = 2000) -> measured.Columns:
    """Return at most ``most`` rows, the same at every call."""
    rows = len(columns["latency"])
    keep = np.zeros(rows, bool)
    keep[np.random.default_rng(0).permutation(rows)[:most]] = True
    return measured.chosen(columns, keep)


def training(columns: measured.Columns) -> measured.Columns:
    """Return the products of training's sizes: every side 512 or more."""
    return measured.chosen(columns, np.minimum(np.minimum(columns["m"], columns["n"]), columns["k"]) >= 512)


def main() -> None:
    """Fit, print the errors by device and operator, and write the constants."""
    root = measured.wheel()
    table: dict[str, Any] = {key: dict(value) for key, value in constants.table().items()}
    devices = {gpu: catalogue().device(name) for gpu, name in measured.DEVICES.items()}
    work: dict[str, list[tuple[str, Device, str, Bound, Floats]]] = {"matmul": [], "attention": []}
    for gpu, device in devices.items():
        for precision, columns in measured.matmuls(root, gpu):
            some = part(training(columns))
            if precision in device.matrix_flops:
                bound = matmul_bound(device, precision, some)
                work["matmul"].append((gpu, device, precision, bound, some["latency"] / 1e3))
        found = measured.attentions(root, gpu)
        if found is not None:
            some = part(found)
            work["attention"].append((gpu, device, "bf16", attention_bound(device, some), some["latency"] / 1e3))
    for name, cases in work.items():
        _, _, _, bound, seconds = cases[0]
        values = fit(table[name], bound, seconds)
        source = f"aiconfigurator-core, {cases[0][1].name}, {len(seconds)} shapes"
        table[name] = {
            key: {**facts, "source": source, "value": float(f"{values[key]:.4g}")} for key, facts in table[name].items()
        }
        table.setdefault("levels", {}).setdefault(name, {}).update(_levels(name, cases, values))
    grouped = [
        (gpu, device, "bf16", expert_bound(device, some := part(found)), some["latency"] / 1e3)
        for gpu, device in devices.items()
        if (found := measured.experts(root, gpu)) is not None
    ]
    shape = {key: facts["value"] for key, facts in table["matmul"].items()}
    table["levels"]["grouped"].update(_levels("grouped", grouped, shape))
    table["collective"] = fit_links(table["collective"], root)
    write(table, Path(str(files("penstock") / "data" / "constants.toml")))


def _levels(name: str, cases: list[tuple[str, Device, str, Bound, Floats]], values: Shape) -> dict[str, Any]:
    """Return the level of each architecture and precision, and print how well the model does on each device."""
    gathered: dict[str, list[tuple[Floats, Floats]]] = {}
    owners: dict[str, list[str]] = {}
    first, floor_s = 1.0, values["floor_s"]
    for number, (gpu, device, precision, bound, seconds) in enumerate(cases):
        found = bound(values)
        level = level_of(found, seconds, floor_s)
        first = first if number else level
        bias = float(np.median((found / level + floor_s) / seconds)) - 1
        print(
            f"{name} {gpu} {precision} level {level:.3f}",
            f"error {off(found, seconds, level, floor_s):.3f} bias {bias:+.3f}",
            end=" ",
        )
        print(f"with A100's level {off(found, seconds, first, floor_s):.3f}")
        gathered.setdefault(f"{device.architecture} {precision}", []).append((found, seconds))
        owners.setdefault(f"{device.architecture} {precision}", []).append(device.name)
    levels: dict[str, Any] = {}
    for key, pairs in gathered.items():
        found, seconds = (np.concatenate(each) for each in zip(*pairs, strict=True))
        level = float(f"{level_of(found, seconds, floor_s):.3g}")
        levels[key] = {
            "level": level,
            "error": round(off(found, seconds, level, floor_s), 3),
            "shapes": len(seconds),
            "source": f"aiconfigurator-core, {', '.join(owners[key])}",
        }
    return levels


def links(root: Path, gpu: str) -> tuple[Bound, Floats, list[str]] | None:
    """Return the model of NCCL's measured times on one node, those times, and the kind of each."""
    columns = measured.collectives(root, gpu)
    if columns is None:
        return None
    cluster = Cluster.read(f"{measured.NODES[gpu]}:8")
    keys = [
        (measured.COLLECTIVES[op], int(ranks))
        for op, ranks in zip(columns["op_name"], columns["num_gpus"], strict=True)
    ]
    groups = [(key, np.array([each == key for each in keys])) for key in sorted(set(keys))]
    sizes = columns["message_size"] * 2.0

    def bound(shape: Shape) -> Floats:
        found = np.zeros(len(keys))
        for (kind, ranks), rows in groups:
            found[rows] = collectives.collective_s(kind, sizes[rows], cluster.path(ranks), shape=shape)  # type: ignore[arg-type]
        return found

    return bound, columns["latency"] / 1e3, [kind for kind, _ in keys]


def fit_links(shape: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return the constants of collectives, fitted on the nodes of A100 and H100 together; prints all errors."""
    cases = {gpu: found for gpu in measured.NODES if (found := links(root, gpu))}
    own = [cases[gpu] for gpu in ("a100_sxm", "h100_sxm")]
    seconds = np.concatenate([seconds for _, seconds, _ in own])
    values = fit(shape, lambda shape: np.concatenate([bound(shape) for bound, _, _ in own]), seconds, leveled=False)
    for gpu, (bound, measured_s, kinds) in cases.items():
        error = np.abs(bound(values) / measured_s - 1)
        by = [f"{kind} {error[np.array(kinds) == kind].mean():.3f}" for kind in sorted(set(kinds))]
        print(f"collective {gpu} {', '.join(by)}")
    source = f"aiconfigurator-core, NCCL on one node of A100 and of H100, {len(seconds)} points"
    return {key: {**facts, "source": source, "value": float(f"{values[key]:.4g}")} for key, facts in shape.items()}


def write(table: Mapping[str, Any], file: Path) -> None:
    """Write the constants as TOML, one a line, with what each means."""
    lines = list(HEAD)
    flat = {name: facts for name, facts in table.items() if name != "levels"}
    flat |= {f"levels.{name}": facts for name, facts in table.get("levels", {}).items()}
    for name, facts in flat.items():
        lines += ["", f"[{name}]"]
        for key, each in facts.items():
            words = ", ".join(f"{word} = {_toml(value)}" for word, value in each.items())
            lines.append(f"{_toml(key) if ' ' in key else key} = {{ {words} }}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: str | float) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    main()
