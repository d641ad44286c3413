"""Files that PyTorch wrote or could read, a cell lost, doubled or moved: ``penstock check`` names the culprit."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

import torch_peer
from penstock.core.lane import Lane
from penstock.engine import problems
from penstock.export import read_csv, to_csv, torch_problems
from penstock.lower import add_sends
from penstock.schedules import SCHEDULES, build
from randoms import UNSHRUNK
from reference import simulate

OURS = torch_peer.held()
"""Schedules with each stage on one rank."""


@cache
def cells(source, ranks, comms):
    """Rows of cells of a legal file."""
    if source in torch_peer.BUILT_IN:
        schedule = torch_peer.orders(source, ranks, 2 * ranks, torch_peer.BUILT_IN[source])
        order = schedule.pipeline_order_with_comms if comms else schedule.pipeline_order
        return [[str(op) for op in order[rank] if op is not None] for rank in sorted(order)]
    plan = build(source, ranks, 2 * ranks, SCHEDULES[source].least_chunks(ranks, 2 * ranks))
    return [row.split(",") for row in to_csv(add_sends(plan) if comms else plan, comms=comms).splitlines()]


@st.composite
def mutated(draw):
    """Rows of cells, what was done to them, and the cells concerned."""
    source = draw(st.sampled_from([*torch_peer.BUILT_IN, *OURS]))
    rows = [list(row) for row in cells(source, draw(st.sampled_from([2, 3])), draw(st.booleans()))]
    row = rows[draw(st.integers(0, len(rows) - 1))]
    at = draw(st.integers(0, len(row) - 1))
    how = draw(st.sampled_from(["delete", "double", "swap"]))
    if how == "delete":
        return rows, how, [row.pop(at)]
    if how == "double":
        cell = row[at]
        row.insert(draw(st.integers(0, len(row))), cell)
        return rows, how, [cell]
    to = draw(st.integers(0, len(row) - 1))
    row[at], row[to] = row[to], row[at]
    return rows, how, [row[at], row[to]]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "mine.csv"


@given(mutated())
@UNSHRUNK
def test_a_lost_doubled_or_moved_op_is_named(file, found):
    rows, how, concerned = found
    file.write_text("\n".join(map(",".join, rows)))
    plan = read_csv(file)
    said = problems(plan) or torch_problems(plan)
    if how != "swap":
        assert said, f"{how} {concerned} was not found"
    elif not said:
        ranks = plan.placement.ranks
        assert simulate(plan, [1.0] * len(plan), [[0.0] * ranks] * ranks) is not None
        return
    names = [str(op) for cell in concerned for op in Lane.parse(cell)]
    assert any(named(name, str(one)) for name in names for one in said), f"{how} {concerned}: {said[0]}"


def named(op, text):
    return op in text.replace(",", " ").replace(":", " ").replace(";", " ").split()
