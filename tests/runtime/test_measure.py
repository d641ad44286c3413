"""Costs found in the times of steps are those that made them; what a stage keeps is counted right."""

import json
from dataclasses import replace
from pathlib import Path
from pipes import FEW, ROWS, WIDTH, blocks, plan_of
from typing import Any

import numpy as np
import pytest
import torch
from runs import prepared, run_forked, spec_in
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import COMPUTE, RECVS, SENDS, Kind, Sends
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.play import play
from penstock.core.timeline import Timeline
from penstock.engine import simulate
from penstock.lower import add_sends, add_step, offload, recompute
from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.measure import Times, measured_costs, measured_timeline, probe
from penstock.runtime.stage import Stage
from penstock.schedules import build


def true_costs(plan: Plan, hop_s: float, dice: np.random.Generator, overlap: float = 0.0) -> Costs:
    stages, ranks = plan.placement.stages, plan.placement.ranks
    seconds = np.zeros((len(Kind), stages))
    for kind in (Kind.F, Kind.I, Kind.W):
        seconds[kind] = dice.uniform(2e-3, 4e-3, stages)
    seconds[Kind.B] = seconds[Kind.I] + seconds[Kind.W]
    seconds[Kind.STEP] = 1e-3
    parts = np.array(plan.placement.part_of)
    seconds[Kind.REDUCE_GRAD] = np.where(np.bincount(parts)[parts] > 1, 1e-3 + 1e-4 * parts, 0.0)
    hops = hop_s * (1 - np.eye(ranks))
    return Costs(seconds, hops, np.full(stages, 10.0), np.full(stages, 0.5), np.ones(stages), overlap=overlap)


def as_ranks_see(plan: Plan, costs: Costs, dice: np.random.Generator, noise: float) -> Times:
    """Times of one step as the executor stamps them: a message that overlaps with compute is only posted, and a rank's
    first ``STEP`` begins when the rank comes to it, before the others have."""
    kind = plan.ops[:, 0]
    seconds = costs.of(plan) * dice.uniform(1, 1 + noise, len(plan))
    first = np.flatnonzero(plan.fused)
    seconds[first + 1] = seconds[first]
    played = play(plan, seconds, costs.hop_s)
    start, end = played.start_s.copy(), played.end_s.copy()
    messages = np.isin(kind, SENDS + RECVS)
    if not plan.blocking:
        end[messages] = start[messages]
    for a, b in zip(plan.first[:-1], plan.first[1:], strict=True):
        steps = np.flatnonzero(kind[a:b] == Kind.STEP) + a
        if len(steps):
            start[steps[0]] = end[steps[0] - 1]
    return np.stack([start, end]) + 1234.5


@pytest.mark.parametrize("hop_s", [0.0, 0.2e-3, 1.5e-3])
@pytest.mark.parametrize("sends", ["overlapped", "blocking"])
@pytest.mark.parametrize("name", FEW)
def test_costs_are_found_again(name: str, sends: Sends, hop_s: float) -> None:
    plan, dice = plan_of(name, 4, 16, sends, step=True), np.random.default_rng(1)
    costs = true_costs(plan, hop_s, dice)
    steps = [as_ranks_see(plan, costs, dice, 0.01) for _ in range(6)]
    found = measured_costs(plan, steps, [(10.0, 0.5)] * plan.placement.stages, 1.0)
    used = np.zeros_like(costs.seconds, dtype=bool)
    used[plan.ops[:, 0], plan.ops[:, 1]] = True
    used[list(SENDS + RECVS)] = False
    assert (found.seconds[~used] == 0).all()
    assert found.seconds[used] == pytest.approx(costs.seconds[used] * 1.005, rel=0.005)
    expected = simulate(plan, costs)
    assert simulate(plan, found).step_s == pytest.approx(expected.step_s * 1.005, rel=0.02)
    if hop_s:
        links = found.hop_s[found.hop_s > 0]
        assert len(links) >= 6
        assert links == pytest.approx(np.full(len(links), hop_s), rel=0.25)
    assert (found.saved_bytes == 10).all()
    assert (found.w_share == 0.5).all()
    assert (found.boundary_bytes == 1).all()


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb-h1"])
def test_recompute_and_copies_are_found_again(name: str) -> None:
    """Copies that queue on a link, some of them when another is under way; the rank sees when each ends."""
    bare, dice = build(name, 4, 16), np.random.default_rng(3)
    costs = true_costs(bare, 0.2e-3, dice)
    seconds = costs.seconds.copy()
    seconds[[Kind.R, Kind.OFFLOAD, Kind.FETCH]] = dice.uniform(1e-3, 2e-3, (3, 4))
    costs = replace(costs, seconds=seconds, kept_share=np.full(4, 0.3), host_share=np.full(4, 0.8))
    plan = add_step(add_sends(offload(recompute(bare, keep=1), costs, trips=1.0)))
    assert {Kind.R, Kind.OFFLOAD, Kind.FETCH} <= set(plan.ops[:, 0].tolist())
    steps = [as_ranks_see(plan, costs, dice, 0.01) for _ in range(6)]
    found = measured_costs(plan, steps, [(10.0, 0.5)] * 4, 1.0, [(0.3, 0.8)] * 4)
    used = np.zeros_like(costs.seconds, dtype=bool)
    used[plan.ops[:, 0], plan.ops[:, 1]] = True
    used[list(SENDS + RECVS)] = False
    assert found.seconds[used] == pytest.approx(costs.seconds[used] * 1.005, rel=0.01)
    assert (found.kept_share == 0.3).all()
    assert (found.host_share == 0.8).all()
    links = found.hop_s[found.hop_s > 0]
    assert links == pytest.approx(np.full(len(links), 0.2e-3), rel=0.25)
    expected, predicted = simulate(plan, costs), simulate(plan, found)
    assert predicted.step_s == pytest.approx(expected.step_s * 1.005, rel=0.02)
    assert predicted.peak_bytes == pytest.approx(expected.peak_bytes)
    measured = measured_timeline(plan, steps[0], found)
    assert measured.peak_bytes == pytest.approx(expected.peak_bytes)


