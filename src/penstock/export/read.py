"""Setups in the words of other frameworks, read: what a file says, and what of it we have no words for."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.calibrate.megatron import LACKS, Arguments, dense_layers, fields_of, model_of
from penstock.core.architecture import Architecture
from penstock.core.config import read_architecture
from penstock.core.files import read_text
from penstock.export.bridge_read import bridge_arguments, is_bridge
from penstock.export.deepspeed_read import deepspeed_fields
from penstock.export.job import job_fields
from penstock.export.shell import arguments, script_words
from penstock.export.switches import switches_said
from penstock.export.torchtitan_python_read import python_tables
from penstock.export.torchtitan_read import torchtitan_fields, torchtitan_model

HARMLESS = re.compile(
    r"^(lr|min-lr|weight|adam-beta|adam-eps|clip|init-method|save|load|log|eval|data|split|mock|train-iters|train-sam"
    r"|tokenizer|vocab-file|merge|seed|tensorboard|wandb|exit|ckpt|dist-ckpt|num-workers|distributed-(backend|timeout)"
    r"|finetune|no-load|no-save|override|use-checkpoint|master|rdzv|node-rank|standalone|nnodes|nproc|rotary|norm-eps"
    r"|attention-softmax|no-masked|timing|manual-gc|profile|use-pytorch-prof|moe-aux|moe-router-(load|dt|"
    r"score|bias|pre|group|num|top.*scal|enable)|moe-z|overlap|no-async|use-mcore|legacy|async|apply|use-flash|"
    r"moe-grouped|moe-token|moe-perm|bias-|no-bias|accumulate|start-w|test-mode|num-dataset|no-create|no-mmap"
    r"|decoupled|no-position|calculate-per|empty-unused|fp8-amax|no-check-for|help|deterministic|tiktoken|no-rope-fusion|hf-|delay-wgrad)"
)
"""Arguments of Megatron-LM that are for optimizer, data, files and logs, or that change little."""
MODEL_LACKS = LACKS | {"window-size": "windows"}
"""Arguments that make a model which sizes alone do not say."""
ALONG = frozenset((
    *("fp8-recipe", "fp4-recipe", "exp-avg-sq-dtype", "recompute-method", "recompute-num-layers", "add-qkv-bias"),
    *("bf16", "use-distributed-optimizer", "use-precision-aware-optimizer", "padded-vocab-size", "num-query-groups"),
    *("optimizer-offload-fraction", "reuse-grad-buf-for-mxfp8-param-ag", "cpu-offloading", "offload-modules"),
))  # fmt: skip
"""Arguments that another one says already, or that change little."""
READABLE = (
    "a torchtitan or job TOML, torchtitan's train_config.py, a DeepSpeed JSON, or a script of Megatron-LM or "
    "Megatron-Bridge"
)
JOB = {"strategy", "run"}
"""Tables by which a TOML file is a job of ``penstock run``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a file says: fields of a setup, a model if it has sizes, the framework, and what is left unread."""

    framework: str
    fields: dict[str, Any]
    model: Architecture | str | None
    unread: tuple[str, ...]


def read_file(path: Path, devices: int) -> Read:
    """Return what a torchtitan or job TOML, torchtitan's configuration in Python, a DeepSpeed JSON, or a script for
    Megatron-LM or Megatron-Bridge says.

    Args:
        path: its suffix, ``.toml``, ``.py`` or ``.json``, tells which; all others are scripts.
        devices: of the cluster, for files that do not say how many.

    Raises:
        ValueError: the file is not what its suffix says, or a value in it cannot be.
        OSError: it cannot be read.
    """
    text = read_text(path)
    try:
        if path.suffix in (".yaml", ".yml"):
            raise ValueError(f"YAML is not read; give {READABLE}, or flags")
        if path.suffix == ".toml":
            table = tomllib.loads(text)
            return _job(path) if _is_job(table) else _torchtitan(table, devices)
        if path.suffix == ".py":
            return _torchtitan(python_tables(text), devices)
        if path.suffix == ".json":
            return _deepspeed(json.loads(text), devices)
        return _script(text, devices)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _is_job(table: Mapping[str, Any]) -> bool:
    """Whether a TOML file is a job of ``penstock run``; torchtitan has a table ``job`` too."""
    return bool(JOB & table.keys()) or (isinstance(table.get("model"), str) and "job" in table)


def _job(path: Path) -> Read:
    fields, model, unread = job_fields(path)
    framework = "penstock-bf16" if fields["precision"] == "bf16" else "penstock"
    return Read(framework=framework, fields=fields, model=model, unread=tuple(unread))


def _torchtitan(table: dict[str, Any], devices: int) -> Read:
    fields, unread = torchtitan_fields(table, devices)
    return Read(framework="torchtitan", fields=fields, model=torchtitan_model(table), unread=tuple(unread))


def _deepspeed(table: Any, devices: int) -> Read:
    if not isinstance(table, dict):
        raise ValueError(f"a JSON {type(table).__name__}; DeepSpeed reads an object {{...}}")
    fields, unread = deepspeed_fields(table, devices)
    return Read(framework="deepspeed", fields=fields, model=None, unread=tuple(unread))


class _Asked(Arguments):
    """Arguments that know which of them were asked for."""

    asked: set[str]

    def __init__(self, given: Arguments) -> None:
        super().__init__(given)
        self.asked = set()

    def get(self, name: str, missing: Any = None) -> Any:
        """Return an argument's value, or what stands for a missing one."""
        self.asked.add(name)
        return super().get(name, missing)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def unread(self) -> list[str]:
        """Those that nobody asked for, and that matter."""
        return [f"--{name}" for name in self if name not in self.asked | ALONG and not HARMLESS.match(name)]


