"""Blocks of a decoder from the keys of its config and the style of its family."""

from __future__ import annotations

from dataclasses import replace

from penstock.core.architecture import Architecture, Block, Embedding, Head, Predictor
from penstock.core.config.experts import experts_of, is_sparse
from penstock.core.config.style import Flag, Style
from penstock.core.keys import Keys
from penstock.core.mask import Mask
from penstock.core.mixers import Attention, LinearAttention
from penstock.core.parts import Experts, Matrix, Mlp, Norm

HIDDEN, LAYERS = "hidden_size", "num_hidden_layers"
NARROWED = ("sliding_attention", "chunked_attention", "local", "sliding")


def decoder(name: str, family: str, keys: Keys, style: Style) -> Architecture:
    """Return a decoder whose blocks are attention and feed-forward (or experts), each behind norms."""
    layers = keys.whole(LAYERS)
    masks = masks_of(keys, style, layers)
    found = tuple(
        block_of(keys, style, attention_of(keys, style, mask), mlp_or_experts(keys, style, layer))
        for layer, mask in enumerate(masks)
    )
    return assembled(name, family, keys, style, found)


def assembled(name: str, family: str, keys: Keys, style: Style, blocks: tuple[Block, ...]) -> Architecture:
    """Return the model of these blocks, with embedding, last norm, head and multi-token heads."""
    hidden, vocab = keys.whole(HIDDEN), keys.whole("vocab_size")
    positions = keys.whole("max_position_embeddings", missing=2048)
    learned = 0 if style.learned_positions is None else positions + style.learned_positions
    tied = keys.truth("tie_word_embeddings")
    return Architecture(
        name=name,
        family=family,
        hidden=hidden,
        vocab=vocab,
        positions=positions,
        embedding=Embedding(vocab=vocab, width=hidden, positions=learned),
        blocks=blocks,
        norm=norm_of(style, hidden) if style.final_norm else None,
        head=Head(inputs=hidden, vocab=vocab, tied=tied, bias=flag(keys, style.head_bias)),
        predictors=_predictors(keys, style, hidden, blocks),
    )


def block_of(
    keys: Keys, style: Style, attention: Attention | LinearAttention | None, mlp: Mlp | Experts | None
) -> Block:
    """Return one block with the norms of its family."""
    norm = norm_of(style, keys.whole(HIDDEN))
    parallel = flag(keys, style.parallel)
    return Block(attention=attention, mlp=mlp, norms=(norm,) * style.norms, parallel=parallel)


def flag(keys: Keys, fact: Flag) -> bool:
    """A fact of the family, or what the key of that name says."""
    return keys.truth(fact) if isinstance(fact, str) else fact


def norm_of(style: Style, width: int) -> Norm:
    """Return a norm of the family's kind over ``width`` features."""
    return Norm(width, style.norm == "rms", style.norm == "layer", style.norm != "bare")


