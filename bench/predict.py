"""Time one prediction, score grids of setups, and compare errors on 1,440 measured runs with those of other models.

*one prediction*: GPT-3 175B on 1,024 A100, its pipeline's timeline included. Each setup is new: tables of operators may
be known from other setups; plans of schedules are made anew, or known from setups of equal size. *scores*: setups a
second of CPU time that can be, of a grid of which others cannot; the first time, which makes the tables of operators,
and then. *errors*: the one-node runs of vTrain's validation data, in the shipped table. What is said of other models is
what was measured on the same rows with their public versions in November 2026 (vTrain: what its paper claims), and on
one core of the same kind of machine.

    OMP_NUM_THREADS=1 python bench/predict.py [--calculon CHECKOUT]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from penstock.calibrate.published import run_of
from penstock.calibrate.rows import read_rows
from penstock.calibrate.shipped import runs_file
from penstock.calibrate.summaries import summary
from penstock.calibrate.validation import compared
from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import Grid, predict, scores
from penstock.predict.pipelines import pipeline

GRID = "vTrain (MICRO-57)"
"""How the source of the one-node runs begins."""
RIVALS = {
    "Calculon": (0.390, 0.65, 0.102),
    "SimuMax 1.2": (0.234, 0.85, 0.068),
    "vTrain (its claim)": (0.0837, None, None),
}
"""Mean error, rank correlation and regret on the one-node runs."""
RATES = {"Calculon": 580.0, "SimuMax 1.2": 50.0}
"""Setups a second, the most that was seen."""
SPLITS = ((8, 16, 8), (8, 8, 16), (4, 32, 8), (8, 32, 4), (4, 16, 16))
SCHEDULES = (("1f1b", 1), ("interleaved", 2), ("interleaved", 3), ("zb-h1", 1))


def setups() -> Iterator[Setup]:
    """Setups of GPT-3 175B on 1,024 devices, in no order."""
    found = [
        Setup(seq=2048, batch=1536, tp=tp, pp=pp, dp=dp, micro=micro, chunks=chunks, schedule=schedule, sp=True, zero=1,
              recompute=recompute)
        for (tp, pp, dp), micro, (schedule, chunks), recompute in product(
            SPLITS, (1, 2, 4), SCHEDULES, ("none", "selective", "full")
        )
        if 96 % (pp * chunks) == 0
    ]  # fmt: skip
    random.Random(1).shuffle(found)
    yield from found


def latency() -> None:
    model, cluster, framework = (
        read_architecture("gpt3-175b"),
        Cluster.read("dgx-a100-80gb:128"),
        stack("megatron-core"),
    )
    known = [*setups()]
    for setup in known[:60]:
        predict(model, cluster, setup, framework)
    for what, anew in (("their plans too", True), ("with plans that are known", False)):
        wall, busy, ops = [], [], []
        for setup in known[60:]:
            if anew:
                pipeline.cache_clear()
            else:
                pipeline(setup.schedule, setup.pp, setup.micros, setup.chunks)
            began, worked = time.perf_counter(), time.thread_time()
            found = predict(model, cluster, setup, framework)
            busy.append(time.thread_time() - worked)
            wall.append(time.perf_counter() - began)
            ops.append(len(found.timeline.plan))
        whole_ms, busy_ms = (statistics.median(each) * 1e3 for each in (wall, busy))
        print(
            f"one prediction: median {whole_ms:.2f} ms, {busy_ms:.2f} ms of CPU; {len(wall)} new setups, {what}, "
            f"{min(ops):,} to {max(ops):,} ops (at most 5 ms)"
        )


def rate(name: str, model: str, cluster: str, base: Setup, **values: Iterable[object]) -> float:
    architecture, machine = read_architecture(model), Cluster.read(cluster)
    grid = Grid.all_of(base, machine.devices, **values)
    rates = []
    for _ in range(5):
        began = time.process_time()
        found = scores(architecture, machine, grid, stack("megatron-core"))
        rates.append(found.possible.sum() / (time.process_time() - began))
    best = grid.setup(int(np.where(found.fits, found.seconds, np.inf).argmin()))
    print(
        f"scores of {name}: {len(grid):,} rows, {found.possible.sum():,} can be, {found.fits.sum():,} fit; "
        f"{rates[0]:,.0f} setups a second at first, then {max(rates[1:]):,.0f} (at least 100,000)"
    )
    print(
        f"  best: tp={best.tp} cp={best.cp} pp={best.pp} dp={best.dp} micro={best.micro} chunks={best.chunks} "
        f"{best.schedule}, zero={best.zero}, recompute {best.recompute}"
    )
    return max(rates[1:])


def rates() -> float:
    shared = {"cp": (1, 2), "micro": (1, 2, 4, 8), "chunks": (1, 2, 3, 6), "zero": (0, 1, 2, 3), "sp": (0, 1),
              "recompute": ("none", "selective", "full"),
              "schedule": ("1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v")}  # fmt: skip
    base = Setup(seq=2048, batch=1536)
    first = rate("gpt3-175b on 1,024 A100", "gpt3-175b", "dgx-a100-80gb:128", base,
                 tp=(1, 2, 4, 8), pp=(1, 2, 4, 8, 16, 32), **shared)  # fmt: skip
    base = Setup(seq=8192, batch=512)
    rate("llama-3-70b on 512 H100", "llama-3-70b", "dgx-h100:64", base,
         tp=(1, 2, 4, 8), pp=(1, 2, 4, 8, 16), **shared)  # fmt: skip
    return first


def calculon_rate(checkout: Path) -> float:
    """Setups a second of Calculon, of GPT-3 175B on 1,024 A100, those that do not fit too."""
    sys.path.insert(0, str(checkout))
    from calculon import System
    from calculon.llm import Llm

    def read(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((checkout / name).read_text())
        return found

    application = Llm.Application(read("models/gpt3-175B.json"))
    system, log = System(read("systems/a100_80g.json")), logging.getLogger("calculon")
    like = read("examples/3072_t4_p64_d12_mbs4_full.json") | {"num_procs": 1024, "batch_size": 1536}
    rows = [*product(SPLITS, (1, 2, 4), ("none", "attn_only", "full"))]
    began = time.process_time()
    for (tp, pp, dp), micro, recompute in rows:
        split = {"tensor_par": tp, "pipeline_par": pp, "data_par": dp, "microbatch_size": micro}
        model = Llm(application, log)
        try:
            model.compile(system, Llm.Execution.from_json(like | split | {"activation_recompute": recompute}))
            model.run(system)
        except Llm.Error:
            continue
    return len(rows) / (time.process_time() - began)


def accuracy(ours_per_s: float, calculon_per_s: float | None) -> None:
    rows = list(compared(map(run_of, (row for row in read_rows(runs_file()) if row["source_title"].startswith(GRID)))))
    found = summary(rows)
    mean = float(np.mean([abs(row.time_error) for row in rows if row.time_error is not None]))
    print(f"errors of {found.time.n if found.time else 0:,} one-node runs, and setups a second:")
    heads = ("mean %", 7), ("ratio", 6), ("Spearman", 9), ("regret %", 9), ("ratio", 6), ("a second", 10), ("ratio", 8)
    print(" ".join([f"{'model':20}", *(f"{word:>{width}}" for word, width in heads)]))
    regret = found.regret or 0.0
    print(_line("Penstock", mean, found.spearman, regret, ours_per_s, (mean, regret, ours_per_s)))
    for name, (error, correlation, theirs) in RIVALS.items():
        per_s = calculon_per_s if name == "Calculon" and calculon_per_s else RATES.get(name)
        print(_line(name, error, correlation, theirs, per_s, (mean, regret, ours_per_s)))


def _line(
    name: str, error: float, correlation: float | None, regret: float | None, per_s: float | None,
    ours: tuple[float, float, float],
) -> str:  # fmt: skip
    def cell(value: float | None, width: int, form: str) -> str:
        return f"{'' if value is None else format(value, form):>{width}}"

    return " ".join([
        f"{name:20}", cell(100 * error, 7, ".1f"), cell(error / ours[0], 6, ".2f"), cell(correlation, 9, ".2f"),
        cell(None if regret is None else 100 * regret, 9, ".1f"),
        cell(None if regret is None else regret / ours[1], 6, ".1f"),
        cell(per_s, 10, ",.0f"), cell(None if per_s is None else ours[2] / per_s, 8, ",.1f"),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calculon", type=Path, help="a checkout of Calculon, to time it in the same run")
    checkout = parser.parse_args().calculon
    latency()
    ours = rates()
    accuracy(ours, calculon_rate(checkout) if checkout else None)


if __name__ == "__main__":
    main()
