"""Parameters of every family, to the last one, beside transformers on the meta device."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import family_defaults
from families import CASES, CONFIGS
from penstock.core.config import architecture_from_config, catalogue, described, gpt, read_architecture
from penstock.core.config.described import known_name
from penstock.core.config.families import OTHERS, STYLES


def meta(family: str, config: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(family, **{"pad_token_id": 0, **config})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    model.tie_weights()
    return model


@pytest.mark.parametrize("case", CASES)
def test_parameters_equal_those_of_transformers(case: str) -> None:
    family, config = CASES[case]
    ours = architecture_from_config(case, {"model_type": family, **config}, "config.json")
    theirs = dict(meta(family, config).named_parameters())
    assert ours.parameters == sum(value.numel() for value in theirs.values()), {
        name: tuple(value.shape) for name, value in theirs.items()
    }


def test_every_family_of_transformers_is_compared() -> None:
    assert set(CONFIGS) == {*STYLES, *OTHERS} - family_defaults.NOT_IN_TRANSFORMERS


def test_silent_keys_mean_what_transformers_takes() -> None:
    pytest.importorskip("transformers")
    assert family_defaults.FILE.read_text() == family_defaults.text(), "run python tests/family_defaults.py"


# -- the catalogue ---------------------------------------------------------------------------------------------------

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-12b": 11_846_072_320,
    "opt-350m": 331_196_416,
    "bloom-176b": 176_247_271_424,
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "qwen-7b": 7_721_324_544,
    "qwen2-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma-2b": 2_506_172_416,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "phi-3.5-moe": 41_873_153_344,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_404_352,
    "falcon-7b": 6_921_720_704,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "mpt-7b": 6_649_286_656,
    "starcoder2-15b": 15_957_889_024,
    "olmo-2-13b": 13_716_198_400,
    "olmoe-1b-7b": 6_919_161_856,
    "dbrx": 131_596_523_520,
    "jamba-v0.1": 51_570_323_328,
}
"""Parameters that their publishers give with the weights."""
ROUND = {
    "gpt3-175b": 175,
    "llama-4-scout": 108,
    "llama-4-maverick": 400,
    "grok-1": 314,
    "nemotron-4-15b": 15.6,
    "nemotron-4-340b": 341,
    "nemotron-3-nano-30b-a3b": 31.6,
    "nemotron-3-super-120b-a12b": 120.6,
    "kimi-k2": 1026,
    "glm-4.5": 355,
    "deepseek-v4-flash": 284,
    "falcon-180b": 180,
    "qwen3-next-80b-a3b": 80,
    "opt-175b": 175,
}
"""As many as they say in billions."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_parameters(name: str) -> None:
    assert read_architecture(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", ROUND)
def test_published_models_have_about_the_published_parameters(name: str) -> None:
    assert read_architecture(name).parameters == pytest.approx(ROUND[name] * 1e9, rel=0.015)


def test_active_parameters_are_those_of_the_name() -> None:
    for name, billions in {"qwen3-235b-a22b": 22, "deepseek-v3": 37, "qwen3-30b-a3b": 3.3, "kimi-k2": 32.6}.items():
        assert read_architecture(name).active_parameters == pytest.approx(billions * 1e9, rel=0.02)


def test_the_catalogue_covers_the_families_people_train() -> None:
    assert len(catalogue()) >= 60
    for name, config in catalogue().items():
        assert config["source"], name
        assert read_architecture(name).layers > 0


IN_TRANSFORMERS = [name for name, config in catalogue().items() if config["model_type"] in CONFIGS]
QUICK = ("mixtral-8x7b", "deepseek-v2-lite", "gemma-3-4b", "gpt-oss-20b")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in IN_TRANSFORMERS]
)
def test_the_catalogue_means_to_transformers_what_it_means_to_us(name: str) -> None:
    config = {key: value for key, value in catalogue()[name].items() if key != "source"}
    theirs = meta(config.pop("model_type"), config)
    assert read_architecture(name).parameters == sum(value.numel() for value in theirs.parameters())


# -- reading, and what cannot be read --------------------------------------------------------------------------------


