"""Find building blocks of your own: every V of four ranks whose steps are equal, and what memory and time it takes."""

from itertools import product

import numpy as np

import penstock
from penstock.core.placement import Placement
from penstock.schedules import Block, repeat

RANKS, MICROS = 4, 12
PLACE = Placement.vee(RANKS)  # stages 0 .. 3 go down the ranks, 4 .. 7 come back
COSTS = penstock.Costs.uniform(PLACE, f_s=1.0, i_s=1.0, w_s=0.7, link_s=0.02)


def block(down: int, up: int, back_down: int, back_up: int, turn: int) -> Block:
    """Slots from stage to stage on each way, and between the last forward and the first backward; six a period."""
    forward = np.cumsum([0, *[down] * (RANKS - 1), 1, *[up] * (RANKS - 1)])
    backward = forward[-1] + np.cumsum([turn, *[back_down] * (RANKS - 1), 1, *[back_up] * (RANKS - 1)])
    return Block(6, forward, backward[::-1]).with_weights(PLACE)


print("down up back      peak  bubble")
for steps in product((1, 2), repeat=4):
    for turn in range(1, 7):
        try:
            found = block(*steps, turn)
            found.check(PLACE)  # an error names the passes that meet on a rank
        except ValueError:
            continue
        plan = penstock.build(
            lambda task, found=found: repeat(task, found), RANKS, MICROS, placement=PLACE, costs=COSTS
        )
        penstock.check(plan)
        timeline = penstock.simulate(plan, COSTS)
        peak = found.peaks(PLACE, COSTS).max() / RANKS  # in closed form; no rank holds more
        assert timeline.peak_bytes.max() <= peak * RANKS
        print(f"{steps[0]:4} {steps[1]:2} {steps[2]:4} {steps[3]}  {peak:8.3f} {timeline.bubble_sync:7.1%}")
        break
