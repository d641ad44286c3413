"""A better order while a run goes on: costs are measured, a process beside the ranks searches, and the ranks change
to what it found between two steps.

Stages stay where they are, so that no weight moves, and every gradient is the sum of the same parts in the same order.
``python -m penstock.runtime.solving FOLDER`` is the search, at a low priority.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from penstock.core.costs import Costs
from penstock.core.files import write_whole
from penstock.core.job import SOLVE, RunSpec
from penstock.core.lane import Lane
from penstock.core.op import COMPUTE, Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.cost import pricing, whole_bytes
from penstock.engine import simulate
from penstock.engine.steady import period_s
from penstock.lower import add_sends, add_step, split_backward
from penstock.runtime.faults import say
from penstock.runtime.results import costs_so_far
from penstock.runtime.trained import CALIBRATION_STEPS, WARM_STEPS, Change, Trained
from penstock.schedules.task import Objective
from penstock.search import Options, solve
from penstock.units import human_s

WORTHWHILE = 0.003
"""Share of a step that a new order must save, by prediction, to be changed to."""
LOW_PRIORITY = 10
ORPHAN_S = 0.5
"""Between looks whether the rank that wants the answer is still there."""
COSTS, ANSWER = "solve_costs.json", "solved.json"
"""Files of the search in the results folder: what it was told, and what it found."""


def first_plan(spec: RunSpec) -> Plan:
    """What a run with ``schedule="solve"`` begins with: the best of the named orders that need no search of their own,
    at the costs of the strategy, on a line, a V (two chunks) or a loop, within 1F1B's memory; if the run is resumed,
    what it found before.

    Raises:
        ValueError: the strategy asks for what the search does not know.
    """
    strategy, earlier = spec.strategy, Path(spec.run.out) / ANSWER
    for key in ("slices", "recompute", "offload", "vocabulary"):
        if getattr(strategy, key):
            raise ValueError(f"{key}={getattr(strategy, key)} does not go with schedule={SOLVE} yet; leave one out")
    place = (Placement.vee if strategy.chunks == 2 else Placement.loop)(strategy.ranks, strategy.chunks)
    if spec.run.resume and earlier.is_file():
        found = Plan.from_dict(json.loads(earlier.read_text())["plan"])
        if found.placement == place and found.micros == strategy.micro_batches:
            return replace(found, name=SOLVE)
    costs = pricing(strategy.costs).on(place)
    objective: Objective = "sync" if strategy.optimizer_step == "barrier" else "span"
    options = Options(stints=0, processes=1)
    best = solve(costs, place, strategy.micro_batches, whole_bytes(place, costs), objective, options).plan
    return replace(_bare(split_backward(best)), name=SOLVE)


class Search:
    """The search of one run, as each rank sees it.

    Args:
        plan: of the run so far, with sends and steps.
        folder: results folder.
        rank: this one; rank 0 keeps the process.
        seconds: how long to search.
        device: where the ranks compute.
    """

    def __init__(self, plan: Plan, folder: Path, rank: int, seconds: float, device: torch.device) -> None:
        self._plan, self._folder, self._rank, self._seconds, self._device = plan, folder, rank, seconds, device
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = self._over = False
        self._before_s = 0.0

    @classmethod
    def of(cls, spec: RunSpec, plan: Plan, folder: Path, rank: int, device: torch.device) -> Search | None:
        """The search that a run asks for; ``None`` if it asks for none."""
        return cls(plan, folder, rank, spec.strategy.solve_s, device) if spec.strategy.schedule == SOLVE else None

    def after(self, step: int, trained: Trained) -> Plan | None:
        """A better plan, if the search has just ended with one; all ranks ask after every step."""
        if not self._begun and len(trained.wall_s) == WARM_STEPS + CALIBRATION_STEPS:
            self._before_s = statistics.median([*trained.wall_s.values()][WARM_STEPS:])
            self._begin(costs_so_far(self._plan, trained, self._rank, self._device))
        if not self._begun or self._over or not self._ended():
            return None
        self._over = True
        answer = self._answer()
        if answer is None:
            self._say("the search for a better order ended without an answer; the run goes on as it is")
            return None
        before_s, then_s = answer["predicted_before_s"], answer["predicted_s"]
        better = then_s < before_s * (1 - WORTHWHILE)
        trained.change = Change(step, better, self._before_s, before_s, then_s, answer["bound_s"])
        if not better:
            self._say(f"step {step}: no order found is {WORTHWHILE:.1%} faster than this one")
            return None
        self._say(f"step {step}: another order from here on, predicted {human_s(before_s)} -> {human_s(then_s)} a step")
        return changed(self._plan, answer["plan"])

    def close(self) -> None:
        """End the process if it is still there."""
        if self._begun and not self._over:
            self._say("training ended before the search for a better order; more steps or a smaller solve_s would help")
        elif not self._begun:
            self._say(f"no search for a better order: it begins after {WARM_STEPS + CALIBRATION_STEPS} steps")
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _say(self, message: str) -> None:
        if self._rank == 0:
            say(message)

    def _begin(self, costs: Costs | None) -> None:
        """Start searching; rank 0 knows the costs."""
        self._begun = True
        if costs is None:
            return
        told = {"costs": costs.to_dict(), "plan": self._plan.to_dict(), "seconds": self._seconds}
        write_whole(self._folder / COSTS, json.dumps(told))
        command = ["nice", "-n", str(LOW_PRIORITY), sys.executable, "-m", __name__, str(self._folder)]
        self._process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def _answer(self) -> dict[str, Any] | None:
        """Rank 0's, on all ranks: what the process found, if it came to its end; an older answer stays until then."""
        answer: list[Any] = [None]
        if self._process is not None and self._process.poll() == 0:
            answer = [json.loads((self._folder / ANSWER).read_text())]
        if dist.is_initialized():
            dist.broadcast_object_list(answer, src=0)
        found: dict[str, Any] | None = answer[0]
        return found

    def _ended(self) -> bool:
        over = torch.tensor([int(self._process is None or self._process.poll() is not None)], device=self._device)
        if dist.is_initialized():
            dist.broadcast(over, src=0)
        return bool(over.item())