def test_files_folders_and_shipped_models_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "mixtral", **CONFIGS["mixtral"]}))
    assert read_architecture(tmp_path) == read_architecture(file)
    assert read_architecture(file).family == "mixtral"
    assert read_architecture(file).name == tmp_path.name
    assert read_architecture("tiny-llama").layers == 8


def test_the_language_model_of_a_model_for_images_is_read() -> None:
    inner = {**CONFIGS["gemma3_text"], "model_type": "gemma3_text"}
    outer = {"model_type": "gemma3", "text_config": inner, "vision_config": {"hidden_size": 1}}
    plain = architecture_from_config("a", inner, "config.json")
    assert architecture_from_config("a", outer, "config.json") == plain
    del inner["model_type"]
    assert architecture_from_config("a", outer, "config.json") == plain


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hidden_size": 64}, "config.json has no key 'model_type'"),
        (
            {"model_type": "bamba", **CONFIGS["bamba"], "use_bias": 1},
            "use_bias=1 must be true or false",
        ),
        ({"model_type": "qwen4"}, "model_type='qwen4' is unknown; did you mean"),
        ({"model_type": "llama", "hidden_size": 64}, "config.json has no key 'num_hidden_layers'"),
        (
            {"model_type": "mixtral", **CONFIGS["mixtral"], "num_local_experts": 0},
            "num_local_experts=0 must be a whole",
        ),
        ({"model_type": "mixtral", **CONFIGS["mixtral"], "num_experts_per_tok": 7}, "topk=7 of experts=6"),
        ({"model_type": "llama", **CONFIGS["llama"], "num_key_value_heads": 3}, "=3 does not divide num_attention"),
        ({"model_type": "qwen3", **CONFIGS["qwen3"], "layer_types": ["full_attention"]}, "has 1 entries for 4 layers"),
        ({"model_type": "gpt2", **CONFIGS["gpt2"], "add_cross_attention": True}, "is no decoder-only model"),
        ({"model_type": "nemotron_h", "num_hidden_layers": 2, "hybrid_override_pattern": "MX"}, "must name each layer"),
    ],
)
def test_bad_configs_are_named_with_the_fix(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        architecture_from_config("bad", config, "config.json")
    assert says in str(caught.value)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="model='llama-3-9b' is unknown; did you mean 'llama-3"):
        read_architecture("llama-3-9b")


# -- from numbers ----------------------------------------------------------------------------------------------------


