"""What the TFLOP/s and the utilization of a published row count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from penstock.calibrate.rows import number
from penstock.core.architecture import Architecture
from penstock.core.setup import Setup
from penstock.predict.flops import again_flops, model_flops

Convention = Literal["model", "causal", "hardware", "full-recompute", "6n", "8n"]
"""What is counted.

``model``: products of forward and backward with whole matrices of scores (Chowdhery et al. 2022, arXiv:2204.02311;
Narayanan et al. 2021, arXiv:2104.04473). ``causal``: of scores what the mask leaves. ``hardware``: ``model`` and what
runs again. ``full-recompute``: ``model`` and one more forward of all blocks, whether it runs or not. ``6n``, ``8n``:
six or eight times parameters and tokens.
"""


def convention(row: Mapping[str, str]) -> Convention:
    """Return what a row counts, by the words of its columns ``flops_kind`` and ``flags``; ``model`` if they are silent.

    >>> convention({"flops_kind": "hardware (4x incl. full recompute)"}), convention({"flags": "CAUSAL_FLOPS"})
    ('full-recompute', 'causal')
    """
    kind = row.get("flops_kind", "").lower()
    if "*4*2*" in kind or "8n" in kind:
        return "8n"
    if "hardware" in kind or "hfu" in kind:
        return "full-recompute" if "4x" in kind else "hardware"
    if "causal" in kind or "CAUSAL" in row.get("flags", ""):
        return "causal"
    return "6n" if "6n" in kind and "attn" not in kind and "attention" not in kind else "model"


def flops_in(kind: Convention, model: Architecture, setup: Setup) -> float:
    """Return the FLOPs of a step over all devices as a convention counts them."""
    if kind in ("6n", "8n"):
        return float(kind[0]) * model.active_parameters * setup.tokens
    found = model_flops(model, setup, whole=kind != "causal")
    if kind == "hardware":
        return found + again_flops(model, setup, whole=True)
    if kind == "full-recompute":
        return found + again_flops(model, replace(setup, recompute="full"), whole=True)
    return found


def measured_tflops(row: Mapping[str, str], peak_flops: float) -> float | None:
    """Return the measured TFLOP/s of a device as the row counts them: as printed, or from a utilization of the peak.

    Args:
        row: ``measured_tflops_per_device``, or ``mfu`` in per cent (or as a share) of ``peak_dense_tflops_used``.
        peak_flops: of a device, where the row does not say it; 0 if nobody does.

    Raises:
        ValueError: a cell is no number.
    """
    if printed := number(row, "measured_tflops_per_device"):
        return printed
    mfu = number(row, "mfu")
    if not mfu:
        return None
    peak = number(row, "peak_dense_tflops_used") or peak_flops / 1e12
    return peak * (mfu / 100 if mfu > 1 else mfu) or None
