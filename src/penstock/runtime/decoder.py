"""Hugging Face decoder-only language models cut into pipeline stages; each stage builds only its own layers.

The layers are transformers' own modules, so the mathematics is theirs. A stage calls them directly with the arguments
that transformers' own forward would pass (causal or sliding-window mask, rotary tables, positions). Attention is
PyTorch's SDPA; over slices of a sequence, with the keys and values of those before (`slices`). There is no dropout:
every dropout probability of a configuration is set to 0.
"""

import copy
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from penstock.runtime.calls import LayerCalls
from penstock.runtime.materialise import materialise
from penstock.runtime.slices import KeysAndValues
from penstock.runtime.split import WeightQueue, split_modules


@dataclass(frozen=True)
class Family:
    """Where a model family keeps its parts: the names of attributes of transformers' base model."""

    base: str  # the base model's own name in the causal model
    embed: str
    layers: str
    norm: str
    positions: str | None = None  # learned position embedding


_LLAMA = Family(base="model", embed="embed_tokens", layers="layers", norm="norm")
FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": Family(base="transformer", embed="wte", layers="h", norm="ln_f", positions="wpe"),
}


def load_config(path: str | Path) -> Any:
    """The transformers configuration at `path`: a config.json file, a folder with one, or the name of a shipped model.

    Every dropout probability in it is set to 0: this trainer has no dropout. Raises ValueError, with the nearest names,
    for what cannot be found, read or trained.
    """
    data = _read_json(path)
    kind = data.pop("model_type", None)
    _family(kind)
    return _without_dropout(AutoConfig.for_model(kind, **data))


