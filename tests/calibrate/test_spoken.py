"""Rows as tables write them: words, units, names, and what is left out. Each is predicted, or says why not."""

from __future__ import annotations

import pytest

from penstock.calibrate.published import run_of
from penstock.calibrate.spoken import schedule_of
from penstock.calibrate.validation import compared

ROW = {
    "id": "A", "system": "Megatron-LM", "model_name": "Llama-3-8B", "device": "H100-80GB-SXM", "devices": "64",
    "seq_len": "8192", "global_batch": "512", "micro_batch": "1", "tp": "2", "pp": "2", "dp": "16", "cp": "1",
    "zero_stage_or_fsdp": "1", "recompute": "none", "precision": "bf16", "attention": "flash",
}  # fmt: skip
NO_LAYOUT = dict.fromkeys(("tp", "pp", "dp", "cp", "micro_batch", "zero_stage_or_fsdp", "recompute"), "")


def row(**cells):
    (found,) = compared([run_of(ROW | cells)])
    return found


def setup(**cells):
    run = run_of(ROW | cells)
    assert run.why_not == ""
    return run.setup


@pytest.mark.parametrize(
    ("column", "words", "field", "value"),
    [
        ("seq_len", ("8k", "8K", "8,192", "8192 tokens", "8192.0"), "seq", 8192),
        ("global_batch", ("4M", "4M tokens", "512 sequences", "0.5k"), "batch", 512),
        ("devices", ("64 GPUs", "8x8", "8 nodes", "64.0"), "devices", 64),
        ("micro_batch", ("", "0", "1", "1 sequence"), "micro", 1),
        ("precision", ("BF16", "bfloat16", "bf16-mixed", "mixed", ""), "precision", "bf16"),
        ("precision", ("FP8 (E4M3)", "fp8_blockwise", "fp8-cs", "MXFP8"), "precision", "fp8"),
        ("precision", ("float16", "FP16 mixed", "16-true"), "precision", "fp16"),
        ("recompute", ("None", "no", "off", "0", "False"), "recompute", "none"),
        ("recompute", ("Full", "full AC", "yes", "gradient checkpointing", "uniform", "nothing_saveable"), "recompute",
         "full"),
        ("recompute", ("Selective", "SAC", "selective AC", "core_attn", "selective:core_attn"), "recompute",
         ("attention.core",)),
        ("recompute", ("minimal", "dots_saveable", "bananas"), "recompute", "selective"),
        ("recompute", ("block, 4 layers", "full, 4 layers", "checkpoint 25%", "every 4 layers"), "recompute_layers",
         (4,)),
        ("zero_stage_or_fsdp", ("ZeRO-3", "zero3", "Stage 3", "FSDP", "fsdp2", "FULL_SHARD", "optim_grads_params"),
         "zero", 3),
        ("zero_stage_or_fsdp", ("z3", "ds_z3_config.json"), "zero", 3),
        ("zero_stage_or_fsdp", ("ZeRO 1", "1 (os)", "distributed optimizer", "Zero Stage 1"), "zero", 1),
        ("zero_stage_or_fsdp", ("SHARD_GRAD_OP", "zero-2", "ZeRO-Offload", "optim_grads"), "zero", 2),
        ("zero_stage_or_fsdp", ("none", "DDP", "NO_SHARD", "no"), "zero", 0),
        ("zero_stage_or_fsdp", ("HSDP", "HYBRID_SHARD", "hsdp 8", "FSDP=8"), "shards", 8),
        ("attention", ("eager", "math", "none", "unfused"), "flash", False),
        ("attention", ("FA2", "sdpa", "FlashAttention-3"), "flash", True),
        ("sp", ("0", "no", "False"), "sp", False),
        ("schedule", ("ZB-H1", "zb1p", "zero bubble", "ZB-1p"), "schedule", "zb-h1"),
        ("schedule", ("DualPipe", "dualpipev"), "schedule", "dualpipev"),
        ("schedule", ("interleaved 1F1B", "1F1B-I"), "schedule", "interleaved"),
        ("schedule", ("PipeDream-flush", "DAPPLE", "1F1B, layers redistributed", "bananas", ""), "schedule", "1f1b"),
        ("offload", ("none", "no", "0"), "optimizer_offload", 0.0),
        ("offload", ("optimizer-cpu", "CPU optimizer", "ZeRO-Offload"), "optimizer_offload", 1.0),
        ("offload", ("activation:8 layers", "activations 25%"), "offload", 0.25),
        ("task", ("LoRA", "qlora", "PEFT"), "adapter", 16),
    ],
)  # fmt: skip
def test_words(column, words, field, value):
    assert {word: getattr(setup(**{column: word}), field) for word in words} == dict.fromkeys(words, value)


