"""torchtitan's training configuration as Python, which 0.3 takes in place of TOML: the same settings in its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.export.written import Left

Tables = Mapping[str, Mapping[str, Any]]
FLOAT8, MX, MX_EXPERTS = "quantize.linear.float8", "quantize.linear.mx", "quantize.grouped_mm.mx"
"""Converters, each with a table of its own."""
FILE = "train_config.py"
MODULES = ("deepseek_v3", "gpt_oss", "llama3", "qwen3")
"""Language models of ours that 0.3 has."""
GONE = ("expert_tensor_parallel_degree", "enable_async_tensor_parallel", "context_parallel_rotate_method")
"""Keys of ``parallelism`` that 0.3 has elsewhere or nowhere."""
LAYERS = "LAYERS"
"""The name of how many layers the model has, where converters are given some of them."""
POLICIES = {"none": "None", "selective": "SelectiveAC.Config()", "full": "FullAC.Config()"}
MARK = "for torchtitan 0.3: --module train_config --config train, with this folder on PYTHONPATH"
"""What our modules begin with, behind the name of the model."""
HEAD = '''"""{about}; {mark}."""

from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.optimizer import default_adamw
from torchtitan.components.quantization import (
    Float8LinearConverter,
    MXFP8GroupedExpertsConverter,
    MXFP8LinearConverter,
)
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
from torchtitan.models.common.config_utils import decoder_vocab_size
from torchtitan.models.{name} import model_registry
from torchtitan.trainer import Trainer

'''
BODY = """
def train() -> Trainer.Config:
    model = model_registry({flavor!r}, attn_backend="flex", converters=CONVERTERS)
    return Trainer.Config(
        model_spec=model,
        loss=CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(model)),
        optimizer=default_adamw(),
        dataloader=HuggingFaceTextDataLoader.Config(),
        training=TrainingConfig(**TRAINING),
        parallelism=ParallelismConfig(**PARALLELISM),
        activation_checkpoint={policy},
        compile=CompileConfig(**COMPILE),
    )
"""


def missing(tables: Tables) -> Left | None:
    """Return what 0.3 cannot do of that which 0.2 does."""
    model = tables["model"]
    if model["name"] not in MODULES:
        return Left("model", f"0.3 has no models of {model['name']}")
    if tables["parallelism"]["expert_tensor_parallel_degree"] > 1:
        return Left("etp", "0.3 does not split experts over tensor-parallel ranks")
    if any(tables[name].get("recipe_name") != "rowwise" for name in model["converters"] if name == FLOAT8):
        return Left("precision", "0.3 has 8-bit products with one scale a row (fp8-row) or block (mxfp8) alone")
    return None


def lost(tables: Tables) -> Iterator[Left]:
    """Give what 0.2 is told and 0.3 is not."""
    if GONE[2] in tables["parallelism"]:
        yield Left("cp_overlap", "0.3 has no key for it; told to 0.2 alone")


def python(tables: Tables, layers: int) -> str:
    """Return the module of tables that are right for 0.2, of a model of so many layers."""
    model, parallel = tables["model"], tables["parallelism"]
    training = {**tables["training"], "disable_cuda_graphs": True}
    split = {key: value for key, value in parallel.items() if key not in GONE}
    if "module_fqns_per_model_part" in split:
        split["module_fqns_per_model_part"] = [_heads(part) for part in split["module_fqns_per_model_part"]]
    compiled = {**tables["compile"], **{key: parallel[key] for key in GONE[1:2] if key in parallel}}
    parts = {"TRAINING": training, "PARALLELISM": split, "COMPILE": compiled}
    converters = ", ".join(_converters(tables, layers))
    return "".join(
        (
            HEAD.format(mark=MARK, about=f"{model['flavor']} of {model['name']}", name=model["name"]),
            *(f"{name} = {_literal(table)}\n" for name, table in parts.items()),
            f"{LAYERS} = {layers}\n" if MX in model["converters"] else "",
            f"CONVERTERS = [{converters}]\n\n",
            BODY.format(flavor=model["flavor"], policy=POLICIES[tables["activation_checkpoint"]["mode"]]),
        )
    )


def _heads(part: list[str]) -> list[str]:
    return ["lm_head" if name == "output" else name for name in part]


def _literal(table: Mapping[str, Any]) -> str:
    return "{\n" + "".join(f"    {key!r}: {value!r},\n" for key, value in table.items()) + "}"


def _converters(tables: Tables, layers: int) -> Iterator[str]:
    """Calls that make the converters."""
    for name in tables["model"]["converters"]:
        skipped = _heads(tables[name].get("filter_fqns", []))
        if name == FLOAT8:
            yield f"Float8LinearConverter.Config(filter_fqns={skipped!r}, model_compile_enabled=True)"
        elif name == MX:
            taken = [block for layer in range(layers) if (block := f"layers.{layer}.") not in skipped]
            yield f"MXFP8LinearConverter.Config(fqns={taken!r}, model_compile_enabled=True)"
        else:
            yield "MXFP8GroupedExpertsConverter.Config(model_compile_enabled=True)"
