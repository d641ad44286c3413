"""Compare the named schedules at one size: idle time, memory, and what no order could beat."""

import penstock

RANKS, MICROS = 8, 32
TIMES = {"f_s": 1.0, "i_s": 1.1, "w_s": 0.8, "link_s": 0.02}  # one rank, all its chunks together

print(f"{'schedule':12} {'bubble':>8} {'peak':>6} {'bound':>8}")
for name, chunks in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("interleaved", 4), ("zb-h1", 1)):
    plan = penstock.build(name, RANKS, MICROS, chunks)
    costs = penstock.Costs.uniform(plan.placement, **TIMES)
    timeline = penstock.simulate(plan, costs)
    peak = timeline.peak_bytes.max()
    bound = penstock.bounds(plan.placement, MICROS, costs, memory_limit=peak).makespan.seconds
    label = name if chunks == 1 else f"{name} x{chunks}"
    print(f"{label:14} {timeline.bubble_sync:6.1%} {peak / RANKS:6.2f} {bound / timeline.makespan_s:8.1%}")