def test_selective_recompute_of_pytorch_keeps_products():
    assert setup(recompute="selective", system="torchtitan").recompute == "selective"


@pytest.mark.parametrize(
    ("name", "parameters", "guess"),
    [
        ("Meta Llama 3.1 8B Instruct", 8.03e9, ""),
        ("Llama-4-Scout-17B-16E", 107.8e9, ""),
        ("DeepSeek-R1", 671e9, "like deepseek-v3"),
        ("InternLM2-20B", 20e9, "like mistral-small-24b with 34 layers"),
        ("GPT-22B", 22e9, "the GPT of 48 layers of 6144"),
        ("GPT-310B", 310e9, "the GPT of 96 layers of 16384"),
        ("GPT 345M", 0.357e9, "the GPT of 24 layers of 1024"),
        ("Qwen3-MoE-30B", 30.5e9, "like qwen3-30b-a3b"),
        ("Llama 3 405B", 405.9e9, "like llama-3.1-405b"),
        ("PaLM 540B", 540e9, "PaLM of 118 layers"),
        ("Foo-30B-A3B", 30.5e9, "like qwen3-30b-a3b"),
        ("bloom", 176e9, ""),
    ],
)
def test_models_by_name_and_size(name, parameters, guess):
    run = run_of(ROW | {"model_name": name, "device": "B200", "ep": "8"})
    assert run.model.parameters == pytest.approx(parameters, rel=0.03)
    assert guess in " ".join(run.guessed)
    assert (run.stack.spread >= 0.3) == guess.startswith(("like mis", "the GPT", "PaLM", "like qwen"))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"model_name": "ViT-G/14"}, "is no decoder of text (ViT)"),
        ({"model_name": "Stable Diffusion XL"}, "is no decoder of text (Stable Diffusion)"),
        ({"model_name": "ERNIE-300B"}, "may have experts; name its active parameters"),
        ({"model_name": "mine"}, "give layers and hidden"),
        ({"tp": "3"}, "tp=3, pp=2 do not divide 64 devices"),
        ({"global_batch": "8"}, "batch=8 is no multiple of dp=16 times micro=1, and none that is is near"),
        ({"global_batch": "", "seconds_per_iter": "3"}, "has no global_batch, and its seconds depend on it"),
        ({"devices": "", "dp": ""}, "has no devices, and no dp"),
        ({"seq_len": "4096/8192"}, "seq_len='4096/8192' is no number"),
        ({"task": "inference"}, "is no training"),
        ({"device": "MLU590"}, "'MLU590' is no node or device"),
    ],
)
def test_why_a_row_is_not_predicted(cells, says):
    found = row(**cells)
    assert found.figures is None
    assert says in found.why_not


@pytest.mark.parametrize(
    ("cells", "guess"),
    [
        ({"tp": "4", "dp": "8"}, "dp=8"),
        ({"dp": "4"}, "dp=16, since dp=4 with tp=2 cp=1 pp=2 are not 64 devices"),
        ({"devices": ""}, "devices=64, the product of tp, cp, pp and dp"),
        ({"global_batch": "500"}, "global_batch=496, since 500 is no multiple of dp=16 times micro_batch=1"),
        ({"global_batch": "64", "micro_batch": "8"}, "micro_batch=4, since batch=64"),
        ({"global_batch": ""}, "global_batch=256"),
        ({"global_batch": "", "seconds_per_iter": "8", "tokens_per_s_per_device": "8192"}, "global_batch=512, by sec"),
        ({"model_name": "Foo", "layers": "24", "hidden": "2048", "ffn": "5632"}, "gated=True"),
        ({"model_name": "DiT", "layers": "28", "hidden": "1152", "heads": "16"}, "vocab=1024"),
        ({"model_name": "Foo", "layers": "24", "hidden": "2560", "heads": "20", "kv_heads": "8"}, "kv_heads=20 ("),
        ({"schedule": "Chimera"}, "schedule 1f1b for 'Chimera'"),
        ({"offload": "nvme"}, "offload='nvme': the optimizer's state in host memory, and nothing else"),
    ],
)  # fmt: skip
def test_what_is_guessed_is_said(cells, guess):
    found = row(**cells)
    assert found.why_not == ""
    assert found.figures.low_s < found.figures.seconds < found.figures.high_s
    if guess != "dp=8":
        assert guess in " ".join(found.figures.guessed)


