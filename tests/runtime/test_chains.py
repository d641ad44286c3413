"""Whole runs of plans with several chains, replicas, fused blocks and uneven placements learn what one rank learns."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from pipes import ROWS, WIDTH, blocks_on, executor_of, plan_of, rows
from typing import Any

import pytest
import torch
from ranks import on_ranks
from runs import losses, plan_for, prepared, run_forked, spec_in
from runs import rows as metrics
from torch.distributed.checkpoint import FileSystemReader

from penstock.core.lane import Lane
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine import check
from penstock.lower import add_sends
from penstock.runtime import worker
from penstock.runtime.run import plan_of as plan_of_run
from penstock.runtime.train import Trainer
from penstock.schedules import build

RUN = {"steps": 4, "clip_norm": 0.1, "checkpoint_every": 4}


def trained(where: Path, before: Callable[[int], None] | None = None, tied: bool = True, **flags: Any) -> Path:
    where.mkdir(exist_ok=True)
    folder, spec = prepared(where, {"tie_word_embeddings": tied}, **{**RUN, **flags})
    ended = run_forked(folder, spec, before)
    assert set(ended.codes) == {0}, ended.text
    return folder


def keep_copies(folder: Path) -> Callable[[int], None]:
    """Ranks write their weights by stage to the folder at the end."""

    def before(rank: int) -> None:
        run = worker._run

        def then_write(trainer: Trainer, *rest: Any) -> None:
            run(trainer, *rest)
            for stage, module in trainer.modules.items():
                torch.save(dict(module.named_parameters()), folder / f"stage{stage}.pt")

        worker._run = then_write

    return before


@pytest.mark.parametrize(
    ("schedule", "ranks", "chunks", "micros", "tied"),
    [
        pytest.param("chimera", 2, 1, 4, True, marks=pytest.mark.slow),
        pytest.param("bitpipe", 2, 2, 4, True, marks=pytest.mark.slow),
        pytest.param("dualpipe", 2, 1, 4, False, marks=pytest.mark.slow),
        pytest.param("dualpipe", 2, 1, 4, True, marks=pytest.mark.slow),
        ("dualpipev", 2, 2, 4, True),
        ("chimera", 4, 1, 4, True),
    ],
)
def test_it_learns_what_one_rank_learns(
    schedule: str, ranks: int, chunks: int, micros: int, tied: bool, tmp_path: Path
) -> None:
    """Losses and gradient norms agree, replicas and tied copies stay equal to the last bit."""
    alone = trained(tmp_path / "alone", tied=tied, ranks=1, micro_batches=micros)
    flags = {"schedule": schedule, "ranks": ranks, "chunks": chunks, "micro_batches": micros}
    folder = trained(tmp_path / "both", keep_copies(tmp_path), tied=tied, **flags)
    assert losses(folder) == pytest.approx(losses(alone), abs=1e-5)
    norms = [[row["gradient_norm"] for row in metrics(each)] for each in (folder, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    held_out = [json.loads((each / "result.json").read_text())["held_out_loss"] for each in (folder, alone)]
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    copies: dict[str, torch.Tensor] = {}
    again = 0
    for file in tmp_path.glob("stage*.pt"):
        for name, value in torch.load(file).items():
            again += name in copies
            assert torch.equal(copies.setdefault(name, value), value), name
    assert again or schedule == "dualpipev"
    predicted, measured = (Timeline.from_json((folder / f"{n}.json").read_text()) for n in ("predicted", "measured"))
    assert (measured.end_s >= measured.start_s).all()
    first = measured.plan.fused.nonzero()[0]
    assert (measured.start_s[first] == measured.start_s[first + 1]).all()
    assert (measured.end_s[first] == measured.end_s[first + 1]).all()
    assert predicted.step_s > 0


@pytest.mark.parametrize(
    "there", [{"ranks": 1}, pytest.param({"ranks": 2, "schedule": "bitpipe", "chunks": 2}, marks=pytest.mark.slow)]
)
def test_a_checkpoint_holds_one_copy_and_loads_elsewhere(there: dict[str, Any], tmp_path: Path) -> None:
    longer, where = {"steps": 8}, tmp_path / "moved"
    expected = losses(trained(tmp_path / "alone", ranks=1, **longer))
    folder = trained(where, schedule="chimera", ranks=2, **longer)
    saved = FileSystemReader(folder / "checkpoints" / "step-00000004").read_metadata()
    assert all(len(each.chunks) == 1 for each in saved.state_dict_metadata.values())
    shutil.rmtree(folder / "checkpoints" / "step-00000008")
    flags = {**RUN, **longer, **there, "resume": True}
    folder, spec = prepared(where, {"tie_word_embeddings": True}, **flags)
    assert set(run_forked(folder, spec).codes) == {0}
    assert losses(folder) == pytest.approx(expected, abs=1e-5)


def uneven() -> Plan:
    """Rank 0 holds three stages, rank 1 one; two of them follow each other on one rank."""

    def lane(r: int, p: int, m: int, v: int) -> list[str]:
        mine = [0, 2, 3] if r == 0 else [1]
        return [f"{s}F{i}" for i in range(m) for s in mine] + [f"{s}B{i}" for i in range(m) for s in reversed(mine)]

    return build(lane, 2, 4, placement=Placement((0, 1, 0, 0)))


def test_uneven_numbers_of_stages_from_a_file(tmp_path: Path) -> None:
    plan = uneven()
    check(plan)
    file = tmp_path / "uneven.json"
    file.write_text(plan.to_json())
    spec = spec_in(tmp_path, ranks=2, schedule=str(file), **RUN)
    lowered = plan_of_run(spec)
    folder, spec = prepared(tmp_path, ranks=2, **RUN)
    (folder / "plan.json").write_text(lowered.to_json())
    ended = run_forked(folder, spec)
    assert set(ended.codes) == {0}, ended.text
    alone = trained(tmp_path / "alone", tied=False, ranks=1)
    assert losses(folder) == pytest.approx(losses(alone), abs=1e-5)


def test_uneven_numbers_of_stages_from_a_function(tmp_path: Path) -> None:
    """The file says where its stages live; the job how many layers each of them has."""
    schedule = Path(__file__).parents[2] / "examples" / "uneven.py"
    flags = {"schedule": str(schedule), "ranks": 2, "stage_layers": (1, 1, 2)}
    spec = spec_in(tmp_path, **flags, **RUN)
    assert plan_of_run(spec) == plan_for(spec)
    assert plan_for(spec).placement.rank_of == (0, 0, 1)
    folder = trained(tmp_path / "uneven", tied=False, **flags)
    assert losses(folder) == pytest.approx(losses(trained(tmp_path / "alone", tied=False, ranks=1)), abs=1e-5)


def test_what_a_run_needs_of_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(uneven().to_json())
    with pytest.raises(ValueError, match=r"chunks=2, but the plan in .* unequal numbers of stages; leave chunks out"):
        plan_of_run(spec_in(tmp_path, ranks=2, chunks=2, schedule=str(file)))
    file.write_text(add_sends(build("chimera", 2, 4)).to_json())
    with pytest.raises(ValueError, match="never sums the gradients of replicas; add REDUCE_GRAD"):
        plan_of_run(spec_in(tmp_path, ranks=2, schedule=str(file)))
    twice = Placement((0, 1), part_of=(0, 0))
    file.write_text(build("1f1b", 2, 4, placement=twice).to_json())
    with pytest.raises(ValueError, match=r"has a chain of model parts \[0, 0\]; each chain must go through \[0\]"):
        plan_of_run(spec_in(tmp_path, ranks=2, schedule=str(file)))


# -- the executor ------------------------------------------------------------------------------------------------------


def test_a_user_may_overlap_the_halves_of_a_block() -> None:
    """The halves are there to be run in any order, once what they need has arrived."""
    plan = plan_of("dualpipev", 2, 8)

    def work(rank: int, backward_first: bool) -> tuple[int, list[torch.Tensor]]:
        calls = 0

        def overlap(forward: Callable[[], None], backward: Callable[[], None]) -> None:
            nonlocal calls
            calls += 1
            for half in (backward, forward) if backward_first else (forward, backward):
                half()

        modules = blocks_on(plan, rank)
        executor_of(plan, rank, modules, (ROWS, WIDTH), overlap=overlap).run(*rows(8))
        return calls, [p.grad for module in modules.values() for p in module.parameters()]

    found = [on_ranks(2, lambda rank, way=way: work(rank, way)) for way in (False, True)]
    for rank, ((calls, mine), (_, other)) in enumerate(zip(*found, strict=True)):
        assert calls == plan.lanes[rank].fused.sum() > 0
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


SUMS = " 0REDUCE_GRAD 2REDUCE_GRAD", " 1REDUCE_GRAD 3REDUCE_GRAD"
CROSSED = " 0REDUCE_GRAD 3REDUCE_GRAD", " 2REDUCE_GRAD 1REDUCE_GRAD"
ONCE = ("0F0 2F1 0B0 2B1" + SUMS[0], "1F0 1B0 3F1 3B1" + SUMS[1])
CROSSED_ONCE = ("0F0 3F1 3B1 0B0" + CROSSED[0], "2F1 1F0 1B0 2B1" + CROSSED[1])


def again(lanes: tuple[str, ...]) -> tuple[str, ...]:
    """The same once more with micro-batches 2 and 3."""
    return tuple(f"{lane} " + re.sub(r"([FB])(\d)\b", lambda op: f"{op[1]}{int(op[2]) + 2}", lane) for lane in lanes)


@pytest.mark.parametrize(
    ("rank_of", "lanes"),
    [
        ((0, 1, 0, 1), ONCE),
        ((0, 1, 0, 1), again(ONCE)),
        ((0, 1, 1, 0), CROSSED_ONCE),
        ((0, 1, 1, 0), again(CROSSED_ONCE)),
    ],
    ids=["on one rank", "on one rank, twice", "on two", "on two, twice"],
)
def test_replicas_are_summed_wherever_they_live(rank_of: tuple[int, ...], lanes: tuple[str, ...]) -> None:
    """Replicas that share a rank or do not, and stages summed more than once in a step: the gradients of one model."""
    micros = "".join(lanes).count("F") // 2
    place = Placement(rank_of, (-1, 0, -1, 2), (0, 1, 0, 1))
    plan = add_sends(Plan("both", place, micros, tuple(map(Lane.parse, lanes))))
    check(plan)

    def work(rank: int) -> dict[int, list[torch.Tensor]]:
        modules = blocks_on(plan, rank)
        executor_of(plan, rank, modules, (ROWS, WIDTH)).run(*rows(micros))
        return {s: [p.grad for p in module.parameters()] for s, module in modules.items()}

    found = {s: grads for part in on_ranks(2, work) for s, grads in part.items()}
    model = blocks_on(build("gpipe", 1, micros, placement=Placement((0, 0))), 0)
    for x, target in zip(*rows(micros), strict=True):
        (model[1](model[0](x), target) / micros).backward()
    for stage, grads in found.items():
        expected = [p.grad for p in model[plan.placement.part_of[stage]].parameters()]
        same = found[plan.placement.part_of[stage]]
        assert all(torch.equal(a, b) for a, b in zip(grads, same, strict=True))
        assert all(torch.allclose(a, b, rtol=0, atol=1e-13) for a, b in zip(grads, expected, strict=True))
