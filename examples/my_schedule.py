"""Write a schedule of your own: a function from rank, ranks, micro-batches and chunks to what that rank does."""

import penstock


def half_warm_up(r, p, m, v):
    """As 1F1B with half the warm-up and split backwards: less memory, more waiting."""
    warm = min((p - r) // 2, m - 1)
    return [(warm, "F"), (m - warm, "F I w"), (warm, "I w")]


plan = penstock.build(half_warm_up, ranks=4, micros=6)
penstock.check(plan)  # says which rank and op would wait for ever, and how to mend it
timeline = penstock.simulate(plan, penstock.Costs.uniform(plan.placement))
print(penstock.show(plan))
print(penstock.show(timeline))

try:
    penstock.check(penstock.build(lambda r, p, m, v: [(m, "F B")] if r else [(m, "B F")], ranks=2, micros=1))
except ValueError as error:
    print(error)
