"""Time plans with everything free, and see where the best measured runs rank among ours.

*plan*: Llama 3 70B on 512 H100 and GPT-3 175B on 64 A100, in one process: first time, and best of two more. *ranks*:
<<<<<<< HEAD
for each published task (model, machines, batch) of sources that tuned, with two or more measured setups: where the source's fastest, as we
predict it, stands among all strategies that fit there, in per cent from the top, by score; and the rank correlation of
measured and predicted times within the task.
=======
for each published task (model, machines, batch) of sources that tuned, with two or more measured setups: where the
source's fastest, as we predict it, stands among all strategies that fit there, in per cent from the top, by score; and
the rank correlation of measured and predicted times within the task.
>>>>>>> h-plan

    OMP_NUM_THREADS=1 python bench/plan.py [--tasks N]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np

from penstock.calibrate.published import read_runs
from penstock.calibrate.shipped import runs_file
from penstock.calibrate.summaries import choices, spearman
from penstock.calibrate.validation import Compared, compared
from penstock.core.cluster import Cluster
from penstock.predict import scores
from penstock.search.planner import plan, space_of

TASKS = (("llama-3-70b", "dgx-h100:64", 8192, 1024), ("gpt3-175b", "dgx-a100-80gb:8", 2048, 1536))
LEAST_SETUPS = 2
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


def tasks() -> Iterator[list[Compared]]:
    """Measured rows by task, those that vary in what they choose."""
    rows = [row for row in compared(read_runs(runs_file())) if row.time_error is not None and row.strict_time]
    for group in choices(rows):
        tuned = any(word in group[0].source for word in TUNED)
        if tuned and len({row.run.setup for row in group}) >= LEAST_SETUPS:
            yield group


def place(group: Sequence[Compared]) -> float | None:
    """Share of the strategies that fit and have better scores than the fastest measured setup."""
    best = min(group, key=lambda row: row.measured_s or np.inf)
    run = best.run
    if run.setup is None or run.model is None or run.cluster is None or run.stack is None or best.figures is None:
        return None
    setup = run.setup
    same = {"precision": setup.precision, "optimizer": setup.optimizer, "flash": setup.flash, "dropout": setup.dropout}
    if run.cluster.devices > setup.devices:
        return None
    space = space_of(run.model, run.cluster, run.stack, seq=setup.seq, batch=setup.batch,
                     fix=same | {"fused_loss": setup.fused_loss})  # fmt: skip
    seconds = [scores(space.model, space.cluster, space.grid(share), space.stack,
                      space.cluster.device_of(0).memory_bytes).seconds for share in space.shares()]  # fmt: skip
    fitting = np.concatenate(seconds)[np.isfinite(np.concatenate(seconds))] if seconds else np.array([])
    return float((fitting < best.figures.seconds).mean()) if len(fitting) else None


def accuracy(most: int) -> None:
    groups = list(tasks())
    found = [spearman([row.measured_s or 0.0 for row in group], [row.figures.seconds for row in group if row.figures])
             for group in groups]  # fmt: skip
    known = [one for one in found if one is not None]
    print(f"{len(groups)} tasks with {LEAST_SETUPS} or more setups: rank correlation median "
          f"{statistics.median(known):.2f} (at least 0.85)")  # fmt: skip
    places: list[tuple[float, str]] = []
    step = max(1, len(groups) // most)
    for group in groups[::step][:most]:
        if (one := place(group)) is not None:
            row = group[0]
            places.append((one, f"{row.run.row['model_name']}, {row.device}, {row.run.row['devices']}: {row.source}"))
    top = sum(one <= TOP for one, _ in places)
    print(f"{len(places)} of them planned: in {top / max(1, len(places)):.0%} the fastest measured setup is in the top "
          f"{TOP:.0%} (at least 80%); median {statistics.median([one for one, _ in places]):.1%}")  # fmt: skip
    for one, name in sorted(places)[::-1][:10]:
        print(f"  {one:6.1%}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40, help="most tasks that are planned")
    given = parser.parse_args()
    speed()
    accuracy(given.tasks)


if __name__ == "__main__":
    main()
