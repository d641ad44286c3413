"""Memory of the host that a search takes by itself: where nothing fits, or the best without makes something again."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.search.finals import best_of_all
from penstock.search.hosts import ways
from penstock.search.misses import too_much
from penstock.search.planner import best_of, plan
from penstock.search.space import Space, space_of

NODES = Cluster.read("dgx-h100:1")
DENSE = gpt(layers=8, hidden=8192, heads=64, kv_heads=8, vocab=50304, positions=8192)
EXPERTS = gpt(
    layers=8, hidden=2048, heads=16, vocab=50304, positions=8192, experts=16, topk=2, expert_ffn=2048, gated=True
)
PLAIN = "cp=1,stage_layers=even,recompute_layers=none,shards=0,schedule=1f1b,chunks=1,tp_overlap=off,ep_overlap=off"


def asked(model: Any = DENSE, fix: str = "", framework: str = "megatron-core") -> Space:
    return space_of(model, NODES, framework, seq=8192, batch=32, fix=f"{PLAIN},{fix}")


def test_what_is_tried_is_what_the_framework_has_of_what_the_model_has() -> None:
    def tried(model: Any, fix: str, framework: str = "megatron-core", fits: bool = True) -> list[Any]:
        space = asked(model, fix, framework)
        return [one.offload or one.optimizer_offload for one in ways(space, space.base, fits)]

    assert tried(DENSE, "optimizer_offload=0") == [
        ("attention.value.y", "attention.result"),
        ("input", "attention_norm.y", "attention.value.y", "attention.result", "attention.sum"),
    ]  # learned positions turn nothing
    assert any("experts.rows" in names for names in tried(EXPERTS, "optimizer_offload=0"))
    assert tried(DENSE, "offload=0") == [0.25, 0.5, 0.75, 1.0]
    assert tried(DENSE, "offload=0", fits=False) == [] == tried(DENSE, "offload=0,optimizer_offload=0")
    assert tried(DENSE, "", "transformers") == [1.0]


@pytest.mark.parametrize(
    ("model", "fix", "headroom"),
    [
        (DENSE, "tp=4,pp=1,micro=2,zero=1", 0.66),
        pytest.param(DENSE, "tp=4,pp=1,micro=1,zero=1", 0.7, marks=pytest.mark.slow),
        (EXPERTS, "tp=1,pp=1/2,micro=4,zero=1", 0.63),
    ],
)
def test_the_best_with_parts_in_host_memory_is_the_best_of_all(model: Any, fix: str, headroom: float) -> None:
    space = asked(model, fix)
    found = best_of(space, top=1, headroom=headroom)
    assert found.proven
    seconds = []
    for base in (space.base, *ways(space, space.base, True)):
        names = base.offload if isinstance(base.offload, tuple) else ()
        one = asked(model, f"{fix},offload={'+'.join(names) or 0},optimizer_offload={base.optimizer_offload}")
        seconds.append(best_of_all(best_of(one, top=1, headroom=headroom).choices))
    assert found.best.seconds == pytest.approx(min(seconds), rel=1e-12)
    assert min(seconds) < seconds[0]


def test_where_the_best_makes_nothing_again_all_stays_on_the_device() -> None:
    fix = "tp=4,pp=1,micro=1..2,zero=1"
    space = asked(DENSE, fix)
    best = best_of(space, top=1, headroom=0.66).best
    assert (best.setup.recompute, best.setup.offload, best.setup.optimizer_offload) == ("none", 0.0, 0.0)
    *_, most = (one.offload for one in ways(space, space.base, True) if one.offload)
    asked_for = best_of(asked(DENSE, f"{fix},offload={'+'.join(most)}"), top=1, headroom=0.66).best
    assert asked_for.seconds < best.seconds


def test_what_is_fixed_stays_on_the_device() -> None:
    fix = "tp=4,pp=1,micro=2,zero=1"
    found = best_of(asked(DENSE, f"{fix},offload=0,optimizer_offload=0"), top=9, headroom=0.66)
    assert {(one.setup.offload, one.setup.optimizer_offload) for one in found.choices} == {(0.0, 0.0)}
    away = [one.setup for one in best_of(asked(DENSE, fix), top=9, headroom=0.66).choices]
    assert away[0].offload
    assert not any(one.offload and one.recompute == "full" for one in away)


def test_too_few_tries_leave_open_whether_others_are_faster(monkeypatch: Any) -> None:
    monkeypatch.setattr("penstock.search.hosts.FINALISTS", 0)
    assert not best_of(asked(DENSE, "tp=4,pp=1,micro=2,zero=1"), top=1, headroom=0.66).proven


def test_weights_wait_on_the_host_where_nothing_else_fits() -> None:
    task: Any = {"seq": 4096, "batch": 16, "fix": "tp=1,cp=1,pp=1,micro=1,recompute=full"}
    for nodes, name in (("rtx-4090:1", "deepspeed"), ("rtx-4090:4", "pytorch")):
        best = plan("llama-3-8b", nodes, name, **task).best.setup
        assert (best.zero, best.optimizer_offload, best.weight_offload) == (3, 1.0, 1.0)
    fixed = task | {"fix": f"{task['fix']},weight_offload=0"}
    none = plan("llama-3-8b", "rtx-4090:1", "deepspeed", **fixed)
    assert not none.choices
    assert any("weight_offload=1: weights in host memory too" in one for one in none.changes)
    full = plan("llama-3-70b", "rtx-4090:1", "deepspeed", **task | {"fix": f"{task['fix']},disk=none"})
    assert full.nearest
    assert "of 512 GiB in host memory" in too_much(full.nearest, 0.05)
    assert full.changes[0].startswith("optimizer_offload=1, weight_offload=1, disk=all: both on disks")
