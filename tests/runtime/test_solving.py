"""A run that looks for a better order on its way: it changes to it between two steps, and trains the same."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import launched, losses, prepared, rows, run_forked, spec_in

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.lower import add_sends, add_step
from penstock.runtime import solving
from penstock.runtime.run import plan_of
from penstock.runtime.trained import CALIBRATION_STEPS, WARM_STEPS
from penstock.schedules import build

SEARCHED = WARM_STEPS + CALIBRATION_STEPS
STEPS = SEARCHED + 6


def one_by_one(place: Placement, micros: int) -> Plan:
    """The worst of all orders: a micro-batch starts when the one before is done."""
    forth = [[(Kind.F, s) for s in place.on(rank)] for rank in range(place.ranks)]
    back = [[(kind, s) for s in reversed(place.on(rank)) for kind in (Kind.I, Kind.W)] for rank in range(place.ranks)]
    lanes = ([(k, s, i) for i in range(micros) for k, s in fs + bs] for fs, bs in zip(forth, back, strict=True))
    return Plan("solve", place, micros, tuple(map(Lane.of, lanes)))


def begun_badly(where: Path, **flags: object) -> tuple[Path, object]:
    """A run that searches, and begins with the worst order."""
    where.mkdir()
    folder, spec = prepared(
        where, **{"schedule": "zb-h1", "steps": STEPS, "solve_s": 0.3, "checkpoint_every": 0, **flags}
    )
    validates = spec.strategy.optimizer_step == "post-validation"
    bad = add_step(add_sends(one_by_one(Placement.loop(2), 4)), "after" if validates else "before")
    (folder / "plan.json").write_text(bad.to_json())
    job = folder / "job.toml"
    job.write_text(job.read_text().replace('"zb-h1"', '"solve"'))
    return folder, spec


def instead_of_a_process(poll: Callable[[Path], int | None], folder: Path) -> Callable[[int], None]:
    """A search whose process is not one, so that it ends when the test wants."""

    def popen(command: list[str], env: object) -> SimpleNamespace:
        def kill() -> None:
            (folder / "killed").touch()

        return SimpleNamespace(poll=lambda: poll(folder), kill=kill, wait=lambda: None)

    def before(rank: int) -> None:
        solving.subprocess = SimpleNamespace(Popen=popen)  # type: ignore[attr-defined]

    return before


def solved(folder: Path) -> int:
    """The search itself, done while the ranks wait."""
    if not (folder / solving.ANSWER).exists():
        solving._solve(folder)
    return 0


@pytest.mark.parametrize("optimizer_step", ["barrier", pytest.param("post-validation", marks=pytest.mark.slow)])
def test_the_order_changes_and_the_losses_do_not(optimizer_step: str, tmp_path: Path) -> None:
    folder, spec = begun_badly(tmp_path / "solve", optimizer_step=optimizer_step)
    begun = Plan.from_json((folder / "plan.json").read_text())
    ended = run_forked(folder, spec, instead_of_a_process(solved, folder))
    assert ended.codes == [0, 0], ended.text
    result = json.loads((folder / "result.json").read_text())
    found = result["solve"]
    assert found["changed"]
    assert found["step"] == SEARCHED
    assert found["bound_s"] <= found["predicted_s"] < 0.9 * found["predicted_before_s"]
    assert found["measured_s"] == result["measured_step_s"]
    assert result["judged_steps"] <= STEPS - SEARCHED
    assert any(f"step {SEARCHED}: another order from here on, predicted" in line for line in ended.said)
    plan = Plan.from_json((folder / "plan.json").read_text())
    check(plan)
    assert plan.barrier == begun.barrier == (optimizer_step == "barrier")
    assert plan.lanes != begun.lanes

    same, spec = prepared(tmp_path, schedule="zb-h1", steps=STEPS, optimizer_step=optimizer_step)
    assert run_forked(same, spec).codes == [0, 0]
    assert losses(folder) == losses(same)


def test_an_order_that_gains_nothing_is_left_alone(tmp_path: Path) -> None:
    folder, spec = begun_badly(tmp_path / "solve")

    def found_the_same(folder: Path) -> int:
        told = json.loads((folder / solving.COSTS).read_text())
        bare = solving._bare(Plan.from_dict(told["plan"])).to_dict()
        answer = {"plan": bare, "predicted_before_s": 1.0, "predicted_s": 0.999, "bound_s": 0.9}
        (folder / solving.ANSWER).write_text(json.dumps(answer))
        return 0

    before = (folder / "plan.json").read_text()
    ended = run_forked(folder, spec, instead_of_a_process(found_the_same, folder))
    assert ended.codes == [0, 0], ended.text
    assert any("no order found is 0.3% faster than this one" in line for line in ended.said)
    assert not json.loads((folder / "result.json").read_text())["solve"]["changed"]
    assert (folder / "plan.json").read_text() == before


@pytest.mark.parametrize(
    ("poll", "words", "killed"),
    [
        (lambda folder: 1, "the search for a better order ended without an answer", False),
        (lambda folder: None, "training ended before the search for a better order", True),
    ],
    ids=["fails", "takes too long"],
)
def test_a_search_without_an_answer_harms_nothing(
    poll: Callable[[Path], int | None], words: str, killed: bool, tmp_path: Path
) -> None:
    folder, spec = begun_badly(tmp_path / "solve")
    ended = run_forked(folder, spec, instead_of_a_process(poll, folder))
    assert ended.codes == [0, 0], ended.text
    assert any(words in line for line in ended.said)
    assert (folder / "killed").exists() == killed
    assert len(rows(folder)) == STEPS
    assert "solve" not in json.loads((folder / "result.json").read_text())


def test_an_answer_at_the_last_step_comes_too_late(tmp_path: Path) -> None:
    """Else there would be no step of the new order to report."""
    folder, spec = begun_badly(tmp_path / "solve", steps=SEARCHED)
    before = (folder / "plan.json").read_text()
    ended = run_forked(folder, spec, instead_of_a_process(solved, folder))
    assert ended.codes == [0, 0], ended.text
    assert (folder / "plan.json").read_text() == before
    assert "solve" not in json.loads((folder / "result.json").read_text())


def test_an_answer_of_before_stays_until_there_is_another(tmp_path: Path) -> None:
    folder, spec = begun_badly(tmp_path / "solve")
    (folder / solving.ANSWER).write_text("{}")
    assert run_forked(folder, spec, instead_of_a_process(lambda folder: 1, folder)).codes == [0, 0]
    assert (folder / solving.ANSWER).read_text() == "{}"


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_run_begins_with_the_best_named_order(chunks: int, tmp_path: Path) -> None:
    spec = spec_in(tmp_path, {"num_hidden_layers": 8}, schedule="solve", chunks=chunks)
    plan = plan_of(spec)
    check(plan)
    assert plan.name == "solve"
    assert plan.placement == (Placement.vee(2) if chunks == 2 else Placement.loop(2, chunks))
    known = {1: "zb-h1", 2: "zb-v", 4: "interleaved-zb"}[chunks]
    equal = Costs.uniform(plan.placement)
    assert simulate(plan, equal).makespan_s <= simulate(build(known, 2, 4, chunks), equal).makespan_s


def test_a_resumed_run_begins_with_what_was_found(tmp_path: Path) -> None:
    found = one_by_one(Placement.loop(2), 4)
    flags = {"schedule": "solve", "out": str(tmp_path), "resume": True}
    (tmp_path / solving.ANSWER).write_text(json.dumps({"plan": found.to_dict()}))
    assert solving.first_plan(spec_in(tmp_path, **flags)).lanes == found.lanes
    assert solving.first_plan(spec_in(tmp_path, **flags, batch=16, micro_batches=8)).micros == 8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"slices": 2}, "slices=2 does not go with schedule=solve"),
        ({"recompute": "full"}, "recompute=full does not go with schedule=solve"),
        ({"vocabulary": 2}, "vocabulary=2 does not go with schedule=solve"),
    ],
)
def test_what_the_search_does_not_know_is_refused(flags: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        plan_of(spec_in(tmp_path, schedule="solve", **flags))


@pytest.mark.slow
@pytest.mark.parametrize("searched", [True, False])
def test_a_process_beside_the_ranks(searched: bool, tmp_path: Path) -> None:
    folder, _ = begun_badly(tmp_path / "solve", steps=1_000_000, solve_s=0.3 if searched else 600.0)
    plan, run = (folder / "plan.json").read_text(), launched(folder)
    if searched:
        run.until(lambda: (folder / "plan.json").read_text() != plan)
        check(Plan.from_json((folder / "plan.json").read_text()))
    else:
        run.until(lambda: (folder / solving.COSTS).exists() and len(run.alive()) > 3)
    for pid in run.alive():
        if b"penstock.runtime.solving" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while run.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    run.wait()
