"""The verb ``run``: a job to a trained model and a report, here or under torchrun."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.core.files import read_text, write_whole
from penstock.core.job import PLAN_FILES, SOLVE, RunSpec
from penstock.core.jobfile import make_spec, spec_to_toml
from penstock.core.model import Model
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.core.slicing import equal_time, rounded
from penstock.core.words import divisors
from penstock.cost import pricing
from penstock.engine.check import check
from penstock.lower import add_sends, add_step, algorithm_of, reduce_gradients, split_vocabulary
from penstock.runtime.keeping import with_less_memory
from penstock.schedules import build

RUNS = Path("runs")
"""Where numbered results folders are made."""


class RunError(Exception):
    """A run that did not come to its end; the ranks have said why. Holds the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the run ended with exit code {code}")
        self.code = code


def run(spec: RunSpec) -> dict[str, Any]:
    """Train as ``spec`` says, and write plan, metrics, checkpoints, timelines and report to its folder.

    Starts one process per rank on this machine; under torchrun (or Slurm with torchrun) it is one of the ranks, and
    every rank must call it and see the same folder.

    Returns:
        The content of ``result.json``; empty under torchrun on all ranks but the first.

    Raises:
        ValueError: the job cannot be done; nothing has been written.
        RunError: a rank failed; it has said why, and checkpoints are whole.

    Example:
        >>> from penstock import make_spec
        >>> result = run(make_spec(None, {"steps": 20, "schedule": "zb-h1"}))  # doctest: +SKIP
    """
    from penstock.runtime.report import report, summary

    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        folder = _run_as_rank(spec)
        if os.environ["RANK"] != "0":
            return {}
    else:
        from penstock.runtime.launch import check_port, launch

        check_port(spec.run.port)
        folder = prepare(spec)
        code = launch(folder, spec.strategy.ranks, spec.run.threads, spec.run.port)
        if code:
            raise RunError(code)
    result = report(folder)
    print(summary(folder, result))
    return result


def spec_of(file: Path | None, flags: Mapping[str, object]) -> RunSpec:
    """The run that a job file and flags describe; a resumed one starts from the job in its own folder.

    Raises:
        ValueError: see ``make_spec``; or there is nothing to resume.
    """
    spec = make_spec(file, flags)
    if not spec.run.resume:
        return spec
    out = Path(spec.run.out) if spec.run.out else _newest()
    own = out / "job.toml"
    if not own.is_file():
        raise ValueError(f"--resume: {out} holds no job.toml, so no run began there; give its folder with --out")
    return make_spec(file or own, {**flags, "out": str(out)})


def plan_of(spec: RunSpec) -> Plan:
    """The plan of a run, with sends and steps, checked.

    Raises:
        ValueError: the model cannot be cut so, or the schedule cannot have these sizes.
    """
    strategy = spec.strategy
    if strategy.schedule.endswith(PLAN_FILES):
        plan = _plan_from(Path(strategy.schedule), spec)
    elif strategy.schedule == SOLVE:
        from penstock.runtime.solving import first_plan

        plan = first_plan(spec)
    else:
        options: dict[str, Any] = {"slices": strategy.slices} if strategy.slices else {}
        options |= {"costs": pricing(strategy.costs).on}
        plan = build(strategy.schedule, strategy.ranks, strategy.micro_batches, strategy.chunks, **options)
    spec.check_model(Model.read(spec.model), _parts(plan))
    plan = _with_slices(plan, spec)
    check(plan)
    plan = _with_vocabulary(plan, strategy.vocabulary)
    plan = with_less_memory(plan, pricing(strategy.costs).on(plan.placement).sliced(plan.slices), strategy)
    barrier = strategy.optimizer_step == "barrier"
    if plan.weights != "synced":
        _check_flush_free(plan, spec)
    if not plan.lowered:
        plan = add_sends(reduce_gradients(plan), strategy.sends)
        plan = add_step(plan, "before" if barrier else "after") if plan.weights == "synced" else plan
        check(plan)
    elif plan.barrier != barrier:
        has = "barrier" if plan.barrier else "post-validation"
        raise ValueError(
            f"optimizer_step={strategy.optimizer_step}, but the plan in {strategy.schedule} has {has}; "
            f"give --optimizer-step {has}"
        )
    elif plan is not reduce_gradients(plan):
        raise ValueError(f"plan {plan.name!r} never sums the gradients of replicas; add REDUCE_GRAD (reduce_gradients)")
    return plan


def _with_slices(plan: Plan, spec: RunSpec) -> Plan:
    """The plan with the lengths of its slices, if they are not equal; sequences that cannot be cut so are refused."""
    length, slices = spec.job.seq_length, plan.slices
    if spec.strategy.slice_by == "time" and not plan.slice_lengths:
        if slices == 1:
            raise ValueError(f"slice_by=time, but {plan.name!r} does not slice sequences; take slice_by=length")
        shares = equal_time(slices, Model.read(spec.model).attention_share(length))
        plan = replace(plan, slice_lengths=rounded(shares, length))
    if plan.slice_lengths:
        rounded(plan.slice_lengths, length)
        if spec.strategy.vocabulary or algorithm_of(plan):
            raise ValueError(f"{plan.name!r} has slices of unequal length, which vocabulary passes do not take yet")
    elif length % slices:
        raise ValueError(
            f"slices={slices} does not divide seq_length={length}; use {divisors(length, near=slices)} slices, or "
            f"seq_length={-(-length // slices) * slices}"
        )
    return plan


