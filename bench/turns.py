"""How short the turns of orders that repeat can be: what is found, beside what a constraint solver shows to be too
short for any. Where the two are close, a bound is to blame for the gap.

    python bench/turns.py [--ranks 16] [--memory 0.375] [--costs 28.3B] [--w-share 1] [--placements v both]
                          [--each 1] [--effort 20] [--seed 0]
"""

from __future__ import annotations

import argparse

from penstock.cli.ways import placement
from penstock.cost import pricing
from penstock.engine.bounds import period_bound
from penstock.schedules.task import Task
from penstock.search.kernel import shortest
from penstock.search.repeat import Kernel, tuned
from penstock.search.turns import Shown, shown

MOVES = 100_000
"""That improve the first order, before the constraint solver is asked."""


def begun(task: Task, each: int, seed: int) -> Kernel:
    """An order that repeats, improved op by op."""
    first = shortest(task, each)
    if first is None:
        raise ValueError(f"memory_limit={task.memory_limit}: no order that repeats is known that keeps it; allow more")
    return tuned(first, "span", 1000 * each * task.placement.chains, MOVES, seed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=16)
    parser.add_argument("--memory", type=float, default=0.375)
    parser.add_argument("--costs", default="28.3B")
    parser.add_argument("--w-share", type=float, default=1.0)
    parser.add_argument("--placements", nargs="+", default=["v"])
    parser.add_argument("--each", type=int, nargs="+", default=[1], help="micro-batches of every chain per turn")
    parser.add_argument("--effort", type=float, default=20.0, help="deterministic time of the solver for each line")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{'placement':10}{'each':>5}{'bound':>8}{'none in':>9}{'found':>8}{'effort':>8}")
    for name in given.placements:
        place = placement(name, given.ranks)
        costs = pricing(given.costs, given.w_share).on(place)
        task = Task(place, place.chains, costs, given.memory * given.ranks, "span")
        bound_s = period_bound(place, costs, task.limit).seconds
        for each in given.each:
            kernel = begun(task, each, given.seed)
            known = shown(task, each, Shown(bound_s), kernel.micro_s, given.effort, given.seed)
            found_s = (known.kernel or kernel).micro_s
            print(f"{name:10}{each:5}{bound_s:8.2f}{known.none_s:9.3f}{found_s:8.3f}{known.effort:8.1f}", flush=True)


if __name__ == "__main__":
    main()
