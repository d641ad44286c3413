"""Runs that save memory: exact gradients, and predictions of their memory that are what is alive."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from pipes import plan_of
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from runs import checkpoints, losses, rows, run_forked, spec_in
from test_loss_curve import TIED
from test_measure import Made
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.api import show
from penstock.core.costs import Costs
from penstock.core.job import RunSpec
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine import check, simulate
from penstock.lower import offload, recompute
from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.execute import Executor
from penstock.runtime.keeping import Keeping
from penstock.runtime.measure import probe
from penstock.runtime.measure_kept import probe_shares
from penstock.runtime.messages import Boundary
from penstock.runtime.recompute import DEAR, Recompute
from penstock.runtime.run import plan_of as plan_of_run
from penstock.runtime.run import prepare
from penstock.runtime.stage import Stage
from penstock.runtime.transport import Links
from penstock.schedules import build

SEQ = 16
PARTS = {"first": range(0, 2), "middle": range(2, 4), "last": range(6, 8)}


def stage_of(model: str, part: str, dtype: torch.dtype = torch.float64) -> Stage:
    first, last = part == "first", part == "last"
    config = load_config(model)
    module = DecoderStage(config, PARTS[part], first, last, dtype=dtype)
    return Stage(module, first, last, (2, SEQ, config.hidden_size), 0.5)


def data(stage: Stage) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, target and the gradient of the output."""
    maker = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (2, SEQ), generator=maker)
    x, grad = (torch.randn(stage._carries, generator=maker, dtype=torch.float64) for _ in range(2))
    return ids if stage.first else x, ids, None if stage.last else grad


def gradients(stage: Stage) -> list[Tensor]:
    found = [param.grad.clone() for param in stage.module.parameters() if param.grad is not None]
    stage.module.zero_grad(set_to_none=True)
    return found


