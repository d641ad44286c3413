"""Overrides of Megatron-Bridge's recipes: written for models with a recipe and without, and read again."""

import re
from dataclasses import replace

import pytest
from exported import CLUSTER, asked
from hypothesis import given
from test_parsers import written
from test_round_trip import SLOWLY

from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.export.bridge import PLAIN, RECIPES
from penstock.export.frameworks import export
from penstock.export.read import read_file

SETUP = Setup(
    seq=8192, batch=256, tp=2, pp=4, dp=8, chunks=2, schedule="interleaved", sp=True, zero=1, precision="fp8-current",
    wide_first=1, wide_last=1, low_weights=True, recompute=("attention.core",), optimizer="adam-bf16", fused_loss=True,
)  # fmt: skip


@pytest.mark.parametrize("name", ["llama-3-8b", "qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b"])
def test_a_known_model_is_its_recipe_and_others_are_sizes(name, tmp_path):
    model, file = read_architecture(name), tmp_path / "bridge.sh"
    experts = name != "llama-3-8b"
    setup = replace(SETUP, ep=4 if experts else 1, tp=2, chunks=1 if model.layers % 8 else 2, stage_layers=())
    setup = replace(setup, schedule="interleaved" if setup.chunks > 1 else "1f1b")
    export(f"bridge:{file}", model, CLUSTER, setup)
    read = read_file(file, setup.devices)
    assert read.framework == "megatron-bridge"
    assert not read.unread
    given_ = {name: value for name, value in read.fields.items() if name != "stage_layers"}
    assert Setup(**given_) == setup
    if name in RECIPES:
        assert (read.model, f"--recipe {RECIPES[name]}_pretrain_config " in file.read_text()) == (name, True)
    else:
        assert f"--recipe {PLAIN} " in file.read_text()
        assert read.model.parameters == pytest.approx(model.parameters, rel=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_models_with_recipes_are_known(name):
    assert read_architecture(name).layers > 0


COMMAND = """
torchrun --nnodes 4 --nproc_per_node 8 scripts/training/run_recipe.py \\
    --recipe llama3_70b_pretrain_32gpu_h100_bf16_config --mode pretrain -tp 4 --global_batch_size 128 \\
    --micro_batch_size 1 -sl 4096 dataset.seq_length=8192 model.sequence_parallel=true \\
    'model.pipeline_model_parallel_size=4' model.recompute_modules=[core_attn] model.recompute_granularity=selective \\
    optimizer.lr=1e-4 model.apply_rope_fusion=true
"""


def test_a_command_with_flags_and_overrides_is_read(tmp_path):
    file = tmp_path / "run.sh"
    file.write_text(COMMAND)
    read = read_file(file, 8)
    wanted = {
        "tp": 4,
        "pp": 4,
        "dp": 2,
        "batch": 128,
        "micro": 1,
        "seq": 8192,
        "sp": True,
        "precision": "bf16",
        "zero": 1,
    }
    assert read.model == "llama-3-70b"
    assert {name: read.fields[name] for name in wanted} == wanted
    assert read.fields["recompute"] == ("attention.core",)
    assert read.unread == ("model.apply_rope_fusion",)


def test_words_of_python_are_those_of_yaml(tmp_path):
    file, flags = tmp_path / "run.sh", "-tp 1 -mb 1 -gb 8 -sl 2048"
    words = {
        "model.num_layers": 2,
        "model.hidden_size": 64,
        "model.num_attention_heads": 2,
        "train.global_batch_size": 8,
    }
    words |= {"model.add_bias_linear": "True", "model.sequence_parallel": "False", "mixed_precision": "None"}
    words |= {"optimizer.exp_avg_dtype": "bfloat16", "optimizer.exp_avg_sq_dtype": "torch.bfloat16"}
    said = " ".join(f"{key}={value}" for key, value in words.items())
    file.write_text(f"python scripts/training/run_recipe.py --recipe {PLAIN} {flags} {said}\n")
    read = read_file(file, 8)
    assert read.unread == ()
    assert read.model.blocks[0].attention.out_bias
    assert [read.fields[name] for name in ("sp", "precision", "optimizer")] == [False, "fp32", "adam-bf16"]


def test_a_plain_model_with_more_than_sizes_say_is_asked_for(tmp_path):
    file, sizes = tmp_path / "run.sh", "model.num_layers=4 model.hidden_size=64 model.num_attention_heads=2"
    file.write_text(f"python run_recipe.py --recipe {PLAIN} {sizes} model.moe_layer_freq=[1,0,1,0] -tp 1 -mb 1 -gb 8\n")
    read = read_file(file, 8)
    assert read.model is None
    assert read.unread[-1] == "the model, which has experts in other layers than all but the first; give --model"


def test_what_a_recipe_sets_by_itself_is_said(tmp_path):
    file = tmp_path / "run.sh"
    file.write_text("python scripts/training/run_recipe.py --recipe llama3_8b_pretrain_config -tp 2 -cp 2\n")
    (said,) = read_file(file, 8).unread
    assert said.startswith("--micro-batch-size, --global-batch-size, --seq-length, which llama3_8b_pretrain_config")


def test_an_unknown_recipe_is_an_error_with_the_nearest(tmp_path):
    file = tmp_path / "run.sh"
    file.write_text("python scripts/training/run_recipe.py --recipe llama3_9b_pretrain_config\n")
    with pytest.raises(ValueError, match="did you mean 'llama3_8b'"):
        read_file(file, 8)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("llama-3-8b", {"adapter": 16}, "bridge: adapters"),
        ("llama-3-8b", {"optimizer": "adafactor"}, "bridge: it has no Adafactor"),
        ("deepseek-v3", {}, "no recipe of other, and its plain GPT has no latent attention"),
    ],
)
def test_what_it_cannot_train_is_refused(name, change, says, tmp_path):
    model = read_architecture(name)
    model = replace(model, name="other") if not change else model
    with pytest.raises(ValueError, match=says):
        export(f"bridge:{tmp_path / 'x.sh'}", model, CLUSTER, replace(SETUP, **change))
    assert not (tmp_path / "x.sh").exists()


def test_hydra_reads_every_override(tmp_path):
    hydra = pytest.importorskip("hydra.core.override_parser.overrides_parser", reason="Hydra reads Megatron-Bridge's")
    parser, file = hydra.OverridesParser.create(), tmp_path / "bridge.sh"

    @SLOWLY
    @given(asked())
    def check(what):
        setup = written("bridge", file, what)
        words = re.findall(r"^    '(.*)'$", file.read_text(), re.MULTILINE)
        got = {one.key_or_group: one.value() for one in parser.parse_overrides(words)}
        assert (got["model.tensor_model_parallel_size"], got["train.global_batch_size"]) == (setup.tp, setup.batch)
        assert got["model.sequence_parallel"] == (setup.sp and setup.tp > 1)
        assert isinstance(got["model.attention_dropout"], float)

    check()
