"""What recipes say in place of empty cells, and what that makes of a framework."""

from dataclasses import replace

import numpy as np
import pytest

from penstock.calibrate.dials import of_tables
from penstock.calibrate.fit_stacks import chosen
from penstock.calibrate.published import run_of
from penstock.calibrate.run_fit import Problem, step_s
from penstock.calibrate.run_recipes import FILLED, TUNED, recipes, ways_of, with_notes, with_recipe
from penstock.core.device import device
from penstock.core.mask import Mask
from penstock.cost.stack import stack, stacks

ROW = {
    "system": "Megatron-Bridge",
    "source_title": "Megatron-Bridge performance summary, 26.04 NeMo Container",
    "model_name": "Qwen3-235B-A22B",
    "device": "GB200",
    "devices": "256",
    "per_node": "4",
    "seq_len": "4096",
    "global_batch": "8192",
    "micro_batch": "1",
    "pp": "8",
    "vpp": "3",
    "ep": "32",
    "precision": "mxfp8",
}
LATER = {"source_title": "Megatron-Bridge performance summary, 26.06 NeMo Container"}


def filled(**cells):
    return with_recipe(ROW | cells, stack("megatron-bridge"), [])


def test_a_version_picks_its_recipe_and_cells_of_the_row_win():
    expected = ["3", "none", "", "", "attention router", "bf16", "hybridep", *[""] * 6]
    assert [filled().get(name, "") for name in FILLED] == expected
    assert filled(**LATER)["graphs"] == "step"
    assert filled(**LATER, graphs="none", dispatcher="deepep")["graphs"] == "none"
    assert "graphs" not in filled(**LATER, precision="fp8")
    assert filled(source_title="my own runs", system="Megatron-Bridge (26.06)")["graphs"] == "step"
    card = filled(source_title="Megatron-Bridge model verification card: qwen3", device="GB300", vpp="")
    assert (card["graphs"], card["vpp"]) == ("step", "12")


def test_notes_say_some_cells():
    run = run_of(ROW | {"source_title": "", "notes": "flex+HybridEP; CUDA graphs router+preprocess"})
    assert (run.stack.dispatcher, run.stack.graphed) == ("hybridep", ("router",))


@pytest.mark.parametrize(
    ("notes", "cells"),
    [
        ("dispatcher DeepEP; ETP 1", {"dispatcher": "deepep"}),
        ("dispatcher NCCL A2A; ETP 1", {"dispatcher": "alltoall"}),
        ("VPP12; partial CG; HybridEP", {"dispatcher": "hybridep", "graphs": "attention router", "vpp": "12"}),
        ("paged stash; full CG", {"graphs": "step"}),
        ("dispatcher HybridEP/A2A; no MTP", {"multi_token": "0"}),
        ("w/o MTP; forced expert balance", {"multi_token": "0"}),
        ("router/preprocess CG; MTP", {"graphs": "router", "multi_token": "1"}),
    ],
)
def test_notes_say_dispatchers_graphs_and_heads(notes, cells):
    assert with_notes({"notes": notes}, []) == {"notes": notes} | cells


def test_notes_say_whether_tokens_are_balanced():
    runs = [run_of(ROW | {"notes": f"DeepEP; {words}"}) for words in ("forced balance", "dropless natural")]
    assert [run.setup.imbalance for run in runs] == [1.0, 1.8]
    assert step_s(runs[0], runs[0].stack) < step_s(runs[1], runs[1].stack)


def test_a_recipe_has_layers_of_stages_and_multi_token_heads():
    deepseek = {"model_name": "DeepSeek-V3-671B", "vpp": "", "ep": "32"}
    found = {stages: run_of(ROW | deepseek | stages_of).setup for stages, stages_of in
             {16: {"pp": "16", "ep": "16"}, 8: {"pp": "8"}, 2: {"pp": "2"}}.items()}  # fmt: skip
    assert [found[stages].stage_layers for stages in found] == [(*[4] * 15, 1), (*[8] * 7, 5), ()]
    assert all(setup.multi_token for setup in found.values())


def test_a_cell_that_leaves_the_kernel_to_transformer_engine_is_as_good_as_empty():
    cells = {"system": "NeMo", "source_title": "recipes (v25.05.05)", "model_name": "DeepSeek-V3-671B", "vpp": ""}
    row = ROW | cells | {"precision": "bf16", "pp": "4", "devices": "128", "global_batch": "1024"}
    assert not run_of(row | {"attention": "flash (TE/cuDNN)"}).setup.flash
    assert run_of(row | {"attention": "flash"}).setup.flash


