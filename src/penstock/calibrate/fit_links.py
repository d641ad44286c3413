"""Fits the constants of collectives to NCCL's measured times on one node of A100 and one of H100."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.calibrate import measured
from penstock.calibrate.fitting import Shape, fit, values
from penstock.core.cluster import Cluster
from penstock.cost import collectives

Floats = npt.NDArray[np.float64]
Bound = Callable[[Shape], Floats]


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

    def score(constants: Shape) -> float:
        return float(np.mean(np.abs(np.concatenate([bound(constants) for bound, _, _ in own]) / seconds - 1)))

    source = f"aiconfigurator-core, NCCL on one node of A100 and of H100, {len(seconds)} points"
    fitted = fit(shape, score, source)
    for gpu, (bound, measured_s, kinds) in cases.items():
        error = np.abs(bound(values(fitted)) / measured_s - 1)
        by = [f"{kind} {error[np.array(kinds) == kind].mean():.3f}" for kind in sorted(set(kinds))]
        print(f"collective {gpu} {', '.join(by)}")
    return fitted