def _script(text: str, devices: int) -> Read:
    words = script_words(text)
    given = arguments(words)
    nodes, each = (given.get(name, "").partition(" ")[0] for name in ("nnodes", "nproc-per-node"))
    if nodes.isdecimal() and each.isdecimal():
        devices = int(nodes) * int(each)
    return _bridge(words, given, devices) if is_bridge(words) else _megatron(_Asked(given), devices)


def _megatron(given: _Asked, devices: int) -> Read:
    if "num-layers" not in given and "tensor-model-parallel-size" not in given:
        missing = "neither --num-layers nor --tensor-model-parallel-size stands in it"
        raise ValueError(f"{missing}; is it a launch script? Give {READABLE}")
    fields, (model, lacks) = _fields(given, devices), _sized(given)
    return Read(framework="megatron-core", fields=fields, model=model, unread=(*given.unread(), *lacks))


def _fields(given: Arguments, devices: int) -> dict[str, Any]:
    """Those of a setup, without what the arguments leave open: a length, or a ``dp`` that fills the devices."""
    found = fields_of(given, devices) | {"overlap": _overlap(given)} | switches_said(given)
    left_open = {"seq"} if "seq-length" not in given else set()
    left_open |= {"dp", "shards"} if devices % (found["tp"] * found["cp"] * found["pp"]) else set()
    return {name: value for name, value in found.items() if name not in left_open}


def _overlap(given: Arguments) -> str:
    """What compute hides, by flags that both are off unless they are there; without ZeRO no weights are gathered."""
    if not given.says("overlap-grad-reduce"):
        return "none"
    sharded = given.says("use-distributed-optimizer") or given.says("use-megatron-fsdp")
    return "own" if given.says("overlap-param-gather") or not sharded else "gradients"


def _sized(given: Arguments) -> tuple[Architecture | None, list[str]]:
    """The model that sizes say; none where it has more than they say, and what that is."""
    lacks = [what for name, what in MODEL_LACKS.items() if name in given]
    lacks += ["experts in other layers than all but the first"] if dense_layers(given) is None else []
    model = model_of(given) if "hidden-size" in given else None
    return (None, [f"the model, which has {', '.join(lacks)}; give --model"]) if lacks else (model, [])


def _bridge(words: list[str], flags: Arguments, devices: int) -> Read:
    given, name, unread = bridge_arguments(words, flags)
    if name is not None:
        given.setdefault("num-layers", str(read_architecture(name).layers))
    model, lacks = (name, list[str]()) if name else _sized(given)
    fields = _fields(given, devices)
    return Read(framework="megatron-bridge", fields=fields, model=model, unread=(*unread, *lacks))
