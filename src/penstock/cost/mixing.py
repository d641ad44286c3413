"""Operators of what mixes tokens: softmax attention of every kind, and layers with a state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from penstock.core.mask import CAUSAL
from penstock.core.mixers import Attention, LinearAttention
from penstock.core.parts import Matrix
from penstock.cost.operators import Operator, Tensor
from penstock.cost.tape import Tape

FUSED_SCORES = 4
"""Matrices of scores that Megatron-LM's one kernel for a masked softmax takes at a time (its ``fused_softmax.py``)."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """Queries, keys and values, as storages; ``whole``: all three in one."""

    query: Tensor
    key: Tensor
    value: Tensor
    whole: Tensor | None = None


def attention(tape: Tape, mixer: Attention, x: Tensor) -> Tensor:
    """Write the operators of attention on ``x``; return its result."""
    here = tape.batch.here
    through = _latent if mixer.latent or mixer.shared else _projected
    parts = through(tape, mixer, x)
    for matrix in mixer.beside:
        tape.matmul(matrix, x, tape.batch.own)
    if mixer.indexer:
        _indexer(tape, mixer, x)
    result = _core(tape, mixer, _rotated(tape, mixer, parts))
    if mixer.gate:
        gated = tape.tensor("attention.gated", result.size_bytes / tape.width_bytes)
        gate = tape.tensor("attention.gate", mixer.gate * here / tape.shard.tp)
        tape.elementwise("attention.gate", (result, gate), (gated,), (result, gate), passes=2, again=3)
        result = gated
    for norm in mixer.norms:
        if norm.name == "result":
            result = tape.norm(norm, "attention.result_norm", result, here, split=True)
    for matrix in mixer.narrowing:
        result = tape.matmul(matrix, result, here)
    return tape.matmul(mixer.outward, result, here)


def _projected(tape: Tape, mixer: Attention, x: Tensor) -> _Parts:
    fused = mixer.fused if tape.kernels.qkv is None else tape.kernels.qkv
    matrices = replace(mixer, fused=fused).inward
    made = [tape.matmul(matrix, x, tape.batch.here) for matrix in matrices]
    if not fused:
        query, key, value = made
        return _normed(tape, mixer, _Parts(query, key, value))
    return _normed(tape, mixer, _Parts(*_thirds(tape, mixer), whole=made[0]))