def head_dim_of(keys: Keys) -> tuple[int, int, int]:
    """Return heads, heads of keys and values, and the width of one."""
    hidden, heads = keys.whole(HIDDEN), keys.whole("num_attention_heads")
    kv_heads = keys.whole("num_key_value_heads", missing=heads)
    keys.multiple("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    if keys.find("head_dim") is None:
        keys.multiple(HIDDEN, hidden, "num_attention_heads", heads)
    return heads, kv_heads, keys.whole("head_dim", missing=hidden // heads)


def attention_of(keys: Keys, style: Style, mask: Mask) -> Attention:
    """Return softmax attention under a mask."""
    if style.latent:
        return latent_of(keys, mask)
    heads, kv_heads, head_dim = head_dim_of(keys)
    bias = flag(keys, style.qkv_bias)
    normed = style.qk_norm if not style.qk_norm_if or keys.truth(style.qk_norm_if) else ""
    inner = (replace(norm_of(style, keys.whole(HIDDEN)), name="result"),) if style.inner_norms else ()
    return Attention(
        hidden=keys.whole(HIDDEN),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=head_dim,
        mask=mask,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        out_bias=flag(keys, style.out_bias),
        gate=heads * head_dim if style.gate else 0,
        norms=(*_qk_norms(style, normed, heads, kv_heads, head_dim), *inner),
        vectors=style.sinks * heads,
        fused=style.fused_qkv,
        rope=flag(keys, style.rope),
        yarn=style.yarn,
    )


def _qk_norms(style: Style, which: str, heads: int, kv_heads: int, head_dim: int) -> tuple[Norm, ...]:
    rms, bias = style.norm == "rms", style.norm == "layer"
    if which == "all":
        query = Norm(heads * head_dim, rms, bias, name="query")
        return query, replace(query, width=kv_heads * head_dim, name="key")
    if which in ("head", "each"):
        own = which == "each"
        bias = bias and not own  # norms per head have no offset
        query = Norm(head_dim, rms, bias, True, heads, own, name="query")
        return query, replace(query, over=kv_heads, name="key")
    return ()


def latent_of(keys: Keys, mask: Mask) -> Attention:
    """Return latent attention, with an indexer where the config has one (DeepSeek-V3.2: a light attention chooses the
    keys)."""
    hidden, heads = keys.whole(HIDDEN), keys.whole("num_attention_heads")
    rope, rank = keys.whole("qk_rope_head_dim"), keys.whole("kv_lora_rank")
    query_rank = keys.whole("q_lora_rank", missing=0, least=0)
    if "q_lora_rank" in keys.config and keys.config["q_lora_rank"] is None:
        query_rank = 0
    bias = keys.truth("attention_bias")
    norms = (Norm(query_rank, name="query_down"),) * bool(query_rank) + (Norm(rank, name="kv_down"),)
    head_dim = keys.whole("qk_nope_head_dim") + rope
    index_heads, index_dim = keys.whole("index_n_heads", missing=0, least=0), 0
    indexer: tuple[Matrix, ...] = ()
    if index_heads:
        index_dim = keys.whole("index_head_dim")
        mask = Mask(selected=keys.whole("index_topk"))
        indexer = (
            Matrix("indexer.query", query_rank, index_heads * index_dim, split="none"),
            Matrix("indexer.key", hidden, index_dim, split="none"),
            Matrix("indexer.weights", hidden, index_heads, split="none"),
        )
        norms += (Norm(index_dim, rms=False, bias=True, name="index"),)
    return Attention(
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        value_dim=keys.whole("v_head_dim", missing=hidden // heads),
        mask=mask,
        query_rank=query_rank,
        kv_rank=rank,
        rope_dim=rope,
        latent_bias=bias,
        out_bias=bias,
        norms=norms,
        indexer=indexer,
        index_heads=index_heads,
        index_dim=index_dim,
    )


def mlp_of(keys: Keys, style: Style, ffn: int) -> Mlp:
    """Return a feed-forward of width ``ffn``."""
    return Mlp(
        hidden=keys.whole(HIDDEN),
        ffn=ffn,
        gated=style.gated,
        bias=flag(keys, style.mlp_bias),
        fused=style.fused_mlp,
        norm=norm_of(style, ffn) if style.inner_norms else None,
        vectors=style.activation_parameters,
        activation=str(keys.find("activation_function", "hidden_act", "hidden_activation", "mlp_hidden_act") or "silu"),
    )


def mlp_or_experts(keys: Keys, style: Style, layer: int) -> Mlp | Experts:
    """Return the second half of a layer."""
    if style.experts is not None and is_sparse(keys, style.experts, layer):
        return experts_of(keys, style.experts, mlp_of(keys, style, 1))
    return mlp_of(keys, style, dense_ffn(keys))


def dense_ffn(keys: Keys) -> int:
    """Width of a feed-forward without experts; Llama 4 has a key for it beside that of its experts."""
    return keys.whole("intermediate_size_mlp", "ffn_hidden_size", "intermediate_size")


def masks_of(keys: Keys, style: Style, layers: int) -> list[Mask]:
    """Return the mask of each layer."""
    narrow = _narrow(keys, style)
    types = keys.find("layer_types")
    if isinstance(types, list):
        if len(types) != layers:
            raise ValueError(f"{keys.source}: layer_types has {len(types)} entries for {layers} layers")
        return [narrow if kind in NARROWED else Mask() for kind in types]
    pattern = keys.whole("sliding_window_pattern", "_sliding_window_pattern", missing=style.pattern, least=0)
    pattern = keys.whole("no_rope_layer_interval", missing=pattern, least=0) if style.chunked else pattern
    if style.late:
        first = keys.whole("max_window_layers", missing=0, least=0) if keys.truth("use_sliding_window") else layers
        return [narrow if layer >= first else Mask() for layer in range(layers)]
    if not pattern:
        return [Mask()] * layers
    return [Mask() if pattern > 1 and (layer + 1) % pattern == 0 else narrow for layer in range(layers)]


def _narrow(keys: Keys, style: Style) -> Mask:
    if style.chunked:
        return Mask(chunk=keys.whole("attention_chunk_size", missing=0, least=0))
    return Mask(window=keys.whole("sliding_window", missing=0, least=0) if style.pattern or style.late else 0)


def _predictors(keys: Keys, style: Style, hidden: int, blocks: tuple[Block, ...]) -> tuple[Predictor, ...]:
    """Multi-token heads: like the last block, behind a product of two hidden states and three norms."""
    given = Keys(keys.config, keys.source)  # transformers has none, whatever it takes for a key that is missing
    count = given.whole("num_nextn_predict_layers", "num_mtp_layers", missing=0, least=0)
    norms = (norm_of(style, hidden),) * 3
    project = Matrix("predictor.project", 2 * hidden, hidden, split="none")
    return (Predictor(block=blocks[-1], project=project, norms=norms),) * count if blocks else ()
