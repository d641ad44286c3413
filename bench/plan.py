"""Time plans with everything free, and see where the best measured runs rank among ours.

*plan*: Llama 3 70B on 512 H100 and GPT-3 175B on 64 A100: first time, and best of two more. *hard*: models of experts
on thousands of devices, and questions of many plans, once each in a process of its own, with the memory of the largest
process. *ranks*: for each model and cluster of sources that tuned, where the published setup with most tokens a second
stands among all strategies that fit there for its job, in per cent from the top, by score; and the rank correlation of
measured and predicted times within a source's own sweeps.

    OMP_NUM_THREADS=1 python bench/plan.py [--pairs N] [--used] [--no-hard]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from penstock.calibrate.published import read_runs
from penstock.calibrate.shipped import runs_file
from penstock.calibrate.summaries import choices, in_time, spearman
from penstock.calibrate.validation import Compared, compared
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.predict import Grid, scores
from penstock.search.planner import plan
from penstock.search.space import space_of
from penstock.search.wishes import SEARCHED

TASKS = (("llama-3-70b", "dgx-h100:64", 8192, 1024), ("gpt3-175b", "dgx-a100-80gb:8", 2048, 1536))
HARD = (
    "--model deepseek-v3 --cluster dgx-h100:256 --seq 4096 --batch 15360",
    "--model kimi-k2 --cluster dgx-h100:512 --seq 4096 --batch 16384",
    "--model llama-4-maverick --cluster dgx-h100:64 --seq 8192 --batch 1024 --framework torchtitan",
    "--model llama-4-maverick --cluster dgx-h100:512 --seq 8192 --batch 4096",
    "--model gpt-oss-120b --cluster dgx-h100:512 --seq 8192 --batch 4096 --framework torchtitan",
    "--model llama-3.1-405b --cluster dgx-h100:2048 --seq 8192 --batch 2048",
    "--model llama-3-8b --cluster dgx-h100:8 --seq 4096 --batch 1000000",
    "--model gpt: --cluster dgx-h100:64 --seq 4096 --batch 1024 --largest",
    "--model deepseek-v3 --cluster dgx-h100:64 --seq 4096 --batch 4096 --longest",
    "--model llama-3-70b --cluster dgx-h100 --seq 8192 --batch 1024 --tokens 2e12 --budget 1.6e6",
)
"""Questions that take long; each should within 10 s."""
TUNED = ("DGX Cloud", "Megatron-Bridge performance", "BLOOM", "MosaicML")
"""Words in the titles of sources that published the fastest setups they found; others measured setups of all kinds."""
PAIR = ("model_name", "layers", "hidden", "device", "devices")
KEPT = [field.name for field in fields(Setup) if field.name not in (*SEARCHED, "seq", "batch")]
"""Fields of a setup that no search changes unless it is asked to."""
TOP = 0.05


def speed() -> None:
    for model, cluster, seq, batch in TASKS:
        found = [plan(model, cluster, seq=seq, batch=batch, first=lambda choice: None) for _ in range(3)]
        cold, warm = found[0], min(found[1:], key=lambda one: one.seconds)
        print(
            f"{model} on {Cluster.read(cluster).devices} devices: {warm.considered:,} strategies, "
            f"{warm.predicted} predicted; first time {cold.seconds:.2f} s, then {warm.seconds:.2f} s (under 5), first "
            f"answer {warm.first_s or 0:.2f} s (under 1); {warm.considered / warm.seconds:,.0f} strategies a second "
            f"with predictions; proven: {warm.proven}; best: {warm.best.split}"
        )
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"memory of the process: {peak_gb:.2f} GiB (under 1)")
    for model, cluster, seq, batch in TASKS:
        space = space_of(model, cluster, seq=seq, batch=batch)
        most_bytes = space.cluster.device_of(0).memory_bytes
        grids = [space.grid(share) for share in space.shares()]
        began = time.perf_counter()
        for grid in grids:
            scores(space.model, space.cluster, grid, space.stack, most_bytes)
        rate = sum(map(len, grids)) / (time.perf_counter() - began)
        print(f"{model}: {rate:,.0f} strategies a second are scored or left out for their memory (at least 100,000)")


def hard() -> None:
    for asked in HARD:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "penstock", "plan", *asked.split(), "--json"]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        seconds, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
        proven = said.get("proven", said.get("answer", {}).get("proven"))
        print(
            f"{asked}: {seconds:.1f} s (under 10), {cpu_s:.1f} s of all cores, {now.ru_maxrss / 2**20:.2f} GiB at most "
            f"so far; proven: {proven}"
        )


def measured() -> list[Compared]:
    """Rows of sources that tuned, whose setup and time are known."""
    return in_time(compared(run for run in read_runs(runs_file()) if word_of(run.row)))


def word_of(row: Mapping[str, str]) -> str:
    """Which of ``TUNED`` a row's source is; empty if none."""
    return next((word for word in TUNED if word in row.get("source_title", "")), "")


