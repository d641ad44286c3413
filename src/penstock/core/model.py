"""The noun ``Model``: what a Hugging Face ``config.json`` says about a decoder-only model, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.keys import Keys, locate, read_json, shipped_models
from penstock.core.words import divisors, suggest

if TYPE_CHECKING:
    from penstock.core.architecture import Architecture

__all__ = ["FAMILIES", "Model", "model_from_config", "shipped_models"]


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only language model as facts.

    ``hidden``, ``head_dim`` and ``ffn`` are widths, ``positions`` the longest sequence in tokens, ``tied`` whether
    the embedding is also the output head. The four ``*_parameters`` are exact counts: of all embeddings, of one
    decoder layer, of the norm after the last layer, of an output head of its own (0 if tied). ``config`` is the
    whole of ``config.json``, from which the runtime builds the layers.

    >>> Model.read("tiny-llama").family
    'llama'
    """

    name: str
    family: str
    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    positions: int
    tied: bool
    embedding_parameters: int
    layer_parameters: int
    norm_parameters: int
    head_parameters: int
    config: Mapping[str, Any] = field(repr=False, hash=False)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; a tied embedding counts once."""
        ends = self.embedding_parameters + self.norm_parameters + self.head_parameters
        return ends + self.layers * self.layer_parameters

    @property
    def architecture(self) -> Architecture:
        """The same model block by block, from which its operators are made."""
        from penstock.core.config import architecture_from_config  # most commands need no more than the sizes

        return architecture_from_config(self.name, self.config, self.name)

    @staticmethod
    def read(path_or_name: str | Path) -> Model:
        """Return the model of a ``config.json``, of a folder that holds one, or of a shipped name.

        A bare name that is shipped always means the shipped model; write ``./name`` for a folder called so.

        Raises:
            ValueError: nothing there, not JSON, a key missing or impossible, or a family that is not known.
        """
        name, source = locate(str(path_or_name))
        return model_from_config(name, read_json(source), str(source))

    def attention_share(self, tokens: int) -> float:
        """Share of causal attention in the operations of the layers on a sequence: of scores and of what they weigh,
        beside two for each parameter and token."""
        attention = tokens * self.heads * self.head_dim
        return attention / (attention + self.layer_parameters)

    def cut(self, stages: int, stage_layers: tuple[int, ...] | None = None) -> tuple[range, ...]:
        """Return the decoder layers of each virtual stage, in the order of the model.

        Without ``stage_layers`` all stages get the same number; with it, its numbers (0 is allowed: a stage may
        hold the embedding or the head alone).

        Raises:
            ValueError: ``stages`` does not divide the layers, or ``stage_layers`` does not add up to them.
        """
        if stages < 1:
            raise ValueError(f"stages={stages} is too small; use {divisors(self.layers)}")
        if stage_layers is None:
            if self.layers % stages:
                allowed = divisors(self.layers, near=stages)
                raise ValueError(
                    f"stages={stages} does not divide {self.layers} layers; use {allowed} or give stage_layers"
                )
            stage_layers = (self.layers // stages,) * stages
        self._check_cut(stages, stage_layers)
        firsts = [sum(stage_layers[:stage]) for stage in range(stages)]
        return tuple(range(first, first + count) for first, count in zip(firsts, stage_layers, strict=True))

    def _check_cut(self, stages: int, stage_layers: tuple[int, ...]) -> None:
        given = f"stage_layers={list(stage_layers)}"
        if len(stage_layers) != stages:
            raise ValueError(f"{given} has {len(stage_layers)} numbers for {stages} stages; give {stages} numbers")
        if min(stage_layers) < 0:
            raise ValueError(f"{given} has {min(stage_layers)}; use 0 or more")
        if sum(stage_layers) != self.layers:
            last = self.layers - sum(stage_layers[:-1])
            fix = f"; with {last} as the last number it would" if last >= 0 else ""
            raise ValueError(
                f"{given} adds up to {sum(stage_layers)}, not to the {self.layers} layers of {self.name}{fix}"
            )


def model_from_config(name: str, config: Mapping[str, Any], source: str) -> Model:
    """Return the model that the keys of a ``config.json`` describe; ``source`` is what errors call it.

    Raises:
        ValueError: a key missing or impossible, or a family that is not known.
    """
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ValueError(f"{source} has no key 'model_type'; it must be one of {', '.join(FAMILIES)}")
    if family not in FAMILIES:
        raise ValueError(f"{source}: model_type={family!r} is unknown; {suggest(family, FAMILIES)}")
    keys = Keys(config, source)
    return _gpt2(name, keys) if family == "gpt2" else _gated(name, family, keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gated:
    """What sets one relative of Llama apart; sizes are transformers' own for keys that are missing."""

    positions: int
    kv_heads: int | None = None
    head_dim: int | None = None
    has_bias_keys: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False


