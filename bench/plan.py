"""Time plans with everything free, and see where the best measured runs rank among ours.

*plan*: Llama 3 70B on 512 H100 and GPT-3 175B on 64 A100: first time, and best of two more. *hard*: models of experts
on thousands of devices, and questions of many plans, once each in a process of its own, with the memory of the largest
process. *ranks*:
for each published task (model, machines, batch) of sources that tuned, with two or more measured setups: where the
source's fastest, as we predict it, stands among all strategies that fit there, in per cent from the top, by score; and
the rank correlation of measured and predicted times within the task.

    OMP_NUM_THREADS=1 python bench/plan.py [--tasks N] [--no-hard]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from penstock.calibrate.published import read_runs
from penstock.calibrate.shipped import runs_file
from penstock.calibrate.summaries import choices, in_time, spearman
from penstock.calibrate.validation import Compared, compared
from penstock.core.cluster import Cluster
from penstock.predict import scores
from penstock.search.planner import plan
from penstock.search.space import space_of

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
TUNED = ("DGX Cloud", "Megatron-Bridge", "BLOOM", "MosaicML")
"""Words in the titles of sources that looked for fast setups; others measured setups of all kinds."""
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


def tasks() -> list[Sequence[Compared]]:
    """Measured rows by task, those with several setups."""
    return [one.rows for one in choices(in_time(compared(read_runs(runs_file()))))]


def place(group: Sequence[Compared], **more: Any) -> float | None:
    """Share of the strategies that fit and have better scores than the fastest measured setup."""
    best = min(group, key=lambda row: row.measured_s or np.inf)
    run = best.run
    if run.setup is None or run.model is None or run.cluster is None or run.stack is None or best.figures is None:
        return None
    setup = run.setup
    if run.cluster.devices > setup.devices:
        return None
    names = ("precision", "optimizer", "flash", "dropout", "fused_loss")
    fix = {name: getattr(setup, name) for name in names} | more
    space = space_of(run.model, run.cluster, run.stack, seq=setup.seq, batch=setup.batch, fix=fix)
    memory_bytes = space.cluster.device_of(0).memory_bytes
    found = [
        scores(space.model, space.cluster, space.grid(share), space.stack, memory_bytes).seconds
        for share in space.shares()
    ]
    seconds = np.concatenate(found or [np.array([])])
    fitting = seconds[np.isfinite(seconds)]
    return float((fitting < best.figures.seconds).mean()) if len(fitting) else None


def theirs(group: Sequence[Compared]) -> dict[str, Any]:
    """What the source's framework had then: the ZeRO stages, cuts of sequences and recomputation that were measured,
    1F1B, and interleaved 1F1B if it has that."""
    setups = [row.run.setup for row in group if row.run.setup is not None]
    has = [row.run.stack.schedules for row in group if row.run.stack is not None]
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


def accuracy(most: int) -> None:
    groups = tasks()
    tuned = [group for group in groups if any(word in group[0].source for word in TUNED)]
    print(f"rank correlation, 3 or more setups: {correlation(g for g in groups if len(g) > 2)} (at least 0.85)")
    print(f"  of sources that tuned, 3 or more: {correlation(g for g in tuned if len(g) > 2)}")
    print(f"  of sources that tuned, 2 or more: {correlation(tuned)}")
    for name, like in (("everything free", False), ("what the source could choose from", True)):
        places = [
            (one, f"{group[0].run.row['model_name']} on {group[0].run.row['devices']} {group[0].device}")
            for group in tuned[:most]
            if (one := place(group, **(theirs(group) if like else {}))) is not None
        ]
        top = sum(one <= TOP for one, _ in places) / max(1, len(places))
        middle = statistics.median([one for one, _ in places]) if places else 1.0
        print(
            f"{name}: of {len(places)} tasks, the fastest measured setup is in the top {TOP:.0%} in {top:.0%} (at "
            f"least 80%); median place {middle:.1%}"
        )
        for one, task in sorted(places)[::-1][:4]:
            print(f"  {one:6.1%}  {task}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40, help="most tasks that are planned")
    parser.add_argument("--no-hard", action="store_true", help="leave out the questions that take long")
    given = parser.parse_args()
    speed()
    if not given.no_hard:
        hard()
    accuracy(given.tasks)


if __name__ == "__main__":
    main()
