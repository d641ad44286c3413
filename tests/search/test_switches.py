"""Switches of messages: what they do to times and memory, which of them are searched, and other frameworks' words."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES
from penstock.cost.stack import stack
from penstock.cost.switches import shown
from penstock.export.frameworks import export
from penstock.export.read import read_file
from penstock.predict import Grid, predict, scores
from penstock.predict.explain import explain
from penstock.search.beside import neighbours
from penstock.search.in_words import strategy
from penstock.search.planner import best_of
from penstock.search.space import space_of

NODES = Cluster.read("dgx-h100:2")
DENSE = gpt(layers=16, hidden=8192, heads=64, kv_heads=8, vocab=50304, positions=8192)
EXPERTS = gpt(
    layers=16, hidden=2048, heads=16, vocab=50304, positions=8192, experts=32, topk=4, expert_ffn=1024, gated=True
)
CORE, TITAN, BRIDGE = (stack(name) for name in ("megatron-core", "torchtitan", "megatron-bridge"))
BASE = Setup(seq=8192, batch=32, tp=4, dp=2, pp=2, chunks=2, schedule="interleaved", sp=True, zero=1)
KEPT = "order=tp-cp-dp-pp,offload=0,optimizer_offload=0"
PAIRED = Setup(seq=4096, batch=64, dp=8, ep=8, pp=2, chunks=2, schedule="interleaved", zero=1)


def step_s(setup: Setup, model: Any = DENSE, framework: Any = CORE) -> float:
    return predict(model, NODES, setup, framework).seconds


def needed(setup: Setup, model: Any = DENSE, framework: Any = CORE) -> float:
    return max(room.needed for room in predict(model, NODES, setup, framework).rooms)


@pytest.mark.parametrize(
    ("setup", "name", "model", "framework", "turned"),
    [
        (BASE, "tp_overlap", DENSE, CORE, "on"),
        (replace(BASE, zero=2), "tp_overlap", DENSE, TITAN, "on"),
        (BASE, "tp_overlap", DENSE, BRIDGE, "off"),
        (PAIRED, "ep_overlap", EXPERTS, CORE, "on"),
        (BASE, "pp_overlap", DENSE, CORE, "off"),
        (replace(BASE, tp=1, cp=4), "cp_overlap", DENSE, CORE, "off"),
    ],
)
def test_a_switch_does_what_it_says(setup: Setup, name: str, model: Any, framework: Any, turned: str) -> None:
    """Turned as the framework has it nothing changes; with messages hidden a step is shorter."""
    other = "off" if turned == "on" else "on"
    own_s, same_s, new_s = (step_s(replace(setup, **{name: way}), model, framework) for way in ("own", other, turned))
    assert same_s == own_s
    assert (new_s < own_s) == (turned == "on") or name == "cp_overlap"
    assert new_s != own_s


def test_buffers_and_a_micro_batch_are_what_hidden_messages_take() -> None:
    assert needed(replace(BASE, tp_overlap="on")) - needed(BASE) == pytest.approx(10 * 8192 * 8192 * 2, rel=0.06)
    one = replace(BASE, zero=2)
    assert needed(replace(one, tp_overlap="on"), framework=TITAN) == needed(one, framework=TITAN)
    more = needed(replace(PAIRED, ep_overlap="on"), EXPERTS) - needed(PAIRED, EXPERTS)
    kept = predict(EXPERTS, NODES, PAIRED, CORE).rooms[0].activations
    in_flight = 2 * (PAIRED.pp - 1) + (PAIRED.chunks - 1) * PAIRED.pp + 1  # stages' micro-batches of rank 0
    assert more == pytest.approx(kept / in_flight, rel=0.15)
    gathered = replace(BASE, tp=1, cp=4, cp_overlap="off")
    assert needed(gathered) - needed(replace(gathered, cp_overlap="on")) == pytest.approx(2 * 8192 * 2 * 8 * 128 * 2)


def test_switches_hide_shares_of_messages() -> None:
    one, other = (predict(EXPERTS, NODES, replace(PAIRED, ep_overlap=way), CORE).parts for way in ("off", "on"))
    part = "expert parallel messages"
    assert other[part] == pytest.approx((1 - CORE.ep_hides) * one[part])
    assert shown(CORE, "tp", "on", 0.5) == pytest.approx(CORE.tp_shown * (1 - 0.5 * CORE.tp_hides))


@pytest.mark.parametrize(
    ("base", "model", "framework", "more"),
    [
        (replace(BASE, pp=1, chunks=1, schedule="1f1b", dp=4), DENSE, CORE, {"tp_overlap": ("own", "on", "off")}),
        (replace(BASE, pp=1, chunks=1, schedule="1f1b", dp=4, zero=3), DENSE, TITAN, {"tp_overlap": ("own", "on")}),
        (replace(PAIRED, pp=1, chunks=1, schedule="1f1b", dp=16), EXPERTS, CORE, {"ep_overlap": ("own", "on", "off")}),
    ],
)
def test_scores_know_switches_as_predictions_do(base: Setup, model: Any, framework: Any, more: Any) -> None:
    grid = Grid.of(base, recompute=["none", "selective"] * len(*more.values()),
                   **{name: [v for v in values for _ in (0, 1)] for name, values in more.items()})  # fmt: skip
    found = scores(model, NODES, grid, framework)
    for row in range(len(grid)):
        setup = grid.setup(row)
        assert found.seconds[row] == pytest.approx(step_s(setup, model, framework), rel=1e-9)
        assert found.needed_bytes[row] == pytest.approx(needed(setup, model, framework), rel=1e-9)
    gathers = replace(base, tp=1, sp=False, ep=1, cp=4, dp=4, cp_overlap="off")
    (seconds,) = scores(model, NODES, Grid.of(gathers), framework).seconds
    assert seconds == pytest.approx(step_s(gathers, model, framework), rel=1e-9)


@pytest.mark.parametrize(
    ("model", "fix", "headroom"),
    [
        (DENSE, "cp=1,pp=1/2,chunks=1,stage_layers=even,recompute_layers=none,shards=0,micro=1,tp=4", 0.31),
        (
            EXPERTS,
            "cp=1,tp=1,pp=1/2,chunks=1/2,stage_layers=even,recompute_layers=none,shards=0,zero=1,micro=1/2",
            0.55,
        ),
    ],
)
def test_the_best_way_of_all_switches_is_found(model: Any, fix: str, headroom: float) -> None:
    space = space_of(model, NODES, seq=4096, batch=32, fix=f"{fix},{KEPT}")
    found = best_of(space, top=1, headroom=headroom)
    assert found.proven
    grid = space_of(
        model, NODES, seq=4096, batch=32, fix=f"{fix},order=tp-cp-dp-pp,tp_overlap=own,ep_overlap=own"
    ).grid(space.splits())
    best_s = np.inf
    for row, (tp, ep) in product(range(len(grid)), product(("own", "on"), repeat=2)):
        try:
            setup = replace(grid.setup(row), tp_overlap=tp, ep_overlap=ep)
            made = predict(model, NODES, setup, CORE)
        except ValueError:
            continue
        if made.seconds < best_s and max(room.needed for room in made.rooms) <= (1 - headroom) * made.memory_bytes:
            best_s = made.seconds
    assert found.best.seconds == pytest.approx(best_s, rel=1e-12)


def test_what_is_fixed_or_left_out_stays_so() -> None:
    def ways(fix: str = "", exclude: str = "", name: str = "tp_overlap", framework: Any = CORE) -> set[str]:
        space = space_of(DENSE, NODES, framework, seq=4096, batch=32, fix=fix, exclude=exclude)
        grid = space.grid(space.splits())
        return {value for value, tp in zip(grid.values(name), grid.tp.tolist(), strict=True) if tp > 1}

    assert ways("sp=1") == {"on"} == ways("tp_overlap=on") == ways("sp=1", framework=TITAN)
    assert ways("tp_overlap=off") == {"off"}
    assert ways(exclude="tp_overlap=on") == {"own"} == ways("sp=0") == ways(framework=BRIDGE)
    for name, words in (("cp_overlap", "gathered"), ("pp_overlap", "waits")):
        space = space_of(DENSE, NODES, seq=4096, batch=32, fix=f"{name}=off,pp=2,cp=2")
        grid = space.grid(space.splits())
        assert getattr(grid.base, name) == "off"
        assert len(grid), words
        assert name == "pp_overlap" or not grid.cp_heads.any()
    with pytest.raises(ValueError, match="pp_overlap=on/off: pp_overlap is not searched; fix one value"):
        space_of(DENSE, NODES, seq=4096, batch=32, fix="pp_overlap=on/off")


def test_reasons_sentences_and_constants_name_switches() -> None:
    space = space_of(DENSE, NODES, seq=8192, batch=32, fix="tp=4,pp=2,chunks=2,schedule=interleaved,zero=1,cp=1")
    best = best_of(space, top=1, headroom=0.05).best
    assert best.setup.tp_overlap == "on"
    assert "tp_overlap=on" in best.split
    lines = {line.partition(":")[0]: line for line in neighbours(space, best, 0.05)}
    assert "tensor parallel messages +" in lines["tp_overlap=off"]
    assert "between stages +" in lines["pp_overlap=off"]
    assert "Compute hides tensor parallel sums (tp_overlap=on)." in strategy(best.setup)
    (part,) = (one for one in explain(DENSE, NODES, best.setup, CORE).time.parts if one.name.startswith("tensor"))
    assert any("tp_hides" in constant.name for one in part.parts for constant in one.constants)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tp": 2, "tp_overlap": "on"}, "tp_overlap=on hides sums of tokens that ranks share; it needs sp"),
        ({"dp": 2, "ep": 2, "ep_overlap": "on", "recompute": "full"}, "use another recompute than full"),
        ({"dp": 2, "ep": 2, "ep_overlap": "on", "pp": 2}, "with pp use chunks of 2 or more"),
        ({"dp": 2, "ep": 2, "ep_overlap": "on", "micro": 4}, "there is one; use a smaller micro"),
        ({"cp": 2, "cp_heads": True, "cp_overlap": "off"}, "use cp_overlap=own or a ring alone"),
        ({"pp_overlap": "yes"}, "pp_overlap='yes' is unknown; choose from own, on, off"),
    ],
)
def test_what_cannot_be_says_so(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Setup(seq=8, batch=8, **more)


def test_frameworks_without_a_switch_refuse_it() -> None:
    with pytest.raises(ValueError, match=r"ep_overlap=on: torchtitan has no switch .* use ep_overlap=own \(it has tp_"):
        predict(EXPERTS, NODES, replace(PAIRED, zero=2, ep_overlap="on"), TITAN)
    with pytest.raises(ValueError, match="tp_overlap=on: deepspeed has no switch"):
        space_of(DENSE, NODES, "deepspeed", seq=4096, batch=32, fix="tp_overlap=on")


@pytest.mark.parametrize("fix", ["ep=2", "etp=2", "ep_overlap=on"])
def test_models_without_experts_have_nothing_to_fix_of_them(fix: str) -> None:
    with pytest.raises(ValueError, match=f"{fix}: gpt has no experts; use {fix.partition('=')[0]}="):
        space_of(DENSE, NODES, seq=4096, batch=32, fix=fix)


def test_experts_are_split_where_there_are_no_more_to_share_out() -> None:
    space = space_of(EXPERTS, Cluster.read("dgx-h100:8"), seq=4096, batch=64, fix="tp=2")
    grid = space.grid(space.splits())
    assert {(ep, etp) for ep, etp in zip(grid.ep.tolist(), grid.etp.tolist(), strict=True) if etp > 1} == {(32, 2)}


TURNED = {"tp_overlap": "on", "cp_overlap": "off", "pp_overlap": "off"}
WORDS = {
    "megatron:t.sh": ("--tp-comm-overlap", "--cp-comm-type all_gather", "--no-overlap-p2p-communication"),
    "bridge:b.sh": ("tp_comm_overlap=true", "model.cp_comm_type=all_gather", "model.overlap_p2p_comm=false"),
    "torchtitan:tt": ("enable_async_tensor_parallel = true", 'context_parallel_rotate_method = "allgather"'),
}


@pytest.mark.parametrize("target", WORDS)
def test_files_of_other_frameworks_say_switches(target: str, tmp_path: Path) -> None:
    setup = Setup(seq=8192, batch=32, tp=2, cp=2, pp=4, chunks=2, schedule="interleaved", sp=True, zero=2, **TURNED)
    kind, _, name = target.partition(":")
    left = {one.field for one in export(f"{kind}:{tmp_path / name}", DENSE, NODES, setup)}
    file = tmp_path / name / "train.toml" if kind == "torchtitan" else tmp_path / name
    text = file.read_text()
    assert all(word in text for word in WORDS[target])
    fields = read_file(file, 16).fields
    assert {name for name in SWITCHES if fields.get(name, "own") != getattr(setup, name)} == left & {*SWITCHES}
    assert ("pp_overlap" in left) == (kind == "torchtitan")


def test_paired_micro_batches_have_words(tmp_path: Path) -> None:
    setup = replace(PAIRED, ep_overlap="on")
    export(f"megatron:{tmp_path / 't.sh'}", EXPERTS, NODES, setup)
    text = (tmp_path / "t.sh").read_text()
    assert "--overlap-moe-expert-parallel-comm" in text
    assert "CUDA_DEVICE_MAX_CONNECTIONS=32" in text
    assert read_file(tmp_path / "t.sh", 16).fields["ep_overlap"] == "on"
    with pytest.raises(ValueError, match="does not go with experts made again"):
        export(f"megatron:{tmp_path / 't.sh'}", EXPERTS, NODES, replace(setup, recompute=("experts",)))
    words = "run_recipe.py --recipe qwen3_30b_a3b_pretrain_config -tp 1 -pp 1 -ep 8 -mb 1 -gb 64 -sl 4096"
    for value, way in (("true", "on"), ("false", "off")):
        (tmp_path / "b.sh").write_text(f"python {words} comm_overlap.overlap_moe_expert_parallel_comm={value}\n")
        assert read_file(tmp_path / "b.sh", 16).fields["ep_overlap"] == way