def _family(kind: str | None) -> Family:
    """Where models of this `model_type` keep their parts."""
    if kind not in FAMILIES:
        raise ValueError(f"model_type {kind!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[kind]


def _read_json(path: str | Path) -> dict[str, Any]:
    """The keys of the file that `path` means; shipped models are those in penstock/data/models."""
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        models = resources.files("penstock.data").joinpath("models")
        shipped = sorted(f.name.removesuffix(".json") for f in models.iterdir() if f.name.endswith(".json"))
        if str(path) not in shipped:
            near = ", ".join(difflib.get_close_matches(str(path), shipped) or shipped)
            raise ValueError(f"no file {file} and no shipped model {str(path)!r}; the nearest are {near}")
        return json.loads(models.joinpath(f"{path}.json").read_text())
    try:
        data = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds a {type(data).__name__}, not an object with a model_type key")
    return data


def _without_dropout(config: Any) -> Any:
    """`config` with every dropout probability 0; changed in place and returned."""
    for key, value in vars(config).items():
        if "drop" in key and isinstance(value, float | int):
            setattr(config, key, 0.0)
    return config


class DecoderStage(nn.Module):
    """One pipeline stage of a decoder: `layers` of the model, the embedding if `first`, final norm and head if `last`.

    `config`: from `load_config`. `layers`: global layer numbers, consecutive, may be empty. `named_parameters()` and
    `state_dict()` use the names of the whole Hugging Face model with global layer numbers, so checkpoints of any cut
    fit together. Initial values follow Hugging Face's own rules, drawn on the CPU in float32 from a generator seeded
    by (`seed`, module name): every cut, dtype and device starts from the same numbers (rounded to `dtype`).

    `slices`: of each sequence; above 1, `begin` must say which comes before each call of `forward`. `lengths`: their
    tokens, where they are not equal.

    `whole_ends`: False where the vocabulary is split over ranks: the first stage then takes embedded tokens, the last
    gives the hidden state behind its norm. `rows`: those of embedding and head that such a stage holds for others.

    `split`: whether the backward can run as I and W; a stage that only ever runs B is quicker without.
    `queue`: the stage's WeightQueue, through which its backward splits. `unsplit`: names of parameters whose gradient
    comes with I. `tied`: {"embedding": parameter} on the first and the last stage when the model ties its embeddings
    and these stages differ: each holds a copy, the same at the start, whose gradients the trainer must sum. Where
    one stage is first and last there is one parameter and nothing to sum.
    """

    def __init__(
        self,
        config: Any,
        layers: range,
        first: bool,
        last: bool,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        split: bool = True,
        whole_ends: bool = True,
        rows: range | None = None,
        slices: int = 1,
        lengths: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        _check_layers(layers, config.num_hidden_layers, first, last)
        self.family = _family(config.model_type)
        self.first, self.last, self.dtype = first, last, dtype
        skeleton = _skeleton(config)
        base = getattr(skeleton, self.family.base)
        tie = bool(config.tie_word_embeddings)
        head = (last and whole_ends) or rows is not None
        self._embeds, self._scores = first and whole_ends, last and whole_ends
        self._adopt(base, layers, embedding=self._embeds or (head and tie) or rows is not None)
        if head:
            self.lm_head = skeleton.lm_head
        for name, unit in _units(self, self.family, head=head and not tie):
            materialise(unit, name, skeleton._init_weights, seed)
            if rows is not None and name in (f"{self.family.base}.{self.family.embed}", "lm_head"):
                unit.weight = nn.Parameter(unit.get_parameter("weight").detach()[rows.start : rows.stop].clone())
            unit.to(device=device, dtype=dtype)
        if head and tie:
            self.lm_head.weight = self.embedding().weight
        self.tied = {"embedding": self.embedding().weight} if tie and first != last and whole_ends else {}
        self.queue = WeightQueue()
        self.unsplit = split_modules(self, self.queue) if split else []
        self._layers = tuple(self._part(self.family.layers).values())
        self.past = KeysAndValues(slices, lengths) if slices > 1 else None
        self._calls = LayerCalls(skeleton, self.family, layers, dtype, torch.device(device), self.past)

    def _adopt(self, base: nn.Module, layers: range, embedding: bool) -> None:
        """Take this stage's modules out of the whole model `base`, under the same names."""
        family, trunk = self.family, nn.Module()
        if embedding:
            trunk.add_module(family.embed, getattr(base, family.embed))
        if self.first and family.positions:
            trunk.add_module(family.positions, getattr(base, family.positions))
        whole = getattr(base, family.layers)
        trunk.add_module(family.layers, nn.ModuleDict({str(index): whole[index] for index in layers}))
        if self.last:
            trunk.add_module(family.norm, getattr(base, family.norm))
        self.add_module(family.base, trunk)

    def embedding(self) -> Any:
        """The token embedding, or the rows of it that are here."""
        return self._part(self.family.embed)

    def _part(self, name: str) -> Any:
        """The module `name` of the base model."""
        return getattr(getattr(self, self.family.base), name)

    def begin(self, micro: int, tokens: int) -> None:
        """Say which micro-batch number comes next, and how many tokens its sequences (or slices) have."""
        if self.past is not None:
            self.past.begin(micro, tokens)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        """Run one micro-batch, or one slice of it, through the stage.

        `x`: token ids (micro, seq) int64 on the first stage, else the hidden state (micro, seq, hidden) of the one
        before, which must require a gradient if its gradient is wanted.
        `targets`: ids (micro, seq) of the next token at each position (-100: no loss there), last stage only.
        Returns the hidden state; on the last stage the mean cross-entropy per token in nats (at least float32) if
        targets are given, else the logits (micro, seq, vocabulary).
        """
        calls = self._calls(x, self._embeds)
        if self.first:
            x = self._embed(x)
        for layer, (args, kwargs) in zip(self._layers, calls, strict=True):
            x = layer(x, *args, **kwargs)
        if self.last:
            x = self._part(self.family.norm)(x)
        if self._scores:
            x = self.lm_head(x)
        if targets is None:
            return x
        if not self._scores:
            raise ValueError("targets belong to the last stage; this stage has no head")
        logits = x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32))
        return nn.functional.cross_entropy(logits, targets.flatten())

    def _embed(self, ids: Tensor) -> Tensor:
        """Token (and learned position) embedding: (micro, seq), or embedded tokens already, -> (micro, seq, hidden)."""
        hidden = self.embedding()(ids) if self._embeds else ids
        if self.family.positions:
            start = self.past.start if self.past is not None else 0
            order = torch.arange(start, start + ids.shape[1], device=ids.device).unsqueeze(0)
            hidden = hidden + self._part(self.family.positions)(order)
        return hidden


def _check_layers(layers: range, count: int, first: bool, last: bool) -> None:
    """Raise ValueError unless `layers` are consecutive numbers of a model with `count` layers, and reach its ends."""
    if layers.step != 1 or layers.start < 0 or layers.stop > count:
        raise ValueError(f"{layers} are not consecutive layers of a model with {count}; use parts of range(0, {count})")
    if (first and layers.start != 0) or (last and layers.stop != count):
        which = "first" if first and layers.start != 0 else "last"
        raise ValueError(f"{layers} cannot be the {which} stage of {count} layers: others would be left out")


def _skeleton(config: Any) -> Any:
    """The whole causal model on the meta device: shapes and code, no memory."""
    config = _without_dropout(copy.deepcopy(config))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def _units(stage: Any, family: Family, head: bool) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a stage that are built one by one, with their full names: embeddings, each layer, norm, head."""
    for name, part in getattr(stage, family.base).named_children():
        if name == family.layers:
            yield from ((f"{family.base}.{name}.{index}", layer) for index, layer in part.items())
        else:
            yield f"{family.base}.{name}", part
    if head:
        yield "lm_head", stage.lm_head