def test_recompute_from_the_settings_of_a_simulation_is_none_of_the_run():
    told = run_of(ROW | {"recompute": "full", "notes": "recompute/1F1B/vocab from repo's matching simulation configs"})
    assert told.setup.recompute == "none"
    assert "recompute as usual, since 'full' is from the settings of a simulation" in told.guessed
    assert run_of(ROW | {"recompute": "full", "notes": "recompute from the page"}).setup.recompute == "full"


def test_notes_say_blocking_launches_stages_and_series():
    bloom = {"system": "Megatron-DeepSpeed", "model_name": "GPT", "layers": "78", "hidden": "1024", "heads": "16"}
    cells = {"device": "A100-80GB", "per_node": "8", "devices": "96", "tp": "8", "pp": "12", "global_batch": "8"}
    said = {"notes": "one step; CUDA_LAUNCH_BLOCKING=1 (script); stages 11*7+1 (page); series 02-25 (page)"}
    run = run_of({"seq_len": "2048", "precision": "fp16"} | bloom | cells | said)
    assert run.setup.stage_layers == (*[7] * 11, 1)
    assert run.row["series"] == "02-25"
    assert (run.stack.blocking, run.stack.tp_shown, run.stack.p2p_shown) == (True, 1.0, 1.0)
    other = run_of(run.row | {"launches": "none", "stage_layers": "67+11*1"})
    assert (other.why_not, other.stack.blocking, other.setup.stage_layers[0]) == ("", False, 67)
    assert "use blocking, or none that wait" in run_of(run.row | {"launches": "late"}).why_not


@pytest.mark.parametrize("cells", [{"source_title": "my own runs"}, {"source_title": "99.01"}, {"device": "A100"}])
def test_without_a_recipe_nothing_is_filled(cells):
    assert not filled(**cells, vpp="").get("graphs")


def test_another_framework_has_other_recipes():
    assert with_recipe(ROW, stack("megatron-core"), []) == ROW


def test_what_was_filled_is_named():
    run = run_of(ROW | LATER)
    assert run.setup.graphs
    assert "graphs=step, as in the recipe of 26.06" in run.guessed
    assert (run.stack.gradient_bytes, run.stack.reduced_bytes, run.stack.dispatcher) == (2.0, 2.0, "hybridep")


@pytest.mark.parametrize(
    ("cell", "says"),
    [("graphs", "use step, none, or of block, attention, router, mlp"), ("gradients", "use bf16 or fp32")],
)
def test_unknown_words_are_named(cell, says):
    run = run_of(ROW | {cell: "fp12"})
    assert run.why_not.startswith(f"{cell}='fp12'")
    assert says in run.why_not


@pytest.mark.parametrize(
    ("cells", "field", "value"),
    [
        ({"device": "A100-40GB-SXM"}, "stops_early", False),
        ({"device": "A100-80GB-SXM"}, "stops_early", True),
        ({"device": "A100-80GB-SXM", "torch": "2.0.1"}, "stops_early", False),
        ({"device": "A100-80GB-SXM", "torch": "2.10"}, "stops_early", True),
        ({"source_title": "BigScience BLOOM", "system": "Megatron-DeepSpeed"}, "lacks", ("sp", "cp", "selective")),
        ({"source_title": "my own runs", "system": "Megatron-DeepSpeed"}, "lacks", ()),
    ],
)
def test_an_older_version_lacks_what_a_later_one_has(cells, field, value):
    row = {"source_title": "MosaicML llm-foundry MPT training benchmarks", "system": "llm-foundry", "per_node": "8"}
    row |= {"device": "A100-80GB-SXM", "devices": "8", "model_name": "MPT-7b", "seq_len": "2048", "global_batch": "64"}
    run = run_of(row | cells)
    assert not run.why_not
    assert getattr(run.stack, field) == value


def test_a_policy_that_keeps_the_first_products_makes_the_rest_again():
    row = ROW | {"system": "MaxText (JAX)", "source_title": "Recipes (v25.02)", "device": "H100-80GB-SXM"}
    run = run_of(row | {"model_name": "Llama-3-70B", "precision": "bf16", "pp": "1", "vpp": "", "ep": ""})
    again = set(run.setup.recompute)
    assert {"attention.core", "attention.out", "mlp"} <= again
    assert "attention.qkv" not in again


def test_a_version_without_numbers_is_named():
    assert "torch='new' is no version" in run_of(ROW | {"torch": "new"}).why_not


