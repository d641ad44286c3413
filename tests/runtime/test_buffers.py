"""Boundary tensors: as many as the simulator says, whatever the speed, and none that nothing needs."""

import gc
import time
from collections.abc import Iterable
from pipes import FEW_FIRST, PLANS, ROWS, WAYS, WIDTH, block_executor, blocks, executor_of, plan_of, rows
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.core.costs import Costs
from penstock.core.needs import dependencies, predecessors
from penstock.core.op import RECVS, SENDS, Kind
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.engine import simulate
from penstock.schedules import SCHEDULES

BOUNDARY_BYTES = ROWS * WIDTH * 8


def predicted(plan: Plan, seed: int = 0) -> list[int]:
    """Peak boundary tensors of each rank by the simulator, at some durations."""
    dice = np.random.default_rng(seed)
    uniform = Costs.uniform(plan.placement, link_s=dice.uniform(0, 3), rank_bytes=0.0, boundary_bytes=1.0)
    seconds = dice.uniform(0.01, 3.0, uniform.seconds.shape) * (uniform.seconds > 0)
    costs = Costs(seconds, uniform.hop_s, uniform.saved_bytes, uniform.w_share, uniform.boundary_bytes)
    return [int(peak) for peak in simulate(plan, costs).peak_bytes]


def measured(plan: Plan, slow: float = 0.0) -> list[int]:
    def work(rank: int) -> int:
        executor = block_executor(plan, rank)
        dice = np.random.default_rng(rank)
        if slow:
            executor._actions = [dawdle(action, dice.uniform(0, slow)) for action in executor._actions]
        executor.run(*rows(plan.micros))
        return executor.peak_buffers

    return on_ranks(plan.placement.ranks, work)


def dawdle(action: Any, seconds: float) -> Any:
    def slowly() -> None:
        time.sleep(seconds)
        action()

    return slowly


@pytest.mark.parametrize("ranks", [2, 3, *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in (4, 8))])
@pytest.mark.parametrize("name", PLANS)
def test_the_prediction_does_not_depend_on_durations(name: str, ranks: int) -> None:
    if name in SCHEDULES and SCHEDULES[name].valid(ranks, 24, 2 if SCHEDULES[name].chunks else 1):
        pytest.skip("the schedule has no such size")
    plan = plan_of(name, ranks, 24)
    assert len({tuple(predicted(plan, seed)) for seed in range(6)}) == 1


def test_nor_does_what_is_held() -> None:
    plan = plan_of("zb-h1", 2, 8)
    assert measured(plan, slow=0.005) == predicted(plan)


@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved"])
def test_more_micro_batches_take_no_more_buffers(name: str) -> None:
    few, many = (measured(plan_of(name, 2, micros)) for micros in (8, 64))
    assert few == many == predicted(plan_of(name, 2, 64))


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved"])
def test_nor_on_many_ranks(name: str, ranks: int) -> None:
    few, many = (max(predicted(plan_of(name, ranks, micros))) for micros in (2 * ranks, 16 * ranks))
    assert few == many


# -- what is really alive ------------------------------------------------------------------------------------------


