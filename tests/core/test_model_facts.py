import json
from pathlib import Path
from typing import Any

import pytest

from penstock.core.model import Model, model_from_config, shipped_models

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 96}
WITHOUT_KV = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SMALL},
    "llama with biases": {"model_type": "llama", **SMALL, "attention_bias": True, "mlp_bias": True},
    "llama tied": {"model_type": "llama", **SMALL, "tie_word_embeddings": True},
    "llama wide heads": {"model_type": "llama", **SMALL, "head_dim": 32},
    "llama without kv heads": {"model_type": "llama", **WITHOUT_KV},
    "llama with null kv heads": {"model_type": "llama", **SMALL, "num_key_value_heads": None},
    "mistral": {"model_type": "mistral", **SMALL, "head_dim": 24},
    "mistral without kv heads": {"model_type": "mistral", **WITHOUT_KV},
    "qwen2": {"model_type": "qwen2", **SMALL},
    "qwen2 tied": {"model_type": "qwen2", **SMALL, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **SMALL},
    "qwen3 with biases": {"model_type": "qwen3", **SMALL, "attention_bias": True, "head_dim": 16},
    "gpt2": {"model_type": "gpt2", **GPT2},
    "gpt2 untied": {"model_type": "gpt2", **GPT2, "n_inner": 100, "tie_word_embeddings": False},
}


def parameters_of_transformers(config: dict[str, Any]) -> dict[str, int]:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    model.tie_weights()
    return {name: value.numel() for name, value in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_equal_those_of_transformers(name: str) -> None:
    model = model_from_config(name, CONFIGS[name], "config.json")
    assert model.architecture.parameters == model.parameters
    assert model.architecture.blocks[0].parameters == model.layer_parameters
    counts = parameters_of_transformers(CONFIGS[name])
    assert model.parameters == sum(counts.values())
    first_layer = sum(count for key, count in counts.items() if ".layers.0." in key or ".h.0." in key)
    assert model.layer_parameters == first_layer
    assert model.head_parameters == counts.get("lm_head.weight", 0)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # LLaMA 7B, https://huggingface.co/huggyllama/llama-7b: 6,738,415,616 parameters
        (
            {
                "model_type": "llama",
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "vocab_size": 32000,
            },
            6_738_415_616,
        ),
        # GPT-2 small, https://huggingface.co/openai-community/gpt2: 124,439,808 parameters
        (
            {
                "model_type": "gpt2",
                "n_embd": 768,
                "n_layer": 12,
                "n_head": 12,
                "n_positions": 1024,
                "vocab_size": 50257,
            },
            124_439_808,
        ),
    ],
)
def test_counts_of_known_models(config: dict[str, Any], count: int) -> None:
    assert model_from_config("known", config, "config.json").parameters == count


def test_shipped_models_all_read() -> None:
    for name in shipped_models():
        model = Model.read(name)
        assert model.name == name
        assert model.parameters == sum(parameters_of_transformers(dict(model.config)).values())


def test_read_takes_a_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "config.json"
    file.write_text(json.dumps(CONFIGS["llama"]))
    assert Model.read(tmp_path / "mine") == Model.read(file)
    assert Model.read(file).name == "mine"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(CONFIGS["llama"]))
    assert Model.read(other).name == "other"
    assert hash(Model.read(other))


def test_facts_of_a_config() -> None:
    model = model_from_config("x", CONFIGS["mistral"], "config.json")
    assert (model.family, model.layers, model.hidden, model.vocab) == ("mistral", 3, 64, 96)
    assert (model.heads, model.kv_heads, model.head_dim, model.ffn, model.positions) == (8, 2, 24, 112, 128)
    assert not model.tied
    assert model.config["hidden_size"] == 64


def test_cut_is_even_or_as_given() -> None:
    model = model_from_config("x", {**CONFIGS["llama"], "num_hidden_layers": 6}, "config.json")
    assert model.cut(3) == (range(0, 2), range(2, 4), range(4, 6))
    assert model.cut(1) == (range(0, 6),)
    assert model.cut(4, (0, 4, 2, 0)) == (range(0, 0), range(0, 4), range(4, 6), range(6, 6))


@pytest.mark.parametrize(
    ("stages", "stage_layers", "says"),
    [
        (4, None, "stages=4 does not divide 6 layers; use 1, 2, 3, 6 or give stage_layers"),
        (0, None, "stages=0 is too small; use 1, 2, 3, 6"),
        (2, (3, 4), "stage_layers=[3, 4] adds up to 7, not to the 6 layers of x; with 3 as the last number it would"),
        (2, (9, 4), "stage_layers=[9, 4] adds up to 13, not to the 6 layers of x"),
        (2, (7, -1), "stage_layers=[7, -1] has -1; use 0 or more"),
        (3, (3, 3), "stage_layers=[3, 3] has 2 numbers for 3 stages; give 3 numbers"),
    ],
)
def test_cut_refuses(stages: int, stage_layers: tuple[int, ...] | None, says: str) -> None:
    model = model_from_config("x", {**CONFIGS["llama"], "num_hidden_layers": 6}, "config.json")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        model.cut(stages, stage_layers)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model_type": "llama",\n  oops}', "config.json: line 2, column 3: Expecting property name"),
        ("[1]", "holds a JSON list; a config.json is an object"),
        ("{}", "has no key 'model_type'; it must be one of llama, mistral"),
        ('{"model_type": "lama"}', "model_type='lama' is unknown; did you mean 'llama'?"),
        ('{"model_type": "t5"}', "choose from llama, mistral, qwen2, qwen3, gpt2"),
        (json.dumps({"model_type": "llama", "hiden_size": 3}), "no key 'hidden_size'; it has 'hiden_size', is that"),
        (json.dumps({**CONFIGS["llama"], "vocab_size": "96"}), "vocab_size='96' must be a whole number above 0"),
        (json.dumps({**CONFIGS["llama"], "vocab_size": True}), "vocab_size=True must be a whole number above 0"),
        (json.dumps({**CONFIGS["llama"], "mlp_bias": 1}), "mlp_bias=1 must be true or false"),
        (
            json.dumps({**CONFIGS["llama"], "num_attention_heads": 6}),
            "num_attention_heads=6 does not divide hidden_size=64; use 1, 2, 4, 8",
        ),
        (
            json.dumps({**CONFIGS["llama"], "num_key_value_heads": 3}),
            "num_key_value_heads=3 does not divide num_attention_heads=8; use 1, 2, 4, 8",
        ),
        (json.dumps({**CONFIGS["gpt2"], "n_head": 5}), "n_head=5 does not divide n_embd=48; use 2, 3, 4, 6"),
        (json.dumps({**CONFIGS["gpt2"], "add_cross_attention": True}), "is no decoder-only model"),
    ],
)
def test_bad_configs_are_named_with_the_fix(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        Model.read(tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text("{}")
    with pytest.raises(ValueError, match=r"smal.json' does not exist; did you mean '.*small.json'\?"):
        Model.read(tmp_path / "smal.json")
    with pytest.raises(ValueError, match=r"is a folder without config.json"):
        Model.read(tmp_path)
    with pytest.raises(ValueError, match=r"model='gigantic' is unknown; "):
        Model.read("gigantic")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"bytes.json is not UTF-8 text \(byte 0\)"):
        Model.read(tmp_path / "bytes.json")