class Ran(TorchDispatchMode):
    """How often each operation has run."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("split", [False, True], ids=["B", "I and W"])
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gpt2", "tiny-qwen3"])
@pytest.mark.parametrize("part", PARTS)
def test_selective_recompute_gives_the_same_bits_without_running_what_is_dear(
    model: str, part: str, split: bool
) -> None:
    stage = stage_of(model, part)
    x, target, grad = data(stage)
    target = target if stage.last else None

    def backward() -> Tensor | None:
        if not split:
            return stage.backward(0, grad)
        found = stage.backward_input(0, grad)
        stage.backward_weight(0)
        return found

    out = stage.forward(0, x.clone(), target)
    usual = [out, backward(), *gradients(stage)]
    again = Recompute(stage, selective=True)
    with Ran() as first:
        out = again.forward(0, x.clone(), target)
    with Ran() as second:
        again.again(0)
    found = [out, backward(), *gradients(stage)]
    assert all(torch.equal(a, b) for a, b in zip(usual, found, strict=True) if a is not None)
    assert not out.requires_grad
    assert [loss.requires_grad for loss in stage.losses] == [False] * (2 * stage.last)
    dear = {func: n for func, n in first.count.items() if func in DEAR}
    assert sum(dear.values()) >= 10  # at least four products and one attention a layer
    assert not set(second.count) & set(DEAR)


def test_a_second_forward_that_goes_another_way_is_refused() -> None:
    class Fickle(torch.nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.tanh() if self.calls == 1 else super().forward(x).tanh()

    stage = Stage(Fickle(4, 4), False, False, (2, 4), 1.0, split=False)
    again = Recompute(stage, selective=True)
    again.forward(0, torch.randn(2, 4))
    with pytest.raises(RuntimeError, match=r"runs aten\.addmm\.default where the first ran None; take full recompute"):
        again.again(0)


# -- what is alive -------------------------------------------------------------------------------------------------

WAYS: dict[str, tuple[Callable[[Plan], Plan], Keeping]] = {
    "all kept": (lambda plan: plan, Keeping()),
    "full": (recompute, Keeping()),
    "selective": (recompute, Keeping(selective=True)),
    "offload": (lambda plan: offload(plan, copies(plan)), Keeping()),
    "half of it": (lambda plan: offload(plan, copies(plan)), Keeping(host_share=0.5)),
    "selective, moved": (lambda plan: offload(recompute(plan), copies(plan)), Keeping(selective=True)),
    "some made again": (lambda plan: recompute(plan, pairs=[(0, 1), (1, 2), (0, 3)]), Keeping(selective=True)),
}
QUICK = ("full", "half of it", "selective, moved")


def copies(plan: Plan) -> Costs:
    return Costs.uniform(plan.placement, other_s={Kind.OFFLOAD: 0.1, Kind.FETCH: 0.1})


def decoder_executor(plan: Plan, rank: int, keeping: Keeping) -> Executor:
    config, last = load_config("tiny-llama"), rank == plan.placement.ranks - 1
    module = DecoderStage(config, PARTS["last" if last else "first"], rank == 0, last)
    carries = (2, SEQ, config.hidden_size)
    stages = {rank: Stage(module, rank == 0, last, carries, 1 / plan.micros)}
    boundary = Boundary(carries, torch.float32, torch.device("cpu"))
    return Executor(plan, rank, stages, Links(plan, rank), boundary, keeping=keeping)


class Alive(Made):
    """As ``Made``, but by what the storages hold now: what has moved to the host holds nothing."""

    def alive_bytes(self) -> int:
        alive = [ref for ref, _ in self.seen.values() if not ref.expired()]
        return sum(torch.UntypedStorage._new_with_weak_ptr(ref.cdata).nbytes() for ref in alive)


def alive_bytes(
    plan: Plan, rank: int, keeping: Keeping
) -> tuple[float, tuple[float, float], tuple[float, float], bool]:
    """Most bytes alive after an op of a step, copies done; what the probes say; whether all are gone after it."""
    executor = decoder_executor(plan, rank, keeping)
    maker = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, 256, (2, SEQ), generator=maker) for _ in range(plan.micros)]
    executor.run(ids, ids)  # caches fill, gradients get their memory
    stage, alive = executor.stages[rank], [0]
    carried = ids[0] if stage.first else torch.zeros(stage._carries)
    saved = {rank: probe(stage, [carried], ids[:1] if stage.last else None)}
    shares = probe_shares(executor.activations, saved, ids, ids)
    executor.run(ids, ids)  # gradients once more: the probe has let them go
    kept = [one._kept for one in executor.activations.again.values()]
    with Alive() as made:

        def watched(action: Callable[[], None]) -> Callable[[], None]:
            def then_count() -> None:
                action()
                list(executor.activations.finish())
                executor.take_losses()
                random = sum(state.nbytes for each in kept for one in each.values() for state in one.random)
                alive.append(made.alive_bytes() + random)

            return then_count

        executor._actions = [watched(action) for action in executor._actions]
        executor.run(ids, ids)
    return float(max(alive)), saved[rank], shares[rank], made.alive_bytes() == 0


@pytest.mark.parametrize("name", ["1f1b", pytest.param("gpipe", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "way", [*QUICK, *(pytest.param(way, marks=pytest.mark.slow) for way in sorted(WAYS.keys() - QUICK))]
)
def test_the_predicted_peak_is_what_is_alive(name: str, way: str) -> None:
    """On both of two processes; after every op, so that what a single op holds by itself does not count."""
    change, keeping = WAYS[way]
    plan = change(plan_of(name, 2, 6))
    check(plan)
    found = on_ranks(2, lambda rank: alive_bytes(plan, rank, keeping))
    saved, shares = np.array([one[1] for one in found]), np.array([one[2] for one in found])
    uniform = Costs.uniform(plan.placement, link_s=0.1)  # copies take no time: here all wait for them
    costs = Costs(
        *(uniform.seconds, uniform.hop_s, saved[:, 0], saved[:, 1]),
        boundary_bytes=np.full(2, 2.0 * SEQ * load_config("tiny-llama").hidden_size * 4),
        kept_share=shares[:, 0],
        host_share=shares[:, 1],
    )
    predicted = simulate(plan, costs).peak_bytes
    assert [one[0] for one in found] == pytest.approx(predicted, rel=0.03)  # one message more or less
    assert all(one[3] for one in found)
    if way == "full":
        assert (shares[:, 0] < 0.1).all()
    if "selective" in way:
        assert ((shares[:, 0] > 0.3) & (shares[:, 0] < 0.7)).all()
    if way == "half of it" and name == "gpipe":
        assert shares[:, 1] == pytest.approx(0.5, abs=0.05)


# -- whole runs ----------------------------------------------------------------------------------------------------


def run(where: Path, config: dict[str, Any] | None = None, **flags: Any) -> Path:
    """A run in two processes, planned as the command does."""
    where.mkdir(exist_ok=True)
    spec = spec_in(where, config, out=str(where / "run"), **{"checkpoint_every": 0, **flags})
    folder = prepare(spec)
    ended = run_forked(folder, spec)
    assert ended.codes == [0] * spec.strategy.ranks, ended.said
    return folder


def kinds_in(folder: Path) -> set[Kind]:
    plan = Plan.from_json((folder / "plan.json").read_text())
    return set(map(Kind, plan.ops[:, 0].tolist()))


SAVING: dict[str, dict[str, Any]] = {
    "full": {"recompute": "full"},
    "selective": {"recompute": "selective"},
    "one stage": {"recompute": "selective,stages=1"},
    "to a limit": {"recompute": "full,memory=0.75"},
    "offload": {"offload": "1,time=0.1"},
    "half": {"offload": "0.5,time=0.1,stages=0"},
    "both": {"recompute": "selective,keep=1", "offload": "1,time=0.1"},
}


@pytest.mark.parametrize(
    ("schedule", "saving"),
    [
        ("zb-h1", "both"),
        *(
            pytest.param("gpipe", saving, marks=pytest.mark.slow)
            for saving in ("full", "selective", "one stage", "half", "offload", "both", "to a limit")
        ),
        *(pytest.param("zb-h1", saving, marks=pytest.mark.slow) for saving in ("full", "selective")),
    ],
)
def test_a_run_that_saves_memory_learns_the_same(schedule: str, saving: str, tmp_path: Path) -> None:
    usual = run(tmp_path / "usual", schedule=schedule)
    saved = run(tmp_path / "saved", schedule=schedule, **SAVING[saving])
    assert losses(saved) == losses(usual)
    assert [row["gradient_norm"] for row in rows(saved)] == [row["gradient_norm"] for row in rows(usual)]
    asked = {"recompute": {Kind.R}, "offload": {Kind.OFFLOAD, Kind.FETCH}}
    assert kinds_in(saved) - kinds_in(usual) == set().union(*(asked[key] for key in SAVING[saving]))
    result, before = (json.loads((one / "result.json").read_text()) for one in (saved, usual))
    costs = Costs.from_dict(json.loads((saved / "costs.json").read_text()))
    for kind in kinds_in(saved) & {Kind.R, Kind.OFFLOAD, Kind.FETCH}:
        assert costs.seconds[kind].any()
    assert (costs.kept_share > 0).any() == ("recompute" in SAVING[saving])
    predicted = Timeline.from_json((saved / "predicted.json").read_text())
    assert predicted.peak_bytes.tolist() == result["predicted_peak_bytes"]
    if "offload" not in SAVING[saving]:  # which copies are under way at the peak depends on the moment
        assert result["measured_peak_bytes"] == pytest.approx(result["predicted_peak_bytes"])
        saves = min(np.divide(result["measured_peak_bytes"], before["measured_peak_bytes"]))
        assert saves < 0.95 or schedule != "gpipe"


@pytest.mark.parametrize("saving", [pytest.param("selective", marks=pytest.mark.slow), "both"])
def test_it_resumes(saving: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", schedule="1f1b", **SAVING[saving])
    folder = run(tmp_path / "parts", schedule="1f1b", steps=4, checkpoint_every=2, **SAVING[saving])
    spec = spec_in(tmp_path / "parts", out=str(folder), schedule="1f1b", resume=True, **SAVING[saving])
    prepare(spec)
    assert run_forked(folder, spec).codes == [0, 0]
    assert checkpoints(folder)[-1] == 6
    # the learning rate of the first steps is that of a run of four
    assert len(losses(folder)) == len(losses(whole)) == 6
    assert losses(folder)[6] == pytest.approx(losses(whole)[6], rel=0.05)


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        (TIED["tied"], {"schedule": "gpipe", "vocabulary": 1}),
        pytest.param(None, {"schedule": "chimera"}, marks=pytest.mark.slow),
        pytest.param(None, {"schedule": "interleaved", "chunks": 2}, marks=pytest.mark.slow),
        pytest.param(None, {"schedule": "dualpipev", "chunks": 2}, marks=pytest.mark.slow),
    ],
    ids=["split vocabulary", "replicas", "chunks", "fused blocks"],
)
def test_with_other_ways_to_train(config: dict[str, Any] | None, flags: dict[str, Any], tmp_path: Path) -> None:
    usual = run(tmp_path / "usual", config, **flags)
    saved = run(tmp_path / "saved", config, **flags, recompute="selective", offload="1,time=0.05,trips=1")
    assert {Kind.R, Kind.OFFLOAD} <= kinds_in(saved)
    assert losses(saved) == losses(usual)


@pytest.mark.slow
def test_stashed_weights_are_those_of_the_first_forward(tmp_path: Path) -> None:
    flags = {"schedule": "pipedream", "clip_norm": 0.0}
    usual = run(tmp_path / "usual", **flags)
    saved = run(tmp_path / "saved", **flags, recompute="full")
    assert Kind.R in kinds_in(saved)
    assert losses(saved) == losses(usual)


@pytest.mark.slow
def test_a_plan_in_a_file_may_be_recomputed_selectively(tmp_path: Path) -> None:
    usual = run(tmp_path / "usual")
    show(recompute(build("1f1b", 2, 4)), tmp_path / "plan.json")
    again = run(tmp_path / "again", schedule=str(tmp_path / "plan.json"), recompute="selective")
    assert losses(again) == losses(usual)
    shares = json.loads((again / "costs.json").read_text())["kept_share"]
    assert min(shares) > 0.2


def test_costs_of_an_earlier_run_make_the_plan(tmp_path: Path) -> None:
    """Their bytes say what a limit of memory asks: the first stage keeps next to nothing, the second its input."""
    first = run(tmp_path / "first")
    held = Costs.from_dict(json.loads((first / "costs.json").read_text())).saved_bytes
    assert held[1] < 2 * held[0]  # of 1F1B's ranks the first holds two micro-batches, the second one
    limit = (held[1] + 2 * held[0]) / 2 / held.sum()
    asked = {"recompute": f"full,memory={limit:.6f}", "costs": str(first / "costs.json")}
    plan = plan_of_run(spec_in(tmp_path / "first", **asked))
    made = [int(((plan.ops[:, 0] == Kind.R) & (plan.ops[:, 1] == s)).sum()) for s in (0, 1)]
    assert made[0] > 0
    assert made[1] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recompute": "slective"}, "recompute: what=slective is unknown; did you mean 'selective'?"),
        ({"recompute": "full,stagse=1"}, "recompute has no option 'stagse'; did you mean 'stages'?"),
        ({"recompute": "full,stages=5"}, "recompute: stage 5: stages count from 0 to 1"),
        ({"recompute": "full,memory=0.2"}, "with all it can recompute"),
        ({"offload": "2"}, "share=2 of the activations; give more than 0, at most 1"),
        ({"recompute": "full", "schedule": "seq1f1b"}, "has 4 slices, which need keys and values of others"),
        ({"offload": "1,time=0.01", "schedule": "seq1f1b"}, "has 4 slices, which share keys and values"),
        (
            {"offload": "1,time=0.01", "schedule": "pipedream", "clip_norm": 0.0},
            "keeps versions of weights, which micro-batches share; they cannot move",
        ),
        ({"costs": "1,1"}, "give four numbers"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_runs(flags: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_of_run(spec_in(tmp_path, **flags))


def test_a_lowered_plan_is_not_changed(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", steps=1)
    spec: RunSpec = spec_in(tmp_path / "run", schedule=str(folder / "plan.json"), recompute="full")
    with pytest.raises(ValueError, match="recompute=full, but plan '1f1b' has sends already, and no R"):
        plan_of_run(spec)


@pytest.mark.slow
def test_the_command_from_a_job_file_to_a_resumed_run(tmp_path: Path) -> None:
    """As users do: a job file with the keys, a flag on top, a report, and more steps from the checkpoint."""
    spec_in(tmp_path)
    job = tmp_path / "job.toml"
    job.write_text(
        f'model = "{tmp_path / "config.json"}"\n[job]\ndata = "{tmp_path / "text.txt"}"\nsteps = 6\nseq_length = 8\n'
        'held_out_sequences = 8\n[strategy]\nschedule = "gpipe"\nrecompute = "selective"\noffload = "0.5,time=0.1"\n'
        "[run]\ncheckpoint_every = 3\n"
    )

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "penstock", "run", *words, "--out", str(tmp_path / "out")]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    done = command(str(job), "--recompute", "selective,keep=1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"step time +[\d.]+ m?s +[\d.]+ m?s", done.stdout)
    assert 'recompute = "selective,keep=1"' in (tmp_path / "out" / "job.toml").read_text()
    assert {Kind.R, Kind.OFFLOAD, Kind.FETCH} <= kinds_in(tmp_path / "out")
    again = command("--resume", "--steps", "9")
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in rows(tmp_path / "out")] == list(range(1, 10))
    wrong = command(str(job), "--offload", "half")
    assert (wrong.returncode, wrong.stderr) == (2, "penstock: offload: share=half: give a number\n")