def pairs(rows: Iterable[Compared]) -> dict[str, list[list[Compared]]]:
    """The rows of each source by model and cluster, those with most tokens a second first."""
    found: dict[str, dict[tuple[str, ...], list[Compared]]] = {word: {} for word in TUNED}
    for row in rows:
        key = tuple(row.run.row.get(name, "") for name in PAIR)
        found[word_of(row.run.row)].setdefault(key, []).append(row)
    rate = {id(row): row.measured_rate or 0.0 for row in rows}
    return {
        word: [sorted(group, key=lambda row: -rate[id(row)]) for group in groups.values()]
        for word, groups in found.items()
    }


def place(best: Compared, **more: Any) -> float | None:
    """Share of the strategies that fit and have better scores than a measured setup, scored likewise; the job, and what
    a search leaves as it is, are those of the setup."""
    run, setup = best.run, best.run.setup
    if setup is None or run.model is None or run.cluster is None or run.stack is None:
        return None
    if run.cluster.devices > setup.devices:
        return None
    rest = {name: getattr(setup, name) for name in KEPT}
    space = space_of(run.model, run.cluster, run.stack, seq=setup.seq, batch=setup.batch, fix=rest | more)
    memory_bytes = space.cluster.device_of(0).memory_bytes
    found = [
        scores(space.model, space.cluster, space.grid(share), space.stack, memory_bytes).seconds
        for share in space.shares()
    ]
    seconds = np.concatenate(found or [np.array([])])
    fitting = seconds[np.isfinite(seconds)]
    own_s = scores(run.model, run.cluster, Grid.of(setup), run.stack).seconds[0]
    return float((fitting < own_s).mean()) if len(fitting) else None


def theirs(rows: Iterable[Compared]) -> dict[str, Any]:
    """What a source used anywhere with a framework: ZeRO stages, sequence and context parallelism, recomputation, or
    none of these; 1F1B, and interleaved 1F1B if the framework has that."""
    runs = [row.run for row in rows]
    setups = [run.setup for run in runs if run.setup is not None]
    has = [run.stack.schedules for run in runs if run.stack is not None]
    return {
        "zero": {setup.zero for setup in setups},
        "sp": {setup.sp for setup in setups} | {False},
        "cp": {setup.cp for setup in setups} | {1},
        "recompute": {setup.recompute for setup in setups if isinstance(setup.recompute, str)} | {"none"},
        "schedule": [name for name in ("1f1b", "interleaved") if all(not names or name in names for names in has)],
    }


def correlation(groups: Iterable[Sequence[Compared]]) -> str:
    found = [
        spearman([row.measured_s or 0.0 for row in group], [row.figures.seconds for row in group if row.figures])
        for group in groups
    ]
    known = [one for one in found if one is not None]
    return f"median {statistics.median(known):.2f} of {len(known)} tasks" if known else "no task"


def accuracy(most: int, like: bool) -> None:
    """Print correlations, and places of at most so many pairs of each source; ``like``: among what it used alone."""
    rows = measured()
    groups = [one.rows for one in choices(rows)]
    print(f"rank correlation in a source's own sweeps, 3 or more setups: {correlation(groups)} (at least 0.85)")
    used: dict[tuple[str, str], list[Compared]] = {}
    for row in rows:
        used.setdefault((word_of(row.run.row), row.framework), []).append(row)
    places: dict[str, list[tuple[float, str]]] = {}
    for word, found in pairs(rows).items():
        for best, *_ in found[:: -(-len(found) // most)]:
            more = theirs(used[word, best.framework]) if like else {}
            if (at := place(best, **more)) is not None:
                row = best.run.row
                said = f"{row['model_name']} on {row['devices']} {best.device}, {row['id']}"
                places.setdefault(word, []).append((at, said))
    _print_places("what the source used anywhere" if like else "all that the framework has", places)


def _print_places(name: str, places: Mapping[str, list[tuple[float, str]]]) -> None:
    each = sorted(one for found in places.values() for one in found)
    inside = sum(at <= TOP for at, _ in each) / len(each)
    print(
        f"{name}: of {len(each)} pairs of model and cluster, the fastest published setup is in the top {TOP:.0%} in "
        f"{inside:.0%} (at least 80%); median place {statistics.median(at for at, _ in each):.1%}"
    )
    for word, found in places.items():
        share = sum(at <= TOP for at, _ in found) / len(found)
        worst = ", ".join(f"{at:.0%} {said}" for at, said in sorted(found)[:-3:-1])
        print(f"  {word:28}{share:4.0%} of {len(found):2}; worst: {worst}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12, help="most pairs of a source that are planned, evenly spread")
    parser.add_argument("--used", action="store_true", help="among what a source used anywhere with its framework")
    parser.add_argument("--no-hard", action="store_true", help="leave out the questions that take long")
    given = parser.parse_args()
    speed()
    if not given.no_hard:
        hard()
    accuracy(given.pairs, given.used)


if __name__ == "__main__":
    main()
