"""Build every schedule of the table at p=64, m=512 and two chunks where it has chunks, with sends, check and simulate
it; and the sizes for which peers' times are known: ZB-2p at p=32, m=256 (theirs 2 s) and V-Half at p=32, m=96 (23.4 s).

Times are of a second go, once loops are compiled.

    OMP_NUM_THREADS=1 python bench/schedules.py [--ranks 64] [--micros 512]
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

from penstock import Costs, Placement, add_sends, build, check, simulate
from penstock.schedules import SCHEDULES

PEERS = (("zb-2p", 32, 256, 1, 2.0), ("zb-v-auto", 32, 256, 2, 2.6), ("v-half", 32, 96, 2, 23.4))
"""Name, ranks, micro-batches, chunks, and seconds that the authors' schedulers take on a machine of this kind."""


def costs(placement: Placement) -> Costs:
    """28.3B of Zero Bubble's table 9 (Qi et al. 2023, arXiv:2401.10241), in milliseconds, with flash attention."""
    return Costs.uniform(placement, 10.402, 10.248, 7.698, 0.46, 32 / 34)


def timed(name: str, ranks: int, micros: int, chunks: int) -> tuple[int, list[float]]:
    """Ops with sends, and seconds to build, add sends, check and simulate."""
    laps = [time.perf_counter()]
    plan = build(name, ranks, micros, chunks, costs=costs, objective="span")
    laps.append(time.perf_counter())
    lowered = add_sends(plan)
    laps.append(time.perf_counter())
    check(lowered)
    laps.append(time.perf_counter())
    simulate(lowered, costs(lowered.placement).sliced(lowered.slices))
    laps.append(time.perf_counter())
    return len(lowered), [b - a for a, b in pairwise(laps)]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, size in (("ranks", 64), ("micros", 512)):
        parser.add_argument(f"--{name}", type=int, default=size)
    size = parser.parse_args()
    print(f"{'schedule':16}{'ops':>9}{'build':>8}{'sends':>8}{'check':>8}{'simulate':>10}{'all':>8}  seconds")
    for name, found in SCHEDULES.items():
        chunks = 2 if found.chunks and not found.valid(size.ranks, size.micros, 2) else 1
        reason = found.valid(size.ranks, size.micros, chunks)
        if reason:
            print(f"{name:16}not at these sizes: {reason}")
            continue
        timed(name, size.ranks, size.micros, chunks)
        ops, took = timed(name, size.ranks, size.micros, chunks)
        print(f"{name:16}{ops:9,}{took[0]:8.3f}{took[1]:8.3f}{took[2]:8.3f}{took[3]:10.3f}{sum(took):8.3f}")
    for name, ranks, micros, chunks, theirs_s in PEERS:
        timed(name, ranks, micros, chunks)
        ours_s = timed(name, ranks, micros, chunks)[1][0]
        times = theirs_s / ours_s
        print(f"{name} p={ranks} m={micros}: built in {ours_s:.2f} s, {times:.1f} times as fast as the authors'")


if __name__ == "__main__":
    main()
