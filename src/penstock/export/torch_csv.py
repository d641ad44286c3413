"""PyTorch's schedule CSV: one row per rank, one action per cell, an empty cell where the rank idles.

It is what ``torch.distributed.pipelining`` writes with ``_dump_csv`` and reads with ``_load_csv`` (torch 2.13,
``schedules.py``), in its formats ``compute_only`` (PyTorch adds all else itself) and ``compute_comms`` (with sends,
receives and the actions on sharded weights). A forward and a backward that run as one are ``(0F3;3B1)OVERLAP_F_B``.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np

from penstock.core.lane import FUSED, Lane
from penstock.core.op import COMPUTE, NO_MICRO, RECVS, SENDS, Kind, Op
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.lower.place import place

SHARDS = (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD)
"""Actions on sharded weights, which PyTorch puts into ``compute_comms``."""
HOLDS = (*COMPUTE, *SENDS, *RECVS, *SHARDS)
"""Kinds that PyTorch's CSV can hold."""
LOST = (*SENDS, *RECVS, *SHARDS, Kind.STEP)
"""Kinds that may be left out, since PyTorch adds its own."""


def to_csv(plan: Plan, comms: bool = False) -> str:
    """A plan as PyTorch's CSV, without optimizer steps.

    Args:
        plan: one chain of whole micro-batches.
        comms: write sends, receives and actions on sharded weights too (``compute_comms``); else compute alone, since
            PyTorch adds its own. Of a plan without such actions, each stage is gathered before its first op and let go
            after its last, and its gradients are summed after its last backward, where PyTorch also divides them by
            the number of micro-batches.

    Raises:
        ValueError: PyTorch cannot hold the plan: stages share weights or do not follow each other as 0, 1, 2, ...,
            micro-batches are slices, or an op has no counterpart there. Or there are no sends to write.

    Example:
        >>> from penstock.schedules import build
        >>> print(to_csv(build("1f1b", ranks=2, micros=2)), end="")
        0F0,0F1,0B0,0B1
        1F0,1B0,1F1,1B1
    """
    _refuse(plan)
    if comms and not plan.lowered and plan.placement.ranks > 1:
        raise ValueError(f"plan {plan.name!r} has no sends to write; add them with add_sends")
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    for lane in (_with_shards(plan) if comms else plan).lanes:
        kept = np.isin(lane.codes[:, 0], HOLDS if comms else COMPUTE)
        rows.writerow(str(Lane(lane.codes[kept], lane.fused[kept])).split())
    return out.getvalue()


def _refuse(plan: Plan) -> None:
    """Raise ``ValueError`` with the first reason why PyTorch cannot hold a plan."""
    placement = plan.placement
    if len(set(placement.part_of)) < placement.stages:
        raise ValueError(f"PyTorch's CSV cannot hold replicas of a stage; this plan has part_of={placement.part_of}")
    if placement.prev != tuple(range(-1, placement.stages - 1)):
        raise ValueError(f"PyTorch's CSV holds one chain of stages 0, 1, 2, ...; this plan has prev={placement.prev}")
    if plan.slices > 1:
        raise ValueError(f"PyTorch's CSV has no slices of a micro-batch; this plan has slices={plan.slices}")
    foreign = np.flatnonzero(~np.isin(plan.ops[:, 0], (*HOLDS, *LOST)))
    if len(foreign):
        row = int(foreign[0])
        raise ValueError(
            f"PyTorch has no action {plan.op(row).kind.name}: {plan.op(row)} stands on rank {plan.rank_of_op[row]}; "
            f"write the plan without the pass that added it"
        )


def _with_shards(plan: Plan) -> Plan:
    """The plan with the actions on sharded weights that PyTorch counts on."""
    kind, stage, _ = plan.ops.T
    present = set(kind.tolist())
    new = []
    for s, rank in enumerate(plan.placement.rank_of):
        mine = np.flatnonzero((stage == s) & np.isin(kind, COMPUTE))
        grads = mine[np.isin(kind[mine], (Kind.B, Kind.W))]
        if len(grads) and Kind.REDUCE_GRAD not in present:
            new.append((Kind.REDUCE_GRAD, s, rank, 4 * _sent(plan, grads[-1]) + 3))
        if len(mine) and not present & {Kind.UNSHARD, Kind.RESHARD}:
            new += [(Kind.UNSHARD, s, rank, 4 * mine[0]), (Kind.RESHARD, s, rank, 4 * _sent(plan, mine[-1]) + 3)]
    ops = np.array([(kind, s, NO_MICRO) for kind, s, _, _ in new]).reshape(-1, 3)
    return place(plan, ops, *np.array([one[2:] for one in new], dtype=np.int64).reshape(-1, 2).T)


