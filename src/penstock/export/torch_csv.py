"""PyTorch's schedule CSV: one row per rank, one op per cell, an empty cell where the rank idles.

It is what ``torch.distributed.pipelining`` writes with ``_dump_csv`` and reads with ``_load_csv`` (torch 2.13,
``schedules.py``), in its formats ``compute_only`` (PyTorch adds sends and receives itself) and ``compute_comms``.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from penstock.core.lane import Lane
from penstock.core.op import COMPUTE, RECVS, SENDS, Op
from penstock.core.placement import Placement
from penstock.core.plan import Plan

_SHARDS = ("UNSHARD", "RESHARD", "REDUCE_GRAD")
"""Actions on sharded weights that PyTorch puts into ``compute_comms``; a plan has no such ops."""


def to_csv(plan: Plan, comms: bool = False) -> str:
    """A plan as PyTorch's CSV, without optimizer steps.

    Args:
        plan: one chain of stages.
        comms: write sends and receives too (``compute_comms``); else compute alone, since PyTorch adds its own.

    Raises:
        ValueError: PyTorch cannot hold the plan: stages share weights, or do not follow each other as 0, 1, 2, ...

    Example:
        >>> from penstock.schedules import build
        >>> print(to_csv(build("1f1b", ranks=2, micros=2)), end="")
        0F0,0F1,0B0,0B1
        1F0,1B0,1F1,1B1
    """
    placement = plan.placement
    if placement.prev != tuple(range(-1, placement.stages - 1)):
        raise ValueError(f"PyTorch's CSV holds one chain of stages 0, 1, 2, ...; this plan has prev={placement.prev}")
    if len(set(placement.part_of)) < placement.stages:
        raise ValueError(f"PyTorch's CSV cannot hold replicas of a stage; this plan has part_of={placement.part_of}")
    if comms and not plan.lowered:
        raise ValueError(f"plan {plan.name!r} has no sends to write; add them with add_sends")
    written = COMPUTE + SENDS + RECVS if comms else COMPUTE
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    for lane in plan.lanes:
        rows.writerow(str(Lane(lane.codes[np.isin(lane.codes[:, 0], written)])).split())
    return out.getvalue()


def read_csv(path: str | Path) -> Plan:
    """The plan in a file of PyTorch's CSV of either format; the rank that runs a stage holds it.

    Actions on sharded weights (``UNSHARD``, ``RESHARD``, ``REDUCE_GRAD``) are left out.

    Raises:
        ValueError: a cell is not an op, a stage stands in two rows or in none; the message names row and cell.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = file.write_text("0F0,3F0\\n1F0,2F0\\n")
        >>> read_csv(file).placement.rank_of
        (0, 1, 1, 0)
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    while rows and not any(rows[-1]):
        rows.pop()
    if not rows:
        raise ValueError(f"{path} holds no ops; one row per rank, for example 0F0,0B0")
    lanes = [_lane(path, number, row) for number, row in enumerate(rows, start=1)]
    micros = 1 + max(op.micro for lane in lanes for op in lane)
    return Plan(Path(path).stem, Placement(_homes(path, lanes)), micros, tuple(map(Lane.of, lanes)))


def _lane(path: str | Path, number: int, row: list[str]) -> list[Op]:
    lane = []
    for column, cell in enumerate(row, start=1):
        if not cell or cell.endswith(_SHARDS):
            continue
        where = f"{path}, row {number}, cell {column}"
        if cell.endswith("OVERLAP_F_B"):
            raise ValueError(f"{where}: {cell!r}: fused pairs are not supported yet; write both ops apart")
        try:
            op = Op.parse(cell)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if op.kind not in COMPUTE + SENDS + RECVS:
            raise ValueError(f"{where}: {cell!r} is none of PyTorch's actions; it does the optimizer's step itself")
        lane.append(op)
    return lane


def _homes(path: str | Path, lanes: list[list[Op]]) -> tuple[int, ...]:
    """Rank of each stage."""
    rank_of: dict[int, int] = {}
    for rank, lane in enumerate(lanes):
        if not lane:
            raise ValueError(f"{path}, row {rank + 1}: the row holds no op; every rank needs a stage")
        for op in lane:
            if rank_of.setdefault(op.stage, rank) != rank:
                raise ValueError(
                    f"{path}, row {rank + 1}: {op} stands here, but stage {op.stage} has ops in row "
                    f"{rank_of[op.stage] + 1} too; a stage lives on one rank"
                )
    absent = next(stage for stage in range(len(rank_of) + 1) if stage not in rank_of)
    if absent < len(rank_of):
        raise ValueError(f"{path}: stages go up to {max(rank_of)}, but stage {absent} stands in no row")
    return tuple(rank_of[stage] for stage in range(len(rank_of)))
