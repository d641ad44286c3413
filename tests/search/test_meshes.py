"""Orders of axes over devices in a search: which are tried, and that no other is faster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from penstock.core.config import gpt
from penstock.core.mesh import ORDERS, pipes_agree
from penstock.cost.stack import Stack, stack
from penstock.predict import predict, scores
from penstock.search.beside import neighbours
from penstock.search.choice import flags_of, split_of
from penstock.search.finals import predicted_of
from penstock.search.margins import OVER
from penstock.search.planner import plan
from penstock.search.space import space_of

DENSE = gpt(layers=8, hidden=1024, heads=16, vocab=32000, positions=2048)
EXPERTS = gpt(layers=8, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048)
TASK = {"seq": 2048, "batch": 64}
PLAIN = "micro=1,sp=1,recompute=none,zero=1,shards=0,stage_layers=even,schedule=1f1b"
NEAR = "tp-cp-pp-dp"


def orders(model, cluster, framework="megatron-core", fix=PLAIN):
    """Orders that are tried, by split."""
    space = space_of(model, cluster, framework, **TASK, fix=fix)
    found = {}
    for split in space.splits():
        grid = space.grid([split])
        for row in range(len(grid)):
            setup = grid.setup(row)
            found.setdefault((*split, setup.ep, setup.etp), set()).add(setup.order)
    return found


def test_an_order_is_tried_where_links_differ() -> None:
    found = orders(DENSE, "dgx-h100:2")
    assert found[2, 1, 2, 4, 1, 1] == {ORDERS[0], NEAR}
    assert found[4, 1, 2, 2, 1, 1] == {ORDERS[0], NEAR}
    for same in ((8, 1, 2, 1, 1, 1), (2, 1, 1, 8, 1, 1), (2, 1, 8, 1, 1, 1)):
        assert found[same] == {ORDERS[0]}
    assert {NEAR} not in found.values()


def test_frameworks_that_have_one_order_try_one() -> None:
    assert set.union(*orders(DENSE, "dgx-h100:2", "torchtitan", fix=PLAIN.replace("zero=1", "zero=2")).values()) == {
        ORDERS[0]
    }


def test_a_framework_of_your_own_may_have_more() -> None:
    mine = replace(stack("megatron-core"), orders=("tp-cp-ep-dp-pp", "tp-dp-cp-pp"))
    found = orders(DENSE, "dgx-h100:2", mine)
    assert found[2, 2, 2, 2, 1, 1] == {ORDERS[0]}  # a node has both, in either order
    assert found[2, 2, 1, 4, 1, 1] == {ORDERS[0], "tp-dp-cp-pp"}
    found = orders(DENSE, "dgx-h100:4", mine)
    assert found[4, 2, 2, 2, 1, 1] == {ORDERS[0], "tp-dp-cp-pp"}
    with pytest.raises(ValueError, match="order=dp-tp is no order"):
        Stack(name="odd", orders=("dp-tp",))


def test_experts_keep_the_pipelines_of_all_else() -> None:
    found = orders(EXPERTS, "dgx-h100:2", fix=f"{PLAIN},cp=1,tp=1..2,pp=2..4")
    for (tp, _, _, dp, ep, etp), tried in found.items():
        if NEAR in tried:
            assert ep * etp == tp, (tp, dp, ep, etp)
    assert any(NEAR in tried and key[4] > 1 for key, tried in found.items())


@pytest.mark.parametrize(("model", "cluster"), [(DENSE, "g5:2"), (EXPERTS, "dgx-h100:2")])
def test_no_order_is_faster_than_the_best(model, cluster) -> None:
    fix = f"{PLAIN},cp=1,pp=2..8"
    found = plan(model, cluster, **TASK, fix=fix, top=3)
    space = space_of(model, cluster, **TASK, fix=fix)
    least = []
    for share in space.shares():
        grid = space.grid(share)
        for setup in {replace(grid.setup(row), order=ORDERS[0]) for row in range(len(grid))}:
            for order in space.stack.orders:
                one = predicted_of(space, replace(setup, order=order))
                if one is not None and one.headroom >= 0.05 and (model is DENSE or pipes_agree(one.setup)):
                    least.append(one.seconds)
    assert found.proven
    assert len(least) > 8
    assert found.best.seconds == pytest.approx(min(least), rel=1e-12)


def test_on_slow_links_scores_are_as_predicted_in_both_orders() -> None:
    islands = Path(__file__).parents[2] / "examples" / "clusters" / "islands.toml"
    fix = f"{PLAIN},tp=2,cp=1..2,pp=1..4"
    space = space_of(DENSE, islands, **TASK, fix=fix)
    grid = space.grid(space.splits())
    found = scores(space.model, space.cluster, grid, space.stack)
    tried = set()
    for row in range(len(grid)):
        one = predicted_of(space, grid.setup(row))
        assert one is not None
        assert found.seconds[row] == pytest.approx(one.seconds, rel=1e-9 if one.setup.pp == 1 else 0.05)
        if one.setup.pp > 1:
            assert found.seconds[row] <= one.seconds * (1 + OVER["1f1b"])
            tried.add(one.setup.order)
    assert tried == {ORDERS[0], NEAR}


def test_neighbours_say_what_lies_inside_the_node() -> None:
    fix = f"{PLAIN},tp=2,cp=1,pp=2,dp=4"
    best = plan(DENSE, "dgx-h100:2", **TASK, fix=f"{fix},order={NEAR}", top=1).best
    assert split_of(best.setup).endswith(f"schedule=1f1b order={NEAR} tp_overlap=on")
    assert flags_of(best.setup, {}).endswith(f"--tp-overlap on --rank-order {NEAR}")
    space = space_of(DENSE, "dgx-h100:2", **TASK, fix=fix)
    other = predict(space.model, space.cluster, replace(best.setup, order=ORDERS[0]), space.stack).seconds
    (line,) = [line for line in neighbours(space, best, 0.05) if line.startswith("order=")]
    assert line.startswith(
        f"order=tp-cp-dp-pp, data parallel inside the node: {other / best.seconds - 1:+.1%} step time"
    )


def test_orders_are_excluded_and_fixed() -> None:
    task = TASK | {"fix": f"{PLAIN},tp=2,pp=2,cp=1"}
    left = plan(DENSE, "dgx-h100:2", **task, exclude="order=tp-pp-dp", top=9).choices
    assert {one.setup.order for one in left} == {ORDERS[0]}
    far = plan(DENSE, "dgx-h100:2", seq=2048, batch=64, fix=f"{task['fix']},order=tp-pp-cp-dp", top=9).choices
    assert {one.setup.order for one in far} == {"tp-pp-cp-dp"}