def _thirds(tape: Tape, mixer: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as parts of one product: what each holds by itself."""
    heads, kv_heads = _heads(tape, mixer)
    widths = {"query": heads * mixer.head_dim, "key": kv_heads * mixer.head_dim, "value": kv_heads * mixer.value_dim}
    query, key, value = (tape.tensor(f"attention.{name}.y", width * tape.batch.here) for name, width in widths.items())
    return query, key, value


def _heads(tape: Tape, mixer: Attention) -> tuple[int, int]:
    """Heads of queries, and of keys and values, of one rank; more ranks than heads hold copies of keys and values."""
    heads = tape.shard.of(mixer.heads, "heads")
    return heads, max(1, mixer.kv_heads // tape.shard.tp)


def _normed(tape: Tape, mixer: Attention, parts: _Parts) -> _Parts:
    """Norms of queries and keys, where the model has them."""
    found: dict[str, Tensor] = {}
    for norm in mixer.norms:
        if norm.name in ("query", "key"):
            source = parts.whole or getattr(parts, norm.name)
            found[norm.name] = tape.norm(norm, f"attention.{norm.name}_norm", source, tape.batch.here, split=True)
    return replace(parts, **found)


def _latent(tape: Tape, mixer: Attention, x: Tensor) -> _Parts:
    """Queries, keys and values through their latents; the positions' part of keys is one for all heads.

    What no rank has a part of is done on a rank's own tokens, where these are split.
    """
    made: dict[str, Tensor] = {}
    norms = {norm.name: norm for norm in mixer.norms}
    own, here = tape.batch.own, tape.batch.here
    for matrix in mixer.inward:
        name = matrix.name.removeprefix("attention.")
        latent = made.get(name.replace("_up", "_down")) if name.endswith("_up") else None
        made[name] = tape.matmul(matrix, latent or x, own if matrix.split == "none" else here)
        if name.endswith("_down"):
            made[name] = tape.norm(norms[name], f"attention.{name}_norm", made[name], own)
    if mixer.shared:
        key = tape.norm(norms["key"], "attention.key_norm", made["key"], own)
        return _Parts(made["query_up"], key, key)
    heads, _ = _heads(tape, mixer)
    key = tape.tensor("attention.key", heads * mixer.head_dim * here)
    tape.elementwise("attention.join", (made["kv_up"],), (key,))
    value = tape.tensor("attention.value.y", heads * mixer.value_dim * here)
    return _Parts(made.get("query_up") or made["query"], key, value, whole=made["kv_up"])


def _rotated(tape: Tape, mixer: Attention, parts: _Parts) -> _Parts:
    """Positions by rotation: new queries and keys."""
    if not mixer.rope:
        return parts
    query, key = (tape.tensor(f"attention.{name}.rotated", 0) for name in ("query", "key"))
    query = query._replace(size_bytes=parts.query.size_bytes)
    key = key._replace(size_bytes=parts.key.size_bytes)
    passes = 1 if tape.kernels.rope and (tape.kernels.yarn or not mixer.yarn) else 5
    tape.elementwise("attention.rope", (parts.query, parts.key), (query, key), passes=passes, again=passes)
    return replace(parts, query=query, key=key)


def _core(tape: Tape, mixer: Attention, parts: _Parts) -> Tensor:
    """Scores, softmax and what they weigh."""
    heads, kv_heads = _heads(tape, mixer)
    one, shard = tape.batch, tape.shard
    queries = one.seq * shard.cp_turned / shard.cp
    batch = one.micro * shard.of(heads, "heads of a rank", shard.cp_turned)
    out = tape.tensor("attention.result", heads * mixer.value_dim * one.here)
    parts = _repeated(tape, mixer, parts, heads, kv_heads)
    takes, held = (parts.query, parts.key, parts.value), (*_held(tape, parts), *_mask(tape, mixer))
    sizes: dict[str, Any] = {
        "batch": batch, "m": queries, "n": one.seq, "k": mixer.head_dim, "value_dim": mixer.value_dim,
    }  # fmt: skip
    if not tape.kernels.attention:
        _unfused(tape, held, takes, out, sizes)
        return out
    stats = tape.tensor("attention.stats", heads * one.here, 4)
    scores, moved = 2 * batch * queries * one.seq, sum(each.size_bytes for each in takes)
    core: dict[str, Any] = {"name": "attention.core", "kind": "attention", **sizes}
    core["density"] = mixer.mask.density(one.seq)
    tape.add(
        Operator(
            flops=scores * (mixer.head_dim + mixer.value_dim), reads_bytes=moved, writes_bytes=out.size_bytes,
            takes=takes, makes=(out, stats), saves=(*held, out, stats), **core,
        )
    )  # fmt: skip
    again = scores * (3 * mixer.head_dim + 2 * mixer.value_dim)
    reads = moved + 2 * out.size_bytes + stats.size_bytes
    tape.add(Operator(phase="I", flops=again, reads_bytes=reads, writes_bytes=moved, launches=2, **core))
    return out


def _unfused(
    tape: Tape, held: tuple[Tensor, ...], takes: tuple[Tensor, ...], out: Tensor, sizes: dict[str, Any]
) -> None:
    """Attention with its score matrix in memory: two products and the kernels of a softmax between them."""
    elements = sizes["batch"] * sizes["m"] * sizes["n"]
    work = 2 * elements * (sizes["k"] + sizes["value_dim"])
    narrow = (tape.tensor("attention.weights", elements),)
    wide = (tape.tensor("attention.softmax", elements, 4),)
    fused = tape.kernels.softmax and sizes["batch"] % FUSED_SCORES == 0
    kept: tuple[Tensor, ...] = narrow if fused else wide if tape.width_bytes == 4 else wide + narrow
    if tape.batch.dropout:
        kept += (tape.tensor("attention.dropped", elements), tape.tensor("attention.core.mask_of_dropout", elements, 1))
    moved = sum(each.size_bytes for each in takes)
    matrix, dropped = elements * tape.width_bytes, int(tape.batch.dropout)
    kernels = 1 if fused else 3 if tape.width_bytes == 4 else 5  # or scale, mask and softmax, and casts around them
    passes = dropped + (9 if kernels == 5 else kernels)  # scores are read and written so often, half of it in 4 bytes
    core: dict[str, Any] = {"name": "attention.core", "kind": "attention", **sizes}
    tape.add(
        Operator(
            flops=work, reads_bytes=moved + (passes + 1) * matrix, writes_bytes=out.size_bytes + (passes + 1) * matrix,
            launches=2 + dropped + kernels, takes=takes, makes=(out,), saves=(*held, *kept), **core,
        )
    )  # fmt: skip
    reads, writes = moved + out.size_bytes + (passes + 4) * matrix, moved + (passes + 1) * matrix
    tape.add(
        Operator(
            phase="I", flops=2 * work, reads_bytes=reads, writes_bytes=writes, launches=4 + dropped + kernels, **core
        )
    )


def _held(tape: Tape, parts: _Parts) -> list[Tensor]:
    """What attention keeps of its inputs: parts of a product keep the whole of it in memory."""
    if parts.whole is None or tape.kernels.copies:
        return [parts.query, parts.key, parts.value]
    own = [each for each in (parts.query, parts.key) if each.name.rpartition(".")[2] != "y"]
    return [*own, parts.whole]


def _repeated(tape: Tape, mixer: Attention, parts: _Parts, heads: int, kv_heads: int) -> _Parts:
    """A mask that is no plain causal one makes transformers give each head a copy of its keys and values."""
    if heads == kv_heads or not _mask(tape, mixer):
        return parts
    key = tape.tensor("attention.key.repeated", heads * mixer.head_dim * tape.batch.here)
    value = tape.tensor("attention.value.repeated", heads * mixer.value_dim * tape.batch.here)
    tape.elementwise("attention.repeat", (parts.key, parts.value), (key, value), passes=1)
    return _Parts(parts.query, key, value)


def _mask(tape: Tape, mixer: Attention) -> tuple[Tensor, ...]:
    """The mask that transformers hands over where it is no plain causal one: a number per pair, for all heads."""
    if tape.kernels.rope or mixer.mask.pairs(tape.batch.seq) == CAUSAL.pairs(tape.batch.seq):
        return ()
    return (tape.tensor("attention.mask", tape.batch.here * tape.batch.seq),)


def _indexer(tape: Tape, mixer: Attention, x: Tensor) -> None:
    """A light attention over all pairs, whose best scores choose the keys (DeepSeek-V3.2, arXiv:2512.02556); where keys
    are compressed, over pairs with these.

    The loss of the model sends no gradient through the choice.
    """
    one = tape.batch
    for matrix in mixer.indexer:
        source = tape.tensor("attention.query_down_norm.y", mixer.query_rank * one.here)
        tape.matmul(matrix, source if matrix.name == "indexer.query" else x, one.here, trained=False)
    queries, keys = one.seq / tape.shard.cp, one.seq / (mixer.mask.compress or 1)
    batch, pairs = one.micro * mixer.index_heads, one.micro * queries * keys
    moved = (mixer.index_heads + 1) * mixer.index_dim * one.here * tape.width_bytes
    flops = 2 * pairs * mixer.index_heads * (mixer.index_dim + 1)  # scores, and their sum over heads by weight
    tape.add(
        Operator(
            name="indexer.scores", kind="matmul", batch=batch, m=queries, n=keys, k=mixer.index_dim, flops=flops,
            density=CAUSAL.density(one.seq), reads_bytes=moved, writes_bytes=4 * pairs,
        )
    )  # fmt: skip


def linear_attention(tape: Tape, mixer: LinearAttention, x: Tensor) -> Tensor:
    """Write the operators of a layer with a state of fixed size; return its result."""
    here, shard = tape.batch.here, tape.shard
    made = [tape.matmul(matrix, _source(tape, mixer, matrix, x), here) for matrix in mixer.inward]
    mixed = made[0]
    channels, width = mixer.conv
    if channels:
        mixed = tape.tensor("linear.conv.y", here * shard.of(channels, "channels"))
        kept = (made[0], mixed) if tape.kernels.states or mixer.rule == "gated_delta" else (made[0],)
        tape.elementwise("linear.conv", (made[0],), (mixed,), kept, again=2, per_element=2.0 * width)
    out = _state(tape, mixer, mixed)
    for norm in mixer.norms[:1] if mixer.rule != "mamba" else ():
        out = tape.norm(norm, "linear.norm", out, here, split=True)
    return tape.matmul(mixer.outward, out, here)


def _source(tape: Tape, mixer: LinearAttention, matrix: Matrix, x: Tensor) -> Tensor:
    """What a product reads: the layer's input, or a narrow result before it."""
    if matrix.inputs == mixer.hidden:
        return x
    share = tape.shard.tp if matrix.split == "rows" else 1
    return tape.tensor(f"{matrix.name}.x", tape.batch.here * matrix.inputs / share)


def _state(tape: Tape, mixer: LinearAttention, mixed: Tensor) -> Tensor:
    """The state through the sequence: in chunks, products within each and one update of the state between."""
    one, heads = tape.batch, tape.shard.of(mixer.heads, "heads")
    out = tape.tensor("linear.state.y", one.here * heads * mixer.value_dim)
    chunks = -(-one.seq // mixer.chunk)
    state = tape.tensor("linear.states", one.micro * chunks * heads * mixer.key_dim * mixer.value_dim, 4)
    work, moved = one.here * heads * _state_flops(mixer), mixed.size_bytes + state.size_bytes
    many = 1 if mixer.rule == "mamba" else 5
    kept = (mixed, state) if tape.kernels.states else () if mixer.rule.startswith("mamba") else (mixed,)
    scan: dict[str, Any] = {
        "name": "linear.state", "kind": "scan", "batch": one.micro * heads,
        "m": mixer.chunk, "n": mixer.value_dim, "k": mixer.key_dim,
    }  # fmt: skip
    tape.add(
        Operator(
            flops=work, reads_bytes=moved, writes_bytes=out.size_bytes + state.size_bytes, launches=many,
            takes=(mixed,), makes=(out,), saves=kept, **scan,
        )
    )  # fmt: skip
    reads = 2 * moved + out.size_bytes
    tape.add(Operator(phase="I", flops=2 * work, reads_bytes=reads, writes_bytes=moved, launches=2 * many, **scan))
    return out


def _state_flops(mixer: LinearAttention) -> int:
    """FLOPs of a head and token of a chunk of ``c``: scores and what they weigh, ``2 c (key_dim + value_dim)`` of which
    causality needs half, and state in and out, ``4 key_dim value_dim``; a delta rule solves a triangle of ``c``
    besides."""
    between = 4 * mixer.key_dim * mixer.value_dim
    inside = 0 if mixer.rule == "mamba" else 2 * mixer.chunk * (mixer.key_dim + mixer.value_dim)
    return between + (2 * inside + mixer.chunk**2 if mixer.rule == "gated_delta" else inside)