_GATED = {
    "llama": _Gated(positions=2048, has_bias_keys=True),
    "mistral": _Gated(positions=131072, kv_heads=8),
    "qwen2": _Gated(positions=32768, kv_heads=32, qkv_bias=True),
    "qwen3": _Gated(positions=32768, kv_heads=32, head_dim=128, has_bias_keys=True, qk_norm=True),
}
FAMILIES = (*_GATED, "gpt2")


def _gated(name: str, family: str, keys: Keys) -> Model:
    """Llama and its relatives: RMS norm, rotary positions, a gated feed-forward."""
    own = _GATED[family]
    hidden, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    kv_heads = keys.size("num_key_value_heads", own.kv_heads, heads)
    keys.multiple("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    if family == "llama" or keys.config.get("head_dim", own.head_dim) is None:
        keys.multiple("hidden_size", hidden, "num_attention_heads", heads)
    head_dim = keys.size("head_dim", own.head_dim, hidden // heads)
    ffn, vocab = keys.size("intermediate_size"), keys.size("vocab_size")
    tied = keys.flag("tie_word_embeddings", False)
    return Model(
        name=name,
        family=family,
        layers=keys.size("num_hidden_layers"),
        hidden=hidden,
        vocab=vocab,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        positions=keys.size("max_position_embeddings", own.positions),
        tied=tied,
        embedding_parameters=vocab * hidden,
        layer_parameters=_gated_layer(family, keys, hidden, heads * head_dim, kv_heads * head_dim, ffn)
        + own.qk_norm * 2 * head_dim,
        norm_parameters=hidden,
        head_parameters=0 if tied else vocab * hidden,
        config=keys.config,
    )


def _gated_layer(family: str, keys: Keys, hidden: int, query: int, key_value: int, ffn: int) -> int:
    """Return the parameters of one layer, those of a norm of queries and keys apart."""
    own = _GATED[family]
    attention_bias = own.has_bias_keys and keys.flag("attention_bias", False)
    mlp_bias = family == "llama" and keys.flag("mlp_bias", False)
    attention = (hidden + (own.qkv_bias or attention_bias)) * (query + 2 * key_value)
    attention += (query + attention_bias) * hidden
    feed_forward = 3 * hidden * ffn + mlp_bias * (2 * ffn + hidden)
    return attention + feed_forward + 2 * hidden


def _gpt2(name: str, keys: Keys) -> Model:
    """GPT-2: layer norm, learned positions, biases everywhere, a feed-forward without a gate."""
    hidden, heads = keys.size("n_embd"), keys.size("n_head")
    vocab, positions = keys.size("vocab_size"), keys.size("n_positions")
    ffn = keys.size("n_inner", 4 * hidden, 4 * hidden)
    keys.multiple("n_embd", hidden, "n_head", heads)
    if keys.flag("add_cross_attention", False):
        raise ValueError(f"{keys.source}: add_cross_attention=True is no decoder-only model; set it to false")
    tied = keys.flag("tie_word_embeddings", True)
    attention = (hidden + 1) * 3 * hidden + (hidden + 1) * hidden
    feed_forward = (hidden + 1) * ffn + (ffn + 1) * hidden
    return Model(
        name=name,
        family="gpt2",
        layers=keys.size("n_layer"),
        hidden=hidden,
        vocab=vocab,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=ffn,
        positions=positions,
        tied=tied,
        embedding_parameters=(vocab + positions) * hidden,
        layer_parameters=attention + feed_forward + 4 * hidden,
        norm_parameters=2 * hidden,
        head_parameters=0 if tied else vocab * hidden,
        config=keys.config,
    )
