"""DeepSeek-V4: attention over a window and compressed keys, several residual streams, experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from penstock.core.architecture import Architecture, Block
from penstock.core.config.blocks import HIDDEN, LAYERS, assembled, mlp_of
from penstock.core.config.experts import experts_of
from penstock.core.config.style import ExpertStyle, Style
from penstock.core.keys import Keys
from penstock.core.mask import Mask
from penstock.core.mixers import Attention
from penstock.core.parts import Matrix, Norm

SPARSE, HEAVY, WINDOW = "compressed_sparse_attention", "heavily_compressed_attention", "sliding_attention"
_RATES = {0: WINDOW, 4: SPARSE, 128: HEAVY}


def deepseek_v4(name: str, family: str, keys: Keys) -> Architecture:
    """Layers see a window, and of what is before it entries of 4 tokens (of which an indexer chooses) or of 128."""
    style = Style()
    hidden, streams = keys.whole(HIDDEN), keys.whole("hc_mult")
    mlp = experts_of(keys, ExpertStyle(shared="count"), mlp_of(keys, style, 1))
    types = _types(keys, keys.whole(LAYERS))
    made = {
        kind: Block(
            attention=_attention(keys, kind), mlp=mlp, norms=(Norm(hidden), Norm(hidden)), vectors=6, streams=streams
        )
        for kind in dict.fromkeys(types)
    }
    model = assembled(name, family, keys, style, tuple(made[kind] for kind in types))
    return replace(model, vectors=streams * (streams * hidden + 1) + 1)


def _types(keys: Keys, layers: int) -> list[str]:
    given, rates = keys.find("layer_types"), keys.find("compress_ratios")
    if isinstance(rates, list) and given is None:
        given = [_RATES[rate] for rate in rates]
    if given is None:
        given = [HEAVY] * 2 + [SPARSE if layer % 2 else HEAVY for layer in range(layers)]
    return [str(kind) for kind in given[:layers]]


def _attention(keys: Keys, kind: str) -> Attention:
    hidden, heads, rank = keys.whole(HIDDEN), keys.whole("num_attention_heads"), keys.whole("q_lora_rank")
    width, window = keys.whole("head_dim"), keys.whole("sliding_window")
    plain = Attention(
        hidden=hidden,
        heads=heads,
        kv_heads=1,
        head_dim=width,
        value_dim=width,
        mask=Mask(window=window),
        query_rank=rank,
        norms=(Norm(rank, name="query_down"), Norm(width, name="key")),
        vectors=heads,
        shared=True,
        out_groups=keys.whole("o_groups"),
        out_rank=keys.whole("o_lora_rank"),
    )
    if kind == WINDOW:
        return plain
    rates = keys.find("compress_rates") or {SPARSE: 4, HEAVY: 128}
    rate, series = rates[kind], 2 if kind == SPARSE else 1
    beside = tuple(Matrix(f"compress.{part}", hidden, series * width, split="none") for part in ("key", "gate"))
    found = replace(
        plain,
        mask=Mask(window=window, compress=rate),
        beside=beside,
        norms=(*plain.norms, Norm(width, name="compressed")),
        vectors=heads + rate * series * width,
    )
    return _indexed(keys, found, rate) if kind == SPARSE else found


def _indexed(keys: Keys, attention: Attention, rate: int) -> Attention:
    """The same with an indexer, which compresses keys of its own."""
    hidden, many, width = attention.hidden, keys.whole("index_n_heads"), keys.whole("index_head_dim")
    indexer = (
        Matrix("indexer.query", attention.query_rank, many * width, split="none"),
        Matrix("indexer.key", hidden, 2 * width, split="none"),
        Matrix("indexer.gate", hidden, 2 * width, split="none"),
        Matrix("indexer.weights", hidden, many, split="none"),
    )
    return replace(
        attention,
        mask=replace(attention.mask, selected=keys.whole("index_topk")),
        norms=(*attention.norms, Norm(width, name="index")),
        vectors=attention.vectors + rate * 2 * width,
        indexer=indexer,
        index_heads=many,
        index_dim=width,
    )
