"""Models as tables of runs describe them: a name and some sizes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.config.numbers import gpt
from penstock.core.config.read import catalogue, read_architecture
from penstock.core.mixers import Attention
from penstock.core.parts import Experts

_NOISE = re.compile(r"\(.*?\)|[^a-z0-9.]+|(?<=[-_])(vl|proxy)(?=[-_]|$)")
_AS = {"qwen3.827b": "qwen3.6-27b"}
"""Models whose config was not to be had, and the one they are taken to be like."""


_LIKELY: dict[str, Any] = {"vocab": 51200, "gated": False, "tied": False}
"""Of a GPT of which these are not said."""


@dataclass(frozen=True, slots=True)
class Described:
    """A model, and what was guessed about it, in words."""

    model: Architecture
    guessed: tuple[str, ...]


def described(
    name: str,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    ffn: int | None = None,
    vocab: int | None = None,
    seq: int | None = None,
    experts: int | None = None,
    topk: int | None = None,
    expert_ffn: int | None = None,
    shared_ffn: int | None = None,
    dense_layers: int | None = None,
    gated: bool | None = None,
    tied: bool | None = None,
) -> Described:
    """Return the model that a name and sizes mean; what is left out is looked up or guessed.

    A name of the catalogue whose sizes are those given means that model, with the given number of layers (of which the
    first ``dense_layers`` have no experts) and vocabulary. Otherwise the sizes make one.

    Raises:
        ValueError: the name is not known and layers or width are not given.

    >>> found = described("Llama-3-70B-L12", layers=12, hidden=8192, heads=64, kv_heads=8)
    >>> found.model.family, found.model.layers, found.guessed
    ('llama', 12, ())
    """
    sizes = {"hidden": hidden, "heads": heads, "kv_heads": kv_heads, "ffn": ffn, "experts": experts, "topk": topk}
    known = known_name(name)
    if known is not None:
        model = _published(known)
        if _agrees(model, sizes):
            like = (f"{name} is taken to be like {known}",) if _bare(name) in _AS else ()
            return _resized(_cut(model, name, layers, dense_layers, like), name, vocab, tied)
    if layers is None or hidden is None:
        raise ValueError(f"model={name!r} is not in the catalogue; give layers and hidden (and heads, ffn, vocab)")
    guessed: list[str] = []
    if heads is None or (hidden % heads and head_dim is None):
        given, heads = heads, _likely_heads(hidden)
        kv_heads = None if kv_heads == given else kv_heads
        guessed.append(f"heads={heads}" + (f" (heads={given} does not divide hidden={hidden})" if given else ""))
    said = {"vocab": vocab or None, "gated": gated, "tied": tied}
    likely = {key: value for key, value in _LIKELY.items() if said[key] is None}
    guessed += [f"{key}={value}" for key, value in likely.items()]
    model = gpt(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        positions=max(seq or 0, 2048),
        experts=experts or 0,
        topk=topk or 1,
        expert_ffn=expert_ffn,
        shared_ffn=shared_ffn or 0,
        dense_layers=dense_layers or 0,
        name=name,
        **(said | likely),
    )
    return Described(model, tuple(guessed))


@lru_cache(maxsize=256)
def _published(known: str) -> Architecture:
    return read_architecture(known)


@lru_cache(maxsize=4096)
def known_name(name: str) -> str | None:
    """Return the name in the catalogue that a name of a table means, if there is one: written in another way, cut
    short, or with more behind it. A number of parameters behind it must be the model's."""
    text = name.lower().rpartition("/")[2].removeprefix("meta-")
    bare = _bare(text)
    if bare in _AS:
        return _AS[bare]
    names = {_bare(known): known for known in catalogue()}
    if "." not in text:  # some write 3_5 for 3.5
        names = {short.replace(".", ""): known for short, known in names.items()} | names
    if bare in names:
        return names[bare]
    longer = {known for short, known in names.items() if short.startswith(bare)}
    if len(longer) == 1 and len(bare) > 4:
        return longer.pop()
    words = re.split(r"[^a-z0-9.]+", text)
    for count in range(len(words) - 1, 0, -1):
        found = names.get(_bare("".join(words[:count])))
        if found is not None and _as_large(found, words[count:]):
            return found
    return None


def _as_large(known: str, words: list[str]) -> bool:
    """Whether a number of parameters among words, such as ``314b`` or ``1t``, is about that of a known model."""
    for word in words:
        size = re.fullmatch(r"(\d+(?:\.\d+)?)([mbt])", word)
        if size:
            claimed = float(size[1]) * {"m": 1e6, "b": 1e9, "t": 1e12}[size[2]]
            return 0.8 < claimed / _published(known).parameters < 1.25
    return True


def _bare(name: str) -> str:
    return _NOISE.sub("", name.lower())


def _agrees(model: Architecture, sizes: dict[str, int | None]) -> bool:
    """Whether the sizes that are given are those of the model."""
    mine = defaultdict(set, hidden={model.hidden})
    for block in model.kinds():
        if isinstance(block.attention, Attention):
            mine["heads"].add(block.attention.heads)
            mine["kv_heads"].add(block.attention.kv_heads)
        if isinstance(block.mlp, Experts):
            mine["experts"].add(block.mlp.experts)
            mine["topk"].add(block.mlp.topk)
        elif block.mlp is not None:
            mine["ffn"].add(block.mlp.ffn)
    return all(not value or not mine[key] or value in mine[key] for key, value in sizes.items())


def _cut(
    model: Architecture, name: str, layers: int | None, dense_layers: int | None, guessed: tuple[str, ...]
) -> Described:
    """The same kinds of blocks, fewer of them."""
    kinds, blocks = model.kinds(), model.blocks
    count = len(blocks) if layers is None else layers
    if count > len(blocks):
        raise ValueError(f"layers={layers} are more than the {len(blocks)} of {model.name}; use at most so many")
    dense_layers = 0 if "all MoE" in name else dense_layers
    if dense_layers is not None and dense_layers > count:
        raise ValueError(f"dense_layers={dense_layers} are more than layers={count}; use 0 to {count}")
    if dense_layers is not None and 1 <= len(kinds) <= 2:
        blocks = (blocks[0],) * dense_layers + (blocks[-1],) * (count - dense_layers)
    elif count < len(blocks):
        blocks = blocks[:count]
        if len(kinds) > 1:
            guessed = (*guessed, f"its {count} layers are the first of {model.name}")
    return Described(replace(model, blocks=blocks), guessed)


def _resized(found: Described, name: str, vocab: int | None, tied: bool | None) -> Described:
    """The same blocks under a name of their own, over another vocabulary."""
    model = found.model
    head, embedding = model.head, model.embedding
    if vocab:
        head, embedding = replace(head, vocab=vocab), replace(embedding, vocab=vocab)
    if tied is not None:
        head = replace(head, tied=tied)
    made = replace(model, name=name, head=head, embedding=embedding, vocab=vocab or model.vocab)
    return Described(made, found.guessed)


def _likely_heads(hidden: int) -> int:
    """As many as are nearest to 128 wide."""
    return min((n for n in range(1, hidden + 1) if hidden % n == 0), key=lambda n: abs(hidden / n - 128))
