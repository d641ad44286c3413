"""Build, check and simulate 196,608 ops, beside PyTorch's simulator and a plain Python event loop, in one run.

All three run interleaved 1F1B on 64 ranks with 3 chunks and 512 micro-batches. PyTorch's ``_simulate_comms_compute``
counts steps of equal length and wants sends and receives in the lanes (587,776 actions); it gets what ``add_sends``
makes, and so do we in the second row. The event loop is what one writes in ten minutes: a dict of end times, and ranks
that wait for an op in a list. A plan that is simulated again (at other costs, say) knows already what its ops need.
Times are medians.

    OMP_NUM_THREADS=1 python bench/simulate.py [--ranks 64] [--micros 512] [--chunks 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from penstock import Costs, Kind, Plan, add_sends, build, check, simulate
from penstock.core.op import RECVS, SENDS


def median_s(work: Callable[[], Any], times: int) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def plain_loop(lanes: list[list[tuple[str, int, int]]], last: int, seconds: dict[str, float]) -> float:
    """Makespan of lanes of (kind, stage, micro-batch) without sends."""
    end: dict[tuple[str, int, int], float] = {}
    waiting = defaultdict(list)
    at, clock = [0] * len(lanes), [0.0] * len(lanes)
    awake = list(range(len(lanes)))
    while awake:
        rank = awake.pop()
        lane = lanes[rank]
        while at[rank] < len(lane):
            op = kind, stage, micro = lane[at[rank]]
            before = ("F", stage - 1, micro) if kind == "F" else ("B", stage + 1, micro)
            ready = 0.0 if before[1] in (-1, last + 1) else end.get(before)
            if ready is None:
                waiting[before].append(rank)
                break
            end[op] = clock[rank] = max(clock[rank], ready) + seconds[kind]
            awake += waiting.pop(op, ())
            at[rank] += 1
    return max(end.values())


def torch_simulator(plan: Plan) -> Callable[[], Any]:
    """PyTorch's simulator over a plan with sends, ready to run."""
    from torch.distributed.pipelining import schedules

    letters = {Kind.F: "F", Kind.B: "B"} | {kind: kind.name for kind in (*SENDS, *RECVS)}
    kinds = {kind: schedules._ComputationType.from_str(text) for kind, text in letters.items()}
    order = {
        rank: [schedules._Action(op.stage, kinds[op.kind], op.micro) for op in lane]
        for rank, lane in enumerate(plan.lanes)
    }
    rank_of, stages = plan.placement.rank_of, plan.placement.stages
    return lambda: schedules._simulate_comms_compute(order, lambda stage: rank_of[stage], stages)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, size in (("ranks", 64), ("micros", 512), ("chunks", 3), ("times", 5)):
        parser.add_argument(f"--{name}", type=int, default=size)
    size = parser.parse_args()
    plan = build("interleaved", size.ranks, size.micros, size.chunks)
    costs = Costs.uniform(plan.placement)
    simulate(plan, costs)  # loads the compiled loop
    lowered = add_sends(plan)
    rows = {
        "build": (len(plan), median_s(lambda: build("interleaved", size.ranks, size.micros, size.chunks), size.times)),
        "check": (len(plan), median_s(lambda: check(replace(plan)), size.times)),
        "simulate": (len(plan), median_s(lambda: simulate(replace(plan), costs), size.times)),
        "simulate again": (len(plan), median_s(lambda: simulate(plan, costs), size.times)),
        "add_sends": (len(lowered), median_s(lambda: add_sends(plan), size.times)),
        "check, with sends": (len(lowered), median_s(lambda: check(replace(lowered)), size.times)),
        "simulate, with sends": (len(lowered), median_s(lambda: simulate(replace(lowered), costs), size.times)),
        "simulate again, with sends": (len(lowered), median_s(lambda: simulate(lowered, costs), size.times)),
    }
    lanes = [[(op.kind.name, op.stage, op.micro) for op in lane] for lane in plan.lanes]
    seconds, last = {"F": 1 / size.chunks, "B": 2 / size.chunks}, plan.placement.stages - 1
    rows["plain Python event loop"] = (len(plan), median_s(lambda: plain_loop(lanes, last, seconds), size.times))
    ours, theirs = simulate(plan, costs).makespan_s, plain_loop(lanes, last, seconds)
    assert abs(ours - theirs) < 1e-6 * ours, (ours, theirs)
    theirs_s = median_s(torch_simulator(lowered), size.times)
    rows["PyTorch _simulate_comms_compute"] = (len(lowered), theirs_s)
    for name, (ops, took_s) in rows.items():
        print(f"{name:32} {ops:9,} ops {took_s:8.3f} s {ops / took_s / 1e6:8.2f} M ops/s")
    total = sum(rows[name][1] for name in ("build", "check", "simulate"))
    print(f"build + check + simulate: {total:.3f} s for {len(plan):,} ops")
    for name, own in (
        ("plain Python event loop", "simulate"),
        ("PyTorch _simulate_comms_compute", "simulate, with sends"),
    ):
        print(f"{own} is {rows[name][1] / rows[own][1]:.1f} times as fast as {name}")


if __name__ == "__main__":
    main()