def test_numbers_make_the_models_that_configs_make() -> None:
    ours = gpt(layers=12, hidden=768, heads=12, vocab=50257, positions=1024, tied=True)
    assert ours.parameters == read_architecture("gpt2").parameters
    sizes = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "gated": True}
    assert gpt(**sizes, vocab=128256).parameters == read_architecture("llama-3-8b").parameters
    mixed = gpt(**sizes, vocab=32000, experts=8, topk=2)
    known = read_architecture("mixtral-8x7b")
    assert (mixed.parameters, mixed.active_parameters) == (known.parameters, known.active_parameters)
    first = gpt(**sizes, vocab=32000, experts=8, topk=2, expert_ffn=1024, shared_ffn=2048, dense_layers=3)
    assert [block.parameters for block in first.blocks[2:4]] != [block.parameters for block in first.blocks[3:5]]


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"layers": 0}, "layers=0 must be above 0"),
        ({"heads": 7}, "heads=7 does not divide hidden=64; use 1, 2, 4, 8"),
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=8; use 1, 2, 4, 8"),
        ({"kv_heads": -1}, "kv_heads=-1 does not divide heads=8; use 1, 2, 4, 8"),
        ({"experts": 4, "topk": 5}, "topk=5 of experts=4"),
        ({"experts": 4, "dense_layers": 3}, "dense_layers=3 of layers=2: use 0 to 2"),
    ],
)
def test_numbers_that_do_not_fit_are_named(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        gpt(**{"layers": 2, "hidden": 64, "heads": 8, "vocab": 96, **sizes})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sizes", "family", "layers", "guessed"),
    [
        ("Llama-3-70B-L12", {"layers": 12, "hidden": 8192, "heads": 64, "kv_heads": 8}, "llama", 12, ""),
        ("Qwen3-235B-A22B", {"layers": 94, "hidden": 4096, "ffn": 12288}, "qwen3_moe", 94, ""),
        ("DeepSeek-V3-671B", {"layers": 61, "vocab": 129280}, "deepseek_v3", 61, ""),
        ("DeepSeek-V3-proxy-14L (all MoE)", {"layers": 14, "hidden": 7168}, "deepseek_v3", 14, ""),
        ("DeepSeek-V2-L4", {"layers": 4, "hidden": 5120}, "deepseek_v2", 4, "its 4 layers are the first"),
        ("Nemotron_3_Super", {}, "nemotron_h", 88, ""),
        ("Nemotron-3-Nano-30B-A3B (hybrid Mamba MoE)", {}, "nemotron_h", 52, ""),
        ("Kimi-K2-1T", {"layers": 61}, "deepseek_v3", 61, ""),
        ("Qwen3.5-VL-35B-A3B", {}, "qwen3_5_moe_text", 40, ""),
        ("Grok-1-314B-proxy", {"layers": 2, "experts": 8}, "grok-1", 2, ""),
        ("qwen3.8-27b", {}, "qwen3_5_text", 64, "is taken to be like"),
        (
            "Llama-3.1-405B",
            {"layers": 126, "hidden": 16384, "heads": 128, "kv_heads": 16, "gated": True},
            "gpt",
            126,
            "",
        ),
        ("GPT-52B", {"layers": 64, "hidden": 8192, "ffn": 32768, "gated": False}, "gpt", 64, "heads=64"),
        ("GPT-187B", {"layers": 80, "hidden": 13824, "heads": 80, "kv_heads": 80}, "gpt", 80, "heads=80 does not"),
    ],
)
def test_models_of_tables_are_found_or_made(
    name: str, sizes: dict[str, Any], family: str, layers: int, guessed: str
) -> None:
    found = described(name, **sizes)
    assert (found.model.family, found.model.layers) == (family, layers)
    assert guessed in "; ".join(found.guessed)
    assert not (family != "gpt" and not guessed and found.guessed)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("GPT3-175B", "gpt3-175b"),
        ("LLaMA-7B", "llama-7b"),
        ("llama2-7b", "llama-2-7b"),
        ("meta-llama/Meta-Llama-3-70B", "llama-3-70b"),
        ("Llama 3.1 8B", "llama-3.1-8b"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("DeepSeek-V3.2-Exp", "deepseek-v3.2"),
        ("Nemotron_3_5_Lightning", "nemotron-3.5-lightning-30b-a3b"),
        ("gpt_oss 20b", "gpt-oss-20b"),
        ("grok1-314b", "grok-1"),
        ("GPT-2 XL", "gpt2-xl"),
        ("gpt2-1.5b", None),
        ("MPT-1.3B", None),
        ("GPT-24B", None),
        ("GPT-30B", None),
    ],
)
def test_names_are_known_however_they_are_written(name: str, known: str | None) -> None:
    assert known_name(name) == known


def test_a_proxy_of_experts_alone_has_no_other_layers() -> None:
    found = described("DeepSeek-V3-proxy-14L (all MoE)", layers=14)
    assert len(found.model.kinds()) == 1
    assert found.model.blocks[0] == read_architecture("deepseek-v3").blocks[-1]


def test_layers_without_experts_come_first() -> None:
    found = described("DeepSeek-V3-L4", layers=4, dense_layers=1)
    assert not found.guessed
    whole = read_architecture("deepseek-v3").blocks
    assert found.model.blocks == (whole[0], *whole[-3:])
    with pytest.raises(ValueError, match="dense_layers=5 are more than layers=4; use 0 to 4"):
        described("DeepSeek-V3-L4", layers=4, dense_layers=5)


def test_a_vocabulary_of_its_own_counts() -> None:
    usual, padded = described("GPT-3-175B").model, described("GPT-3-175B", vocab=51200, tied=False).model
    assert padded.parameters - usual.parameters == 12288 * (2 * 51200 - 50257)


def test_a_name_without_sizes_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="model='GPT-XL' is not in the catalogue; give layers and hidden"):
        described("GPT-XL")


def test_equal_blocks_are_one_object() -> None:
    made = gpt(layers=3, hidden=64, heads=4, vocab=96)
    again = replace(made, blocks=(*made.blocks, replace(made.blocks[0])))
    assert len({id(block) for block in again.blocks}) == 1