class Storages(TorchDispatchMode):
    """Watches every storage of one size that any operation makes, by weak references to the storages themselves."""

    def __init__(self, size: int, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.size, self.seen = size, {}
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() == self.size:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.seen[storage._cdata] = StorageWeakRef(storage)
        return found

    def alive(self) -> int:
        self.seen = {key: ref for key, ref in self.seen.items() if not ref.expired()}
        return len(self.seen)


with Storages(0, ()):  # what a first use imports, every fork would import again
    torch.empty(1)


def expected_alive(plan: Plan, rank: int) -> list[int]:
    """Boundary tensors that must live after each op of a lane, by rules stated here and nowhere else.

    A receive lives from its posting until its consumer ends. A consumer that is a forward keeps it for the linear layer
    at its head, until the weights have their gradient (``B``, ``W``); one that is ``I`` keeps it for the linear layer
    at the stage's end, until ``W``. What a compute op makes for another stage lives until it is consumed on this rank,
    or sent and its send is done with. The last stage's loss keeps its input from ``F`` to ``B`` or ``I``, which makes
    the gradient that the linear layer before it keeps until ``W``.
    """
    rank_of, next_, prev = plan.placement.rank_of, plan.placement.next, plan.placement.prev
    before = predecessors(plan)
    alive: set[Any] = set()
    counts = []
    for place, op in enumerate(plan.lanes[rank]):
        row, s, i = int(plan.first[rank]) + place, op.stage, op.micro
        if op.kind in RECVS:
            alive.add(("F" if op.kind == Kind.RECV_F else "B", s, i))
        elif op.kind in SENDS:
            alive.discard(("sent", int(before[row])))
            side = ("F", next_[s], i) if op.kind == Kind.SEND_F else ("B", prev[s], i)
            alive.remove(side)
            if not plan.blocking:
                alive.add(("sent", row))
        elif op.kind == Kind.F:
            alive.add(("loss", s, i) if next_[s] == NO_STAGE else ("F", next_[s], i))
        elif op.kind in (Kind.B, Kind.I):
            if next_[s] == NO_STAGE:
                alive.remove(("loss", s, i))
                alive.add(("B", s, i))
            if prev[s] != NO_STAGE:
                alive.add(("B", prev[s], i))
            if op.kind == Kind.B:
                alive -= {("F", s, i), ("B", s, i)}
        elif op.kind == Kind.W:
            alive -= {("F", s, i), ("B", s, i)}
        counts.append(len(alive))
        assert rank_of[s] == rank
    return counts


def ends_of_blocks(plan: Plan, rank: int) -> list[int]:
    """Ids of the ops with which something ends: all but those in fused blocks and batches with more to come."""
    inside = plan.fused.copy()
    if plan.sends == "batched":
        messages = np.isin(plan.ops[:, 0], SENDS + RECVS)
        inside[:-1] |= messages[:-1] & messages[1:]
    return [row for row in range(*plan.first[rank : rank + 2]) if not inside[row] or row + 1 == plan.first[rank + 1]]


def watched_step(plan: Plan, rank: int) -> tuple[list[int], int, int]:
    """Boundary tensors alive after each op of a step, those alive after it, and the peak that the executor counted."""
    executor = block_executor(plan, rank)
    inputs, targets = rows(plan.micros)
    alive: list[int] = []
    with Storages(BOUNDARY_BYTES, [*inputs, *targets]) as storages:

        def watched(action: Any) -> Any:
            def then_count() -> None:
                action()
                alive.append(storages.alive())

            return then_count

        executor._actions = [watched(action) for action in executor._actions]
        executor.run(inputs, targets)
        executor.take_losses()
        return alive, storages.alive(), executor.peak_buffers


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FEW_FIRST)
def test_the_executor_holds_what_the_simulator_says_and_no_tensor_longer_than_it_must(name: str, ranks: int) -> None:
    """The peak on every rank, with sends that overlap, that block, and in batches; and after every op the storages of
    that size that are alive are those that a later op needs; after a step there are none."""
    plans = [plan_of(name, ranks, 8, sends) for sends in WAYS]
    parts = on_ranks(ranks, lambda rank: [watched_step(plan, rank) for plan in plans])
    for number, plan in enumerate(plans):
        for rank, part in enumerate(parts):
            alive, after, _ = part[number]
            ends = [last - int(plan.first[rank]) for last in ends_of_blocks(plan, rank)]
            expected = expected_alive(plan, rank)
            assert [alive[place] for place in ends] == [expected[place] for place in ends]
            assert after == 0
        assert [part[number][2] for part in parts] == predicted(plan)


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_after_a_step_nothing_of_it_is_alive() -> None:
    """No tensor more than before the first step but the gradients; inputs and targets are let go too."""
    plan = plan_of("zb-h1", 2, 8)

    def work(rank: int) -> tuple[int, int, bool]:
        modules: dict[int, nn.Module] = dict(blocks(plan.placement.on(rank), 2))
        executor = executor_of(plan, rank, modules, (ROWS, WIDTH))
        before = tensors_alive()
        inputs, targets = rows(plan.micros)
        held = StorageWeakRef(inputs[0].untyped_storage()), StorageWeakRef(targets[0].untyped_storage())
        executor.run(inputs, targets)
        executor.take_losses()
        executor.stages[rank].module.zero_grad(set_to_none=True)
        del inputs, targets
        gc.collect()
        return before, tensors_alive(), all(ref.expired() for ref in held)

    for before, after, freed in on_ranks(2, work):
        assert after <= before
        assert freed


def test_a_consumer_of_every_receive_stands_in_the_lane() -> None:
    """What the accounting rests on."""
    for name in PLANS:
        plan = plan_of(name, 4, 8)
        consumed = set(dependencies(plan)[~np.isin(plan.ops[:, 0], SENDS)].ravel().tolist())
        assert set(np.flatnonzero(np.isin(plan.ops[:, 0], RECVS)).tolist()) <= consumed
