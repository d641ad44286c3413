"""Models as tables of runs describe them: a name and some sizes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.config.likely import OTHER_KINDS, likely
from penstock.core.config.numbers import gpt
from penstock.core.config.read import catalogue, read_architecture
from penstock.core.mixers import Attention
from penstock.core.parts import Experts

_NOISE = re.compile(r"\(.*?\)|[^a-z0-9.]+|(?<=[-_])(vl|proxy)(?=[-_]|$)")
_AS = {
    "qwen3.827b": "qwen3.6-27b", "qwen1.514b": "qwen-14b", "qwen1.572b": "qwen-72b", "qwq32b": "qwen2.5-32b",
    "deepseekr1": "deepseek-v3", "codellama7b": "llama-2-7b", "codellama13b": "llama-2-13b",
    "vicuna7b": "llama-7b", "vicuna13b": "llama-13b", "internlm7b": "llama-7b", "baichuan7b": "llama-7b",
    "llama30b": "llama-33b", "llama3405b": "llama-3.1-405b", "mistrallarge2": "mistral-large-123b",
    "baichuan27b": "llama-2-7b", "baichuan213b": "llama-2-13b", "baichuan13b": "llama-13b",
}  # fmt: skip
"""Models whose config is not there, and the one they are taken to be like: the same blocks, as their authors say."""
_LARGEST = {"bloom": "bloom-176b", "gpt3": "gpt3-175b", "llama4": "llama-4-scout"}
"""Names that mean one of several sizes."""


NO_VOCABULARY = 1024
"""Of a model that reads no text: about as many classes, or outputs for a patch."""
_LIKELY: dict[str, Any] = {"vocab": 51200, "gated": False, "tied": False}
"""Of a GPT of which these are not said."""


@dataclass(frozen=True, slots=True)
class Described:
    """A model, and what was guessed about it, in words; ``sized``: all that is known of it is how large it is."""

    model: Architecture
    guessed: tuple[str, ...]
    sized: bool = False


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
        if _agrees(model, sizes) and (layers or 0) <= model.layers:
            like = (f"{name} is taken to be like {known}",) if _bare(name) in _AS else ()
            return _resized(_cut(model, name, layers, dense_layers, like), name, vocab, tied)
    if layers is None or hidden is None:
        model, words = likely(name)
        found = _cut(model, name, min(layers or model.layers, model.layers), dense_layers, (words,))
        return replace(_resized(found, name, vocab, tied), sized=True)
    guessed: list[str] = []
    if heads is None or (hidden % heads and head_dim is None):
        given, heads = heads, _likely_heads(hidden)
        kv_heads = None if kv_heads == given else kv_heads
        guessed.append(f"heads={heads}" + (f" (heads={given} does not divide hidden={hidden})" if given else ""))
    if kv_heads and heads % kv_heads:
        guessed.append(f"kv_heads={heads} (kv_heads={kv_heads} does not divide heads={heads})")
        kv_heads = heads
    said = {"vocab": vocab or None, "gated": gated, "tied": tied}
    usual = {key: value for key, value in _usual(name, known, hidden, ffn).items() if said[key] is None}
    guessed += [f"{key}={value}" for key, value in usual.items()]
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
        **(said | usual),
    )
    return Described(model, tuple(guessed))


def _usual(name: str, known: str | None, hidden: int, ffn: int | None) -> dict[str, Any]:
    """Of a GPT of which these are not said: as in the model of this name, else with a gate where the feed-forward is
    not four times as wide, and without a vocabulary to speak of where it reads no text."""
    if known is not None:
        model = _published(known)
        mlp = model.blocks[-1].mlp
        gated = mlp is not None and (mlp.expert if isinstance(mlp, Experts) else mlp).gated
        return {"vocab": model.vocab, "gated": gated, "tied": model.head.tied}
    gate = {"gated": True} if ffn and ffn != 4 * hidden else {}
    return _LIKELY | gate | ({"vocab": NO_VOCABULARY} if OTHER_KINDS.search(name) else {})


@lru_cache(maxsize=256)
def _published(known: str) -> Architecture:
    return read_architecture(known)


@lru_cache(maxsize=4096)
def known_name(name: str) -> str | None:
    """Return the name in the catalogue that a name of a table means, if there is one: written in another way, cut
    short, or with more behind it. A number of parameters behind it must be the model's."""
    text = re.sub(r"^meta[-_ ]", "", name.lower().rpartition("/")[2]).replace("+", "-plus")
    bare = _bare(text)
    if found := (_AS | _LARGEST).get(bare):
        return found
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
            claimed, model = float(size[1]) * {"m": 1e6, "b": 1e9, "t": 1e12}[size[2]], _published(known)
            return any(0.8 < claimed / one < 1.25 for one in (model.parameters, model.active_parameters))
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
