"""Fits ``data/constants.toml`` to measured tables: ``python -m penstock.calibrate.fit_kernels``.

The shape of kernels is fitted on one device of each architecture together, in BF16; every architecture and precision
then gets a level. All errors are those of shapes that nothing was fitted to. The last columns show what carries over to
an architecture that only has a level: with the shape of A100 alone, and with that of all other architectures.
Collectives are fitted on one node of A100 and one of H100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.calibrate import measured
from penstock.calibrate.fit_links import fit_links
from penstock.calibrate.fitting import Shape, fit, values, write
from penstock.core.catalogue import catalogue
from penstock.core.device import Device
from penstock.cost import bounds, constants, kernels

Floats = npt.NDArray[np.float64]
Bound = Callable[[Shape], Floats]

FITTED_ON: Mapping[str, tuple[str, ...]] = {
    "matmul": ("a100_sxm", "h100_sxm", "b200_sxm", "b300_sxm", "l40s", "rtx_pro_6000_server"),
    "attention": ("a100_sxm", "h100_sxm", "b200_sxm", "b300_sxm"),
}
"""Folders whose BF16 kernels the shape is fitted on: one device of each architecture that training uses for them."""
MOST = 1500
"""Shapes of one device and precision that are fitted to, and again as many that are held out."""


@dataclass(frozen=True, eq=False)
class Case:
    """Measured kernels of one device and precision.

    Args:
        bound: seconds at the structured bound of each kernel, as a function of the constants.
        seconds: measured, with ``beside_s`` of other kernels, and ``casts`` whose bytes take ``cast_s``.
    """

    gpu: str
    device: Device
    precision: str
    bound: Bound
    seconds: Floats
    beside_s: Floats | float = 0.0
    casts: int = 0
    cast_s: Floats | float = 0.0

    def off(self, found: Floats, values: Shape, level: float, cast: float = 1.0) -> Floats:
        """Return the relative errors of the bounds ``found`` over a level, with a level of casts."""
        floors_s = values["floor_s"] + self.casts * values.get("cast_floor_s", 0.0)
        return (found / level + floors_s + self.beside_s + self.cast_s / cast) / self.seconds - 1

    def levels(self, found: Floats, values: Shape, known: float | None = None) -> tuple[float, float]:
        """Return the levels of the kernels and of the casts, at most 1, that make the mean absolute error least."""
        casts = [known] if known else np.exp(-np.arange(0, 1.5, 0.1)) if self.casts else [1.0]

        def error(pair: tuple[float, float]) -> float:
            return float(np.mean(np.abs(self.off(found, values, *pair))))

        coarse = np.exp(-np.arange(0, 1.6, 0.04))
        level, cast = min(((float(level), float(cast)) for cast in casts for level in coarse), key=error)
        fine = level * np.exp(np.arange(-0.04, 0.041, 0.005))
        return min(((float(each), cast) for each in fine[fine <= 1]), key=error)


def joined(cases: list[Case], values: Shape) -> tuple[Case, Floats]:
    """Return cases as one, and its bounds."""
    columns = [
        np.concatenate([np.broadcast_to(getattr(case, name), case.seconds.shape) for case in cases])
        for name in ("seconds", "beside_s", "cast_s")
    ]
    found = np.concatenate([case.bound(values) for case in cases])
    return replace(cases[0], seconds=columns[0], beside_s=columns[1], cast_s=columns[2]), found


def kernel_score(cases: list[Case]) -> Callable[[Shape], float]:
    """Return the mean over cases of the error that their own level leaves, as a function of the constants."""

    def score(values: Shape) -> float:
        errors = []
        for case in cases:
            found = case.bound(values)
            errors.append(np.mean(np.abs(case.off(found, values, *case.levels(found, values)))))
        return float(np.mean(errors))

    return score


def cast_score(cases: list[Case], found: Shape) -> Callable[[Shape], float]:
    """Return the same as a function of the constants of casts, with those of products found before."""
    score = kernel_score(cases)
    return lambda cast: score({**found, "cast_floor_s": cast["floor_s"]})


def matmul_case(gpu: str, device: Device, precision: str, columns: measured.Columns) -> Case:
    """Return measured products; in FP8 and FP4 the left operand is cast first."""
    m, n, k = (columns[name].astype(float) for name in "mnk")
    cast_s = m * k * (2 + bounds.BYTES[precision]) / device.memory_bytes_per_s
    case = Case(
        gpu,
        device,
        precision,
        lambda shape: bounds.matmul_bound_s(device, precision, m, n, k, shape=shape),
        columns["latency"] / 1e3,
    )
    return case if precision == "bf16" else replace(case, casts=1, cast_s=cast_s)


def attention_case(gpu: str, device: Device, columns: measured.Columns) -> Case:
    """Return measured attention, beside which new keys and values are read and written to a cache."""
    names = ("batch_size", "num_heads", "isl", "head_dim", "value_dim", "num_key_value_heads")
    sizes = [np.asarray(columns[name], float) for name in names]
    cached = np.where(sizes[3] > sizes[4], 576, sizes[5] * (sizes[3] + sizes[4]))  # 576 of latent attention: all heads
    cached_s = kernels.memory_bound(device, 2 * bounds.BYTES["bf16"] * sizes[0] * sizes[2] * cached).seconds
    window = int(columns["window_size"].max(initial=0)) or None

    def bound(shape: Shape) -> Floats:
        return bounds.attention_bound_s(device, "bf16", *sizes, causal=True, window=window, shape=shape)

    return Case(gpu, device, "bf16", bound, columns["latency"] / 1e3, cached_s)


def expert_case(gpu: str, device: Device, precision: str, columns: measured.Columns) -> Case:
    """Return both products of measured experts, beside what moves between; in FP8 and FP4 tokens are cast first."""
    rows, groups = columns["num_tokens"] * columns["topk"], columns["num_experts"]
    hidden, inner = columns["hidden_size"], columns["inter_size"] / columns["moe_tp_size"]
    item = bounds.BYTES[precision]
    beside_s = kernels.memory_bound(device, rows * (hidden * (2 * item + 4) + inner * (4 + item))).seconds
    cast_s = columns["num_tokens"] * hidden * (2 + item) / device.memory_bytes_per_s

    def bound(shape: Shape) -> Floats:
        up = bounds.matmul_bound_s(device, precision, rows / groups, 2 * inner, hidden, groups, shape=shape)
        down = bounds.matmul_bound_s(device, precision, rows / groups, hidden, inner, groups, shape=shape)
        return np.asarray(up + down)

    case = Case(gpu, device, precision, bound, columns["latency"] / 1e3, beside_s)
    return case if precision == "bf16" else replace(case, casts=1, cast_s=cast_s)


def halves(columns: measured.Columns, keep: npt.NDArray[np.bool_]) -> tuple[measured.Columns, measured.Columns]:
    """Return rows to fit to and others to hold out, the same at every call; neither more than ``MOST``."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(keep))
    cut = min(MOST, len(rows) // 2)
    return measured.chosen(columns, rows[:cut]), measured.chosen(columns, rows[cut : 2 * cut])


def work(root: Path, gpu: str, device: Device) -> Iterator[tuple[str, Case, Case]]:
    """Yield (part of the model, case to fit to, case held out); parts in brackets are held out as a whole."""
    for precision, columns in measured.matmuls(root, gpu):
        large = np.minimum(np.minimum(columns["m"], columns["n"]), columns["k"]) >= 512
        for name, keep in (("matmul", large), ("(matmul, a side below 512)", ~large)):
            fitted, held = halves(columns, keep)
            yield name, matmul_case(gpu, device, precision, fitted), matmul_case(gpu, device, precision, held)
    for name, found in (("", measured.attentions(root, gpu)), (", latent", measured.latent(root, gpu))):
        for window in sorted(set(found["window_size"].tolist())):
            fitted, held = halves(found, found["window_size"] == window)
            words = f", window {window:g}" if window else name
            part = f"(attention{words})" if words else "attention"
            yield part, attention_case(gpu, device, fitted), attention_case(gpu, device, held)
    for precision, columns in measured.experts(root, gpu):
        fitted, held = halves(columns, columns["latency"] > 0)
        yield "grouped", expert_case(gpu, device, precision, fitted), expert_case(gpu, device, precision, held)


def main() -> None:
    """Fit, print the errors by device and operator, and write the constants."""
    root = measured.wheel()
    table: dict[str, Any] = {key: dict(value) for key, value in constants.table().items()}
    cases: dict[str, list[tuple[Case, Case]]] = {}
    for gpu, name in measured.DEVICES.items():
        device = catalogue().device(name)
        for part, fitted, held in work(root, gpu, device):
            if fitted.precision in device.matrix_flops:
                cases.setdefault(part, []).append((fitted, held))
    for part in FITTED_ON:
        own = [case for case, _ in cases[part] if case.precision == "bf16" and case.gpu in FITTED_ON[part]]
        table[part] = fit(table[part], kernel_score(own), _source(own))
        shapes = _shapes(table[part], own)
        if part == "matmul":
            low = [case for case, _ in cases[part] if case.casts and case.gpu in FITTED_ON[part]]
            table["cast"] = fit(table["cast"], cast_score(low, shapes["all"]), _source(low))
            floor_s = table["cast"]["floor_s"]["value"]
            shapes = {name: {**shape, "cast_floor_s": floor_s} for name, shape in shapes.items()}
        for name, pairs in cases.items():
            level = _part(name)
            if part == {"grouped": "matmul"}.get(level, level):
                if name == level:
                    _set_levels(table["levels"], level, pairs, shapes["all"])
                _report(table["levels"], name, pairs, shapes)
    table["collective"] = fit_links(table["collective"], root)
    write(table, Path(str(files("penstock") / "data" / "constants.toml")))


def _part(name: str) -> str:
    """The part whose level counts for cases of this name."""
    return name.strip("()").split(",")[0]


def _shapes(part: Mapping[str, Any], cases: list[Case]) -> dict[str, dict[str, float]]:
    """Return the shape fitted on all cases, on the first alone, and without each architecture."""
    first = values(fit(part, kernel_score(cases[:1]), ""))
    if "halved" in first:
        first["halved_async"] = first["halved"]
    names = [case.device.architecture for case in cases]
    others = [[case for case in cases if case.device.architecture != name] for name in names]
    left_out = {name: values(fit(part, kernel_score(some), "")) for name, some in zip(names, others, strict=True)}
    return {"all": values(part), "first": first, **left_out}


def _source(cases: list[Case]) -> str:
    shapes = sum(len(case.seconds) for case in cases)
    return f"aiconfigurator-core, {', '.join(dict.fromkeys(case.device.name for case in cases))}, {shapes} shapes"


def _set_levels(levels: dict[str, Any], part: str, pairs: list[tuple[Case, Case]], found: Shape) -> None:
    """Write the level of each architecture and precision, and of its casts."""
    keys = [f"{case.device.architecture} {case.precision}" for case, _ in pairs]
    for key in dict.fromkeys(keys):
        same = [pair for pair, mine in zip(pairs, keys, strict=True) if mine == key]
        fitted, held = (joined([pair[which] for pair in same], found) for which in (0, 1))
        known = levels["cast"][key]["level"] if part == "grouped" and fitted[0].casts else None
        level, cast = (float(f"{each:.3g}") for each in fitted[0].levels(fitted[1], found, known))
        facts = {
            "error": round(float(np.mean(np.abs(held[0].off(held[1], found, level, cast)))), 3),
            "shapes": len(fitted[1]),
            "source": f"aiconfigurator-core, {', '.join(case.device.name for case, _ in same)}",
        }
        levels[part][key] = {"level": level, **facts}
        if part == "matmul" and fitted[0].casts:
            levels["cast"][key] = {"level": cast, **facts}


def _report(levels: Mapping[str, Any], name: str, pairs: list[tuple[Case, Case]], shapes: Mapping[str, Shape]) -> None:
    """Print errors on held-out shapes with the level of the architecture, and those of shapes from elsewhere."""
    part = _part(name)
    for fitted, held in pairs:
        found, key = shapes["all"], f"{held.device.architecture} {held.precision}"
        level, cast = levels[part][key]["level"], levels["cast"].get(key, {"level": 1.0})["level"]
        error = held.off(held.bound(found), found, level, cast)
        words = f"{name:26} {held.gpu:19} {held.precision:4} {len(error):4} shapes  level {level:.3f}"
        words += f"  error {np.mean(np.abs(error)):.3f} p90 {np.quantile(np.abs(error), 0.9):.3f}"
        words += f" bias {np.median(error):+.3f}"
        if part == name:
            for shape in (shapes["first"], shapes.get(held.device.architecture, found)):
                own = fitted.levels(fitted.bound(shape), shape)
                words += f" {np.mean(np.abs(held.off(held.bound(shape), shape, *own))):.3f}"
        print(words)


if __name__ == "__main__":
    main()
