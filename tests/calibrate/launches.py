"""Megatron-LM's functional tests, whose launch arguments and peak memory are public, read into what a prediction needs.

Their models are tiny and their figures exact: they tell apart what the framework holds of weights, gradients, state,
activations and logits. The figure is that of the last rank: its stage has the head. The file beside this one holds
them (github.com/NVIDIA/Megatron-LM, tests/functional_tests/test_cases), one recorded run a row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.calibrate.megatron import LACKS, Arguments, dense_layers, fields_of, model_of
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.cost.stack import Stack, stack

FILE = Path(__file__).with_name("megatron_launches.csv")
NODES = {"a100": "dgx-a100-80gb", "h100": "dgx-h100", "gb200": "gb200-nvl72"}
NOT_READ = LACKS | {
    "perform-rl-step": "reinforcement learning",
    "pipeline-model-parallel-layout": "a layout of its own",
    "defer-embedding-wgrad-compute": "gradients of logits that wait for the end of a step",
}
"""Arguments that change what is trained in ways that are not read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One test: what it launched, and the bytes that PyTorch had allocated at most."""

    name: str
    model: Architecture
    cluster: Cluster
    setup: Setup
    stack: Stack
    peak_bytes: float


def read_launches(path: Path) -> tuple[list[Launch], dict[str, str]]:
    """Return the tests of decoders with attention that can be read, and why others cannot, by name."""
    found, left = [], {}
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            name = f"{row['family']}/{row['test']}/{row['golden_file']}"
            try:
                found.append(_launch(name, row))
            except ValueError as error:
                left[name] = str(error)
    return found, left


def _launch(name: str, row: Mapping[str, str]) -> Launch:
    if row["family"] not in ("gpt", "moe", "mixtral"):
        raise ValueError(f"family {row['family']} is no decoder with attention alone")
    if not row["mem_max_allocated_bytes"]:
        raise ValueError("no memory was recorded")
    arguments = Arguments(json.loads(row["all_args"]))
    for argument, why in NOT_READ.items():
        if argument in arguments:
            raise ValueError(f"--{argument}: {why} cannot be read")
    if dense_layers(arguments) is None:
        raise ValueError(f"--moe-layer-freq {arguments['moe-layer-freq']}: only first layers without experts are read")
    devices = int(row["devices"] or 8)
    node = NODES[row["platform"]]
    model, setup = model_of(arguments), Setup(**fields_of(arguments, devices))
    each = min(devices, 4 if row["platform"] == "gb200" else 8)
    return Launch(
        name=name,
        model=model,
        cluster=Cluster.read(f"{node}:{-(-devices // each)}x{each}"),
        setup=setup,
        stack=_stack(arguments),
        peak_bytes=float(row["mem_max_allocated_bytes"]),
    )


def _stack(given: Arguments) -> Stack:
    """Megatron-Core; where products do not add to gradients, each gradient passes by itself."""
    base = stack("megatron-core")
    adds = not given.says("no-gradient-accumulation-fusion")
    return base if adds else replace(base, passing_bytes=2.0, scratch_bytes=0.0)