@pytest.mark.parametrize("name", ["dualpipe", "dualpipev"])
def test_costs_are_found_in_fused_blocks(name: str) -> None:
    plan, dice = plan_of(name, 4, 16, step=True), np.random.default_rng(1)
    assert plan.fused.any()
    costs = true_costs(plan, 0.2e-3, dice)
    steps = [as_ranks_see(plan, costs, dice, 0.002) for _ in range(6)]
    found = measured_costs(plan, steps, [(10.0, 0.5)] * plan.placement.stages, 1.0)
    assert found.overlap == pytest.approx(0, abs=0.01)
    assert simulate(plan, found).step_s == pytest.approx(simulate(plan, costs).step_s, rel=0.03)


@pytest.mark.parametrize("overlap", [0.0, 0.4])
def test_what_blocks_take_less_than_halves_that_stand_alone_is_the_overlap(overlap: float) -> None:
    lane = Lane.parse("0F0 (0F1;0B0)OVERLAP_F_B (0F2;0B1)OVERLAP_F_B 0B2 0STEP")
    plan = Plan("fused", Placement((0,)), 3, (lane,))
    costs = true_costs(plan, 0.0, np.random.default_rng(2), overlap)
    found = measured_costs(plan, [as_ranks_see(plan, costs, np.random.default_rng(1), 0.0)], [(10.0, 0.5)], 1.0)
    assert found.overlap == pytest.approx(overlap, abs=1e-6)
    assert found.of(plan) == pytest.approx(costs.of(plan))


def test_halves_that_never_stand_alone_share_the_time_of_their_blocks() -> None:
    words = "0F0 (0F1;0I0)OVERLAP_F_B (0F2;0I1)OVERLAP_F_B 0B2 0W0 0W1 0STEP"
    plan = Plan("fused", Placement((0,)), 3, (Lane.parse(words),))
    costs = true_costs(plan, 0.0, np.random.default_rng(2))
    step = as_ranks_see(plan, costs, np.random.default_rng(1), 0.0)
    found = measured_costs(plan, [step], [(10.0, 0.5)], 1.0)
    assert found.seconds[Kind.I, 0] == pytest.approx(costs.seconds[Kind.I, 0])
    assert found.overlap == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", FEW)
def test_a_measured_step_is_a_timeline_like_the_simulated_one(name: str) -> None:
    plan, dice = plan_of(name, 4, 8, step=True), np.random.default_rng(1)
    costs = true_costs(plan, 0.5e-3, dice)
    expected = simulate(plan, costs)
    measured = measured_timeline(plan, as_ranks_see(plan, costs, dice, 0.0), costs)
    assert measured.start_s.min() == 0
    compute = np.isin(plan.ops[:, 0], COMPUTE)
    for mine, true in ((measured.start_s, expected.start_s), (measured.end_s, expected.end_s)):
        assert mine[compute] == pytest.approx(true[compute], abs=1e-9)
    assert measured.step_s == pytest.approx(expected.step_s)
    assert measured.bubble_sync == pytest.approx(expected.bubble_sync)
    assert measured.peak_bytes == pytest.approx(expected.peak_bytes)
    assert (measured.end_s >= measured.start_s).all()
    assert Timeline.from_json(measured.to_json()).step_s == pytest.approx(measured.step_s)
    late = np.flatnonzero(compute & (measured.waited_for >= 0))
    assert len(late)
    assert (measured.waited_for[late] == expected.waited_for[late]).mean() > 0.9


# -- what a stage keeps ------------------------------------------------------------------------------------------------