def _sent(plan: Plan, row: int) -> int:
    """Id of the op after which what an op has made is on its way."""
    end = plan.first[plan.rank_of_op[row] + 1]
    return row + 1 if row + 1 < end and plan.ops[row + 1, 0] in SENDS else row


def read_csv(path: str | Path) -> Plan:
    """The plan in a file of PyTorch's CSV of either format.

    A stage lives on the rank that runs it; of one that stands in several rows, that with most of its actions.

    Raises:
        ValueError: a cell is not an action of PyTorch's, a stage is split over rows or stands in none; the message
            names row and cell.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = file.write_text("0F0,3F0\\n1F0,2F0\\n")
        >>> read_csv(file).placement.rank_of
        (0, 1, 1, 0)
    """
    rows = _rows(path)
    lanes, wrong = [], []
    for number, row in enumerate(rows, start=1):
        lane, reasons = _lane(row)
        lanes.append(lane)
        wrong += [f"row {number}, cell {column}: {reason}" for column, reason in reasons]
    if wrong:
        raise ValueError(f"{path}, {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
    micros = 1 + max(op.micro for lane in lanes for op in lane)
    return Plan(Path(path).stem, Placement(_homes(path, lanes)), max(1, micros), tuple(lanes))


def _rows(path: str | Path) -> list[list[str]]:
    """Cells of a file without blanks, empty rows at the end left out."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [[_BLANK.sub(r"\1", cell.strip()) for cell in row] for row in csv.reader(file, strict=True)]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not text") from None
    except csv.Error as error:
        raise ValueError(f"{path}: is not CSV: {error}") from None
    while rows and not any(rows[-1]):
        rows.pop()
    if not rows:
        raise ValueError(f"{path} holds no ops; one row per rank, for example 0F0,0B0")
    return rows


_BLANK = re.compile(r"\s*([();])\s*")
_PAIR = re.compile(r"\((.*);(.*)\)" + FUSED)


def _lane(row: list[str]) -> tuple[Lane, list[tuple[int, str]]]:
    """The ops of a row, and number and reason of each cell that is not an action."""
    ops: list[Op] = []
    fused: list[bool] = []
    wrong = []
    for column, cell in enumerate(row, start=1):
        if not cell:
            continue
        try:
            found = _cell(cell)
        except ValueError as error:
            wrong.append((column, str(error)))
        else:
            ops += found
            fused += [len(found) == 2, False][2 - len(found) :]
    return Lane(np.array(ops, dtype=np.int32), np.array(fused, dtype=np.bool_)), wrong


def _cell(cell: str) -> list[Op]:
    """The op of a cell, or both of a block."""
    pair = _PAIR.fullmatch(cell)
    if pair is None and cell.startswith("("):
        raise ValueError(f"{cell!r} is not a block of two actions; write for example (0F3;3B1){FUSED}")
    ops = [Op.parse(word) for word in (pair.groups() if pair else (cell,))]
    for op in ops:
        if op.kind not in HOLDS:
            raise ValueError(f"{cell!r}: {op.kind.name} is none of PyTorch's actions, {_names()}")
    if pair and (ops[0].kind != Kind.F or ops[1].kind not in (Kind.B, Kind.I)):
        raise ValueError(f"{cell!r}: a block is a forward and then a backward; write other actions apart")
    return ops


def _names() -> str:
    return ", ".join(kind.name for kind in HOLDS)


def _homes(path: str | Path, lanes: list[Lane]) -> tuple[int, ...]:
    """Rank of each stage: that with most of its ops."""
    found: dict[int, Counter[int]] = {}
    for rank, lane in enumerate(lanes):
        if not len(lane):
            raise ValueError(f"{path}, row {rank + 1}: the row holds no op; every rank needs a stage")
        for stage, count in zip(*np.unique(lane.codes[:, 1], return_counts=True), strict=True):
            found.setdefault(int(stage), Counter())[rank] += int(count)
    absent = next(stage for stage in range(len(found) + 1) if stage not in found)
    if absent < len(found):
        raise ValueError(f"{path}: stages go up to {max(found)}, but stage {absent} stands in no row")
    for stage, counts in sorted(found.items()):
        (home, most), *others = counts.most_common()
        if others and 2 * others[0][1] > most:
            raise ValueError(_shared(path, lanes, stage, sorted((home, others[0][0]))))
    return tuple(found[stage].most_common(1)[0][0] for stage in range(len(found)))


def _shared(path: str | Path, lanes: list[Lane], stage: int, ranks: list[int]) -> str:
    op = next(op for op in lanes[ranks[1]] if op.stage == stage)
    return (
        f"{path}, row {ranks[1] + 1}: {op} stands here, but stage {stage} has ops in row {ranks[0] + 1} too; in "
        f"PyTorch a stage lives on one rank. Replicas of a stage, as in Chimera, need a plan of Penstock (.json)"
    )