def test_a_row_without_a_layout_has_that_of_a_planner():
    found = row(model_name="Llama-3.1-70B", **NO_LAYOUT)
    assert found.figures.fits
    assert found.run.setup.devices == 64
    assert found.run.setup.tp * found.run.setup.pp > 1
    assert found.run.stack.spread >= 0.3
    (said,) = [guess for guess in found.figures.guessed if "as a planner would choose" in guess]
    assert said.startswith(f"tp={found.run.setup.tp} pp={found.run.setup.pp} dp={found.run.setup.dp}")


def test_short_sequences_come_in_large_micro_batches():
    found = row(model_name="gpt2-xl", seq_len="512", global_batch="4096", **NO_LAYOUT)
    assert found.run.setup.micro > 2
    assert found.figures.fits


def test_what_a_row_says_of_its_layout_stays():
    some = NO_LAYOUT | {"tp": "8", "micro_batch": "2", "recompute": "full"}
    found = row(model_name="Llama-3.1-70B", **some)
    assert found.figures.fits
    assert (found.run.setup.tp, found.run.setup.micro, found.run.setup.recompute) == (8, 2, "full")
    small = row(**NO_LAYOUT | {"tp": "2"})
    assert (small.run.setup.tp, small.run.setup.pp, small.run.setup.dp) == (2, 1, 32)
    framework = row(model_name="Llama-2-7B", system="DeepSpeed", **NO_LAYOUT).run.setup
    assert (framework.pp, framework.zero > 0) == (1, True)


@pytest.mark.parametrize(
    "device",
    ["H100", "H100 SXM5 80GB", "NVIDIA H100 80GB HBM3", "H100 HBM3 SXM", "8xH100", "H100x8", "H100 (700W)", "DGX H100"],
)
def test_names_of_a_device(device):
    assert run_of(ROW | {"device": device}).cluster.device.name == "h100-80gb-sxm"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MI300X-192GB", "mi300x"), ("TPU v5p", "tpu-v5p"), ("tpu v5p-128", "tpu-v5p"), ("Trainium2", "trainium2"),
        ("A100-SXM4-40GB", "a100-40gb-sxm"), ("A100 80G", "a100-80gb-sxm"), ("RTX 4090", "rtx-4090"),
        ("A10G", "a10g"), ("v3-128", "tpu-v3"), ("Ascend910A", "ascend-910"),
    ],
)  # fmt: skip
def test_names_of_other_devices(text, name):
    assert run_of(ROW | {"device": text}).cluster.device.name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ampere A100", "a100-80gb-sxm"), ("Trn1 (Trainium)", "trainium1"), ("HPU Gaudi2", "gaudi2"),
        ("Iluvatar-BI-V150-64GB", "iluvatar-bi150"), ("DGX A100 640GB", "a100-80gb-sxm"),
    ],
)  # fmt: skip
def test_a_device_among_other_words_is_a_guess(text, name):
    run = run_of(ROW | {"device": text})
    assert (run.cluster.device.name, run.why_not) == (name, "")
    assert f"device {text!r} is taken to be" in " ".join(run.guessed)


def test_what_is_left_out_may_fill_the_device():
    said = {"model_name": "DeepSeek-V3", "device": "GB200", "devices": "256", "pp": "4", "vpp": "4", "ep": "64"}
    more = {"tp": "1", "dp": "64", "global_batch": "2048", "zero_stage_or_fsdp": "", "seq_len": "4096"}
    found = row(**said, **more, recompute="mla_up_proj, mlp", precision="MXFP8")
    assert (found.run.setup.zero, found.figures.fits) == (1, True)


def test_hosts_of_a_rack_share_its_switch():
    run = run_of(ROW | {"device": "GB200 NVL72", "devices": "256", "dp": "64"})
    assert [level.ranks for level in run.cluster.path(64)] == [64]
    assert "nodes of 4 devices" in run.guessed


def test_a_row_without_layout_and_batch_has_a_sequence_for_each_device():
    assert setup(**NO_LAYOUT, global_batch="").batch == 64


def test_measured_figures_with_units():
    found = row(seconds_per_iter="980 ms", peak_mem_gb="45.2 GB", mfu="45%")
    assert (found.measured_s, found.measured_gb) == (0.98, 45.2)
    assert found.measured_tflops == pytest.approx(445, rel=1e-2)
    assert row(peak_mem_gb="95%").unread == "peak_mem_gb='95%' is a share of something that is not said"


def test_schedules_with_two_copies_have_a_stand_in():
    assert (schedule_of("chimera"), schedule_of("dualpipe"), schedule_of("nothing known")) == ("1f1b", "dualpipev", "")