class Made(TorchDispatchMode):
    """Every storage that any operation makes, and which of them are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        old = {t.untyped_storage()._cdata for t in [*args, *(kwargs or {}).values()] if isinstance(t, Tensor)}
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in old:
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return found

    def alive_bytes(self) -> int:
        return sum(size for ref, size in self.seen.values() if not ref.expired())


def counted(stage: Stage, x: Tensor, target: Tensor | None, grad: Tensor | None) -> tuple[float, float]:
    """What ``probe`` should say, from the storages that are really alive after F and after I."""
    for micro in (0, 1):  # caches fill, gradients get their memory
        stage.forward(micro, x.clone(), target)
        stage.backward_input(micro, grad)
        stage.backward_weight(micro)
    x, grad = x.clone(), None if grad is None else grad.clone()
    watched = StorageWeakRef(x.untyped_storage()), x.untyped_storage().nbytes()
    with Made() as made:
        made.seen[0] = watched
        stage.forward(2, x, target)
        stage.losses.clear()
        del x
        saved = made.alive_bytes()
        if grad is not None:
            made.seen[1] = StorageWeakRef(grad.untyped_storage()), grad.untyped_storage().nbytes()
        stage.backward_input(2, grad)
        del grad
        kept = made.alive_bytes()
        stage.backward_weight(2)
        assert made.alive_bytes() == 0
    return float(saved), kept / saved


def test_probe_of_a_plain_stage_by_hand() -> None:
    stage = Stage(blocks([1], 3)[1], False, False, (ROWS, WIDTH), 1.0)
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    saved, share = probe(stage, [x], None)
    inner = 20
    # linear: x; norm: its input, mean, 1/std; tanh and second linear: one and the same tensor
    assert saved == 8 * (ROWS * WIDTH + ROWS * (inner + 2) + ROWS * inner)
    # linears: input and gradient of the output; norm: the gradients of its weight and bias
    assert share * saved == pytest.approx(8 * (ROWS * (WIDTH + inner) + 2 * inner + ROWS * (inner + WIDTH)))
    assert all(p.grad is None for p in stage.module.parameters())
    assert not stage.losses
    assert not stage._kept
    assert not stage._pending


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2", "tiny-qwen3"])
@pytest.mark.parametrize("part", ["first", "middle", "last"])
def test_probe_counts_what_is_alive(model: str, part: str) -> None:
    config, first, last = load_config(model), part == "first", part == "last"
    layers = {"first": range(0, 2), "middle": range(2, 4), "last": range(6, 8)}[part]
    stage = Stage(DecoderStage(config, layers, first, last), first, last, (2, 16, config.hidden_size), 0.5)
    maker = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (2, 16), generator=maker)
    x = ids if first else torch.randn(2, 16, config.hidden_size, generator=maker)
    target, grad = (ids, None) if last else (None, torch.randn(2, 16, config.hidden_size, generator=maker))
    saved, share = probe(stage, [x], None if target is None else [target])
    true_saved, true_share = counted(stage, x, target, grad)
    assert saved == pytest.approx(true_saved, rel=0.01)
    assert share == pytest.approx(true_share, rel=0.01)


def test_a_stage_without_layers_can_be_probed(tmp_path: Path) -> None:
    spec_in(tmp_path)
    stage = Stage(
        DecoderStage(load_config(tmp_path / "config.json"), range(2, 2), False, False), False, False, (2, 4, 8), 1
    )
    assert probe(stage, [torch.zeros(2, 4, 8)], None)[0] <= 2 * 4 * 8 * 4


# -- a real run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sends", ["overlapped", pytest.param("blocking", marks=pytest.mark.slow)])
def test_a_real_run_reports_predicted_beside_measured(
    sends: str, tmp_path: Path, record_property: Any, capsys: Any
) -> None:
    """No assertion on times: they are noisy here; the figures are shown with ``pytest -s``."""
    flags = {"steps": 20, "schedule": "zb-h1", "held_out_sequences": 0, "checkpoint_every": 0}
    folder, spec = prepared(tmp_path, {"hidden_size": 64, "intermediate_size": 128}, batch=64, sends=sends, **flags)
    assert run_forked(folder, spec).codes == [0, 0]
    result = json.loads((folder / "result.json").read_text())
    predicted, measured = (Timeline.from_json((folder / f"{n}.json").read_text()) for n in ("predicted", "measured"))
    assert (predicted.plan.ops == measured.plan.ops).all()
    assert result["predicted_step_s"] > 0
    assert result["measured_step_s"] > 0
    peaks = [float(curve.buffer_bytes.max() / 2048 / spec.sequences_per_micro_batch) for curve in predicted.memory]
    assert peaks == result["peak_boundary_tensors"]
    assert measured.peak_bytes == pytest.approx(predicted.peak_bytes)
    with capsys.disabled():
        both = (result[f"{which}_step_s"] * 1e3 for which in ("predicted", "measured"))
        print("\n  predicted {:.2f} ms, measured {:.2f} ms".format(*both))