def changed(plan: Plan, answer: dict[str, Any]) -> Plan:
    """The plan of a run in the order that was found."""
    bare = replace(plan.with_lanes(Plan.from_dict(answer).lanes), barrier=True)
    return add_step(add_sends(bare, plan.sends), "before" if plan.barrier else "after")


def _bare(plan: Plan) -> Plan:
    """The plan without sends and steps."""
    lanes = (Lane.of(lane.codes[np.isin(lane.codes[:, 0], COMPUTE)]) for lane in plan.lanes)
    return replace(plan.with_lanes(lanes), sends="overlapped", barrier=True)


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(1)


def _solve(folder: Path) -> None:
    """Search at the costs in the folder, and leave the answer there."""
    told = json.loads((folder / COSTS).read_text())
    plan, costs = Plan.from_dict(told["plan"]), Costs.from_dict(told["costs"])
    seconds = costs.seconds.copy()
    seconds[Kind.B] = seconds[Kind.I] + seconds[Kind.W]  # nobody measured whole ones
    costs = replace(costs, seconds=seconds)
    bare, place = _bare(plan), plan.placement
    limit = max(whole_bytes(place, costs), float(simulate(bare, costs).peak_bytes.max()))
    objective: Objective = "sync" if plan.barrier else "span"
    found = solve(costs, place, plan.micros, limit, objective, Options(told["seconds"], processes=1), start=bare)
    answer: dict[str, Any] = {"plan": found.plan.to_dict(), "bound_s": found.bound.seconds}
    for name, each in (("predicted_before_s", plan), ("predicted_s", changed(plan, answer["plan"]))):
        answer[name] = period_s(each, costs)
    write_whole(folder / ANSWER, json.dumps(answer))


if __name__ == "__main__":
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _solve(Path(sys.argv[1]))