def _check_flush_free(plan: Plan, spec: RunSpec) -> None:
    """What needs the gradients of all stages together cannot be had where each applies its own."""
    if spec.job.clip_norm:
        raise ValueError(
            f"clip_norm={spec.job.clip_norm:g}, but in {plan.name!r} no norm over all stages exists; give --clip-norm 0"
        )
    if spec.strategy.optimizer_step != "barrier":
        raise ValueError(f"optimizer_step={spec.strategy.optimizer_step}, but {plan.name!r} has no step to validate")
    if Model.read(spec.model).tied and plan.placement.stages > 1:
        raise ValueError(f"{spec.model} has tied embeddings, whose copies would drift apart with {plan.name!r}")
    if not set(plan.ops[:, 0].tolist()).isdisjoint((Kind.I, Kind.W)):
        raise ValueError(f"plan {plan.name!r} splits backwards; with updates a run takes whole ones")


def _with_vocabulary(plan: Plan, algorithm: int) -> Plan:
    """The plan with the vocabulary passes asked for, unless it has them."""
    has = algorithm_of(plan)
    if algorithm and has not in (0, algorithm):
        raise ValueError(f"vocabulary={algorithm}, but plan {plan.name!r} has the passes of {has}; give that")
    return split_vocabulary(plan, 1 if algorithm == 1 else 2) if algorithm and not has else plan


def _parts(plan: Plan) -> int:
    """Parts of the model, which every chain of the plan goes through in one order."""
    placement, chains = plan.placement, []
    for stage in (s for s, before in enumerate(placement.prev) if before == NO_STAGE):
        chains.append([placement.part_of[stage]])
        while (stage := placement.next[stage]) != NO_STAGE:
            chains[-1].append(placement.part_of[stage])
    for chain in chains:
        if chain != chains[0] or len(set(chain)) < len(chain):
            raise ValueError(
                f"plan {plan.name!r} has a chain of model parts {chain}; each chain must go through "
                f"{list(dict.fromkeys(chains[0]))}, all parts of the model, once"
            )
    return len(chains[0])


def prepare(spec: RunSpec) -> Path:
    """Make the results folder with ``job.toml`` and ``plan.json``.

    Raises:
        ValueError: another run's results are there, or the job cannot be done.
    """
    plan = plan_of(spec)
    folder = Path(spec.run.out) if spec.run.out else _next_free()
    if (folder / "job.toml").exists() and not spec.run.resume:
        raise ValueError(f"{folder} holds the results of a run; go on with --resume, or give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    spec = replace(spec, run=replace(spec.run, out=str(folder)))
    write_whole(folder / "plan.json", plan.to_json())
    write_whole(folder / "job.toml", spec_to_toml(spec))
    return folder


def _plan_from(path: Path, spec: RunSpec) -> Plan:
    plan = (Plan.from_json if path.suffix == ".json" else Plan.from_text)(read_text(path))
    strategy, ranks = spec.strategy, plan.placement.ranks
    parts = len(set(plan.placement.part_of))
    even = len({len(plan.placement.on(rank)) for rank in range(ranks)}) == 1
    wanted = {
        "ranks": (strategy.ranks, ranks),
        "micro_batches": (strategy.micro_batches, plan.micros // plan.slices),
        "slices": (strategy.slices or plan.slices, plan.slices),
        "chunks": (strategy.chunks, max(1, parts // ranks) if even else 1),
    }
    if not even and strategy.chunks > 1:
        raise ValueError(
            f"chunks={strategy.chunks}, but the plan in {path} gives its {ranks} ranks unequal numbers of stages; "
            f"leave chunks out"
        )
    for name, (asked, has) in wanted.items():
        if asked != has:
            raise ValueError(f"{name}={asked}, but the plan in {path} has {has}; give --{name.replace('_', '-')} {has}")
    return plan


def _numbered() -> list[Path]:
    return sorted(path for path in RUNS.glob("[0-9][0-9][0-9]*") if path.name.isdecimal())


def _next_free() -> Path:
    taken = _numbered()
    return RUNS / f"{int(taken[-1].name) + 1 if taken else 1:03d}"


def _newest() -> Path:
    taken = _numbered()
    if not taken:
        raise ValueError(f"--resume: there is no run in {RUNS}; give its folder with --out")
    return taken[-1]


def _run_as_rank(spec: RunSpec) -> Path:
    """Be one rank of a torchrun: rank 0 prepares the folder and tells the others."""
    from penstock.runtime import faults, worker

    ranks = int(os.environ["WORLD_SIZE"])
    if ranks != spec.strategy.ranks:
        raise ValueError(
            f"torchrun started {ranks} processes, the job has ranks={spec.strategy.ranks}; make them equal"
        )
    store = worker.connect("prepare")
    if os.environ["RANK"] == "0":
        try:
            again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
            if again:
                spec = spec_of(None, {"resume": True, "out": spec.run.out})
            store.set("folder", str(prepare(spec)))
        except BaseException:
            store.set("folder", "")
            raise
    name = store.get("folder").decode()
    code = worker.main(Path(name)) if name else faults.USER_ERROR
    if code or os.environ["RANK"] != "0":
        worker.end(code)
    return Path(name)