def test_each_recipe_can_be():
    for recipe in recipes():
        assert recipe["framework"] in stacks()
        assert recipe["place"].startswith("github.com/")
        assert recipe["from"] <= recipe["to"]
        assert any(recipe[name] for name in (*FILLED, *TUNED))
        assert not recipe["device"] or device(recipe["device"])
        ways_of(recipe)


def test_a_fit_keeps_what_the_row_says():
    run = run_of(ROW | {"seconds_per_iter": "20"})
    plain = replace(run, stack=stack("megatron-bridge"), ways={})
    both = Problem([run, plain], [], stacks(), np.ones(2)).errors(np.zeros(0))
    assert both == pytest.approx(np.log([step_s(run, run.stack) / 20, step_s(plain, plain.stack) / 20]))
    assert both[0] < both[1]


def test_some_constants_can_be_fitted_alone():
    dials = of_tables()
    some = chosen(dials, ["megatron-bridge", "hopper fp8"])
    expected = {("megatron-bridge", "fused_experts_s"), ("sustained", "hopper fp8")}
    assert {(dial.owner, dial.name) for dial in some} >= expected
    assert {dial.owner for dial in some} == {"megatron-bridge", "sustained"}
    assert chosen(dials, []) == dials
    with pytest.raises(SystemExit, match="'megatron-brige' has no constants that are fitted; did you mean 'megatron-b"):
        chosen(dials, ["megatron-brige"])


def test_recipes_of_fine_tuning_pack_short_sequences_and_adapt_some_matrices():
    llama = {
        "model_name": "Llama-3-70B",
        "device": "H100-80GB-SXM",
        "ep": "",
        "pp": "4",
        "tp": "2",
        "global_batch": "256",
    }
    tuned = ROW | LATER | llama | {"task": "lora", "precision": "bf16", "devices": "64", "vpp": ""}
    run = run_of(tuned)
    assert run.why_not == ""
    assert run.setup.adapter_on == ("attention.qkv",)
    assert run.model.blocks[0].attention.mask == Mask(chunk=196)
    assert run_of(tuned | {"packed": "512"}).model.blocks[0].attention.mask == Mask(chunk=512)
    plain = run_of(tuned | {"task": "pretrain"})
    assert (plain.setup.adapter_on, plain.model.blocks[0].attention.mask) == ((), Mask())


def test_activations_of_some_layers_wait_on_the_host():
    cells = {"model_name": "Llama-3-70B", "precision": "fp8", "ep": "", "pp": "1", "vpp": "", "devices": "64"}
    run = run_of(ROW | cells | {"zero_stage_or_fsdp": "FSDP=64", "micro_batch": "2"})
    assert run.setup.offload == 40 / 80
    assert "offload=activation:40 layers, as in the recipe of 26.04" in run.guessed


@pytest.mark.parametrize(
    ("notes", "beside"),
    [
        ("EP overlap on", True),
        ("EP overlap off", False),
        ("alltoall, no EP overlap", False),
        ("alltoall, EP overlap", True),
        ("+1f1b overlap of EP comm", True),
        ("and expert-parallel communication overlap", True),
        ("", False),
    ],
)
def test_notes_say_whether_experts_messages_run_beside_another_micro_batch(notes, beside):
    run = run_of(ROW | {"source_title": "", "notes": notes})
    assert run.setup.ep_overlap == ("on" if beside else "own")
    whole = run_of(ROW | {"source_title": ""})
    assert (step_s(run, run.stack) < step_s(whole, whole.stack)) == beside


def test_nobody_waits_for_counts_where_tokens_are_dropped():
    drops, drops_none = (run_of(ROW | {"source_title": "", "notes": notes}) for notes in ("tokendrop", "dropless"))
    assert (drops.stack.counting, drops_none.stack.counting) == ((), ("experts_s",))
    alike = replace(drops.stack, dropped_routing=drops.stack.routing)
    waited_s = step_s(drops_none, drops_none.stack) - step_s(drops, alike)
    assert waited_s > 11 * drops.setup.micros * drops.stack.experts_s  # a rank has 11 or 12 blocks
    assert step_s(drops, drops.stack) > step_s(drops, alike)


def test_whole_blocks_in_graphs_launch_less_than_parts_of_them():
    seconds = [step_s(run, run.stack) for graphs in ("none", "attention", "block")
               if (run := run_of(ROW | {"source_title": "", "graphs": graphs, "precision": "bf16"}))]  # fmt: skip
    assert seconds[0] > seconds[1] > seconds[2]
