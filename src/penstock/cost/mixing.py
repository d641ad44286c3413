"""Operators of what mixes tokens: softmax attention of every kind, and layers with a state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from penstock.core.mask import Mask
from penstock.core.mixers import Attention, LinearAttention
from penstock.core.parts import Matrix, Norm
from penstock.cost.operators import Tensor
from penstock.cost.tape import Tape


@dataclass(frozen=True, slots=True)
class Tokens:
    """One micro-batch of one rank: ``micro`` sequences of ``seq`` tokens, of which the rank holds ``seq / cp``."""

    micro: int
    seq: int
    cp: int = 1

    @property
    def here(self) -> float:
        """Tokens of this rank."""
        return self.micro * self.seq / self.cp


@dataclass(frozen=True, slots=True)
class _Parts:
    """Queries, keys and values, as storages; ``whole``: all three in one."""

    query: Tensor
    key: Tensor
    value: Tensor
    whole: Tensor | None = None


def attention(tape: Tape, mixer: Attention, x: Tensor, tokens: Tokens, full: float | None) -> Tensor:
    """Write the operators of attention on ``x``; return its result."""
    through = _latent if mixer.latent or mixer.shared else _projected
    parts = through(tape, mixer, x, tokens, full)
    for matrix in mixer.beside:
        tape.matmul(matrix, x, tokens.here / (tape.shard.tp if tape.shard.sp else 1))
    if mixer.indexer:
        _indexer(tape, mixer, x, tokens)
    result = _core(tape, mixer, _rotated(tape, mixer, parts, tokens), tokens)
    if mixer.gate:
        gated = tape.tensor("attention.gated", result.size_bytes / tape.width_bytes)
        gate = tape.tensor("attention.gate", mixer.gate * tokens.here / tape.shard.tp)
        tape.elementwise("attention.gate", (result, gate), (gated,), (result, gate), passes=2, again=3)
        result = gated
    for norm in mixer.norms:
        if norm.name == "result":
            result = tape.norm(_narrowed(norm, tape.shard.tp), "attention.result_norm", result, tokens.here)
    for matrix in mixer.narrowing:
        result = tape.matmul(matrix, result, tokens.here)
    return tape.matmul(mixer.outward, result, tokens.here)


def _projected(tape: Tape, mixer: Attention, x: Tensor, tokens: Tokens, full: float | None) -> _Parts:
    fused = mixer.fused if tape.kernels.qkv is None else tape.kernels.qkv
    matrices = replace(mixer, fused=fused).inward
    made = [tape.matmul(matrix, x, tokens.here, full=full) for matrix in matrices]
    if not fused:
        query, key, value = made
        return _normed(tape, mixer, _Parts(query, key, value), tokens)
    return _normed(tape, mixer, _Parts(*_thirds(tape, mixer, tokens), whole=made[0]), tokens)


def _thirds(tape: Tape, mixer: Attention, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as parts of one product: what each holds by itself."""
    heads, kv_heads = _heads(tape, mixer)
    widths = {"query": heads * mixer.head_dim, "key": kv_heads * mixer.head_dim, "value": kv_heads * mixer.value_dim}
    query, key, value = (tape.tensor(f"attention.{name}.y", width * tokens.here) for name, width in widths.items())
    return query, key, value


def _heads(tape: Tape, mixer: Attention) -> tuple[int, int]:
    """Heads of queries, and of keys and values, of one rank; more ranks than heads hold copies of keys and values."""
    heads = tape.shard.of(mixer.heads, "heads")
    return heads, max(1, mixer.kv_heads // tape.shard.tp)


def _normed(tape: Tape, mixer: Attention, parts: _Parts, tokens: Tokens) -> _Parts:
    """Norms of queries and keys, where the model has them."""
    found: dict[str, Tensor] = {}
    for norm in mixer.norms:
        if norm.name in ("query", "key"):
            mine, source = _narrowed(norm, tape.shard.tp), parts.whole or getattr(parts, norm.name)
            found[norm.name] = tape.norm(mine, f"attention.{norm.name}_norm", source, tokens.here)
    return replace(parts, **found)


def _latent(tape: Tape, mixer: Attention, x: Tensor, tokens: Tokens, full: float | None) -> _Parts:
    """Queries, keys and values through their latents; the positions' part of keys is one for all heads.

    What no rank has a part of is done on a rank's own tokens, where these are split.
    """
    made: dict[str, Tensor] = {}
    norms = {norm.name: norm for norm in mixer.norms}
    own = tokens.here / (tape.shard.tp if tape.shard.sp else 1)
    for matrix in mixer.inward:
        name = matrix.name.removeprefix("attention.")
        latent = made.get(name.replace("_up", "_down")) if name.endswith("_up") else None
        if matrix.split == "none":
            made[name] = tape.matmul(matrix, x, own)
        elif latent is None:
            made[name] = tape.matmul(matrix, x, tokens.here, full=full)
        else:
            whole = tokens.here * matrix.inputs * tape.width_bytes
            made[name] = tape.matmul(matrix, latent, tokens.here, full=whole)
        if name.endswith("_down"):
            made[name] = tape.norm(norms[name], f"attention.{name}_norm", made[name], own)
    if mixer.shared:
        key = tape.norm(norms["key"], "attention.key_norm", made["key"], own)
        return _Parts(made["query_up"], key, key)
    heads, _ = _heads(tape, mixer)
    key = tape.tensor("attention.key", heads * mixer.head_dim * tokens.here)
    tape.elementwise("attention.join", (made["kv_up"],), (key,))
    value = tape.tensor("attention.value.y", heads * mixer.value_dim * tokens.here)
    return _Parts(made.get("query_up") or made["query"], key, value, whole=made["kv_up"])


def _rotated(tape: Tape, mixer: Attention, parts: _Parts, tokens: Tokens) -> _Parts:
    """Positions by rotation: new queries and keys."""
    if not mixer.rope:
        return parts
    query, key = (tape.tensor(f"attention.{name}.rotated", 0) for name in ("query", "key"))
    query = query._replace(size_bytes=parts.query.size_bytes)
    key = key._replace(size_bytes=parts.key.size_bytes)
    passes = 1 if tape.kernels.rope else 5
    tape.elementwise("attention.rope", (parts.query, parts.key), (query, key), passes=passes, again=passes)
    return replace(parts, query=query, key=key)


def _core(tape: Tape, mixer: Attention, parts: _Parts, tokens: Tokens) -> Tensor:
    """Scores, softmax and what they weigh."""
    heads, kv_heads = _heads(tape, mixer)
    spread = tape.shard.cp if tape.shard.cp_heads else 1
    queries = tokens.seq if tape.shard.cp_heads else tokens.seq / tokens.cp
    batch = tokens.micro * tape.shard.of(heads, "heads of a rank", spread)
    out = tape.tensor("attention.result", heads * mixer.value_dim * tokens.here)
    stats = tape.tensor("attention.stats", heads * tokens.here, 4)
    parts = _repeated(tape, mixer, parts, tokens, heads, kv_heads)
    held = [*_held(tape, parts), *_mask(tape, mixer, tokens)]
    scores = 2 * batch * queries * tokens.seq
    sizes: dict[str, Any] = {
        "batch": batch,
        "m": queries,
        "n": tokens.seq,
        "k": mixer.head_dim,
        "value_dim": mixer.value_dim,
    }
    seen: dict[str, Any] = {"density": mixer.mask.density(tokens.seq)}
    inner, takes = mixer.head_dim + mixer.value_dim, (parts.query, parts.key, parts.value)
    moved = sum(each.size_bytes for each in takes)
    if tape.kernels.attention:
        tape.add(
            "attention", "attention.core", "F", flops=scores * inner, reads=moved, writes=out.size_bytes,
            takes=takes, makes=(out, stats), saves=(*held, out, stats), **sizes, **seen,
        )  # fmt: skip
        again = scores * (3 * mixer.head_dim + 2 * mixer.value_dim)
        reads = moved + 2 * out.size_bytes + stats.size_bytes
        tape.add(
            "attention", "attention.core", "I", flops=again, reads=reads, writes=moved, launches=2, **sizes, **seen
        )
        return out
    _unfused(tape, (*held,), takes, out, scores * inner, sizes)
    return out


def _unfused(
    tape: Tape, held: tuple[Tensor, ...], takes: tuple[Tensor, ...], out: Tensor, work: float, sizes: dict[str, Any]
) -> None:
    """Attention with its score matrix in memory: two products and the kernels of a softmax between them."""
    elements = sizes["batch"] * sizes["m"] * sizes["n"]
    wide = tape.tensor("attention.softmax", elements, 4)
    narrow = (tape.tensor("attention.weights", elements),) if tape.width_bytes != 4 else ()
    moved = sum(each.size_bytes for each in takes)
    matrix = 6 * elements * tape.width_bytes
    tape.add(
        "attention", "attention.core", "F", flops=work, reads=moved + matrix, writes=out.size_bytes + matrix,
        launches=5, takes=takes, makes=(out,), saves=(*held, wide, *narrow), **sizes,
    )  # fmt: skip
    again: dict[str, Any] = {"reads": moved + out.size_bytes + 2 * matrix, "writes": moved + matrix, "launches": 8}
    tape.add("attention", "attention.core", "I", flops=2 * work, **again, **sizes)


def _held(tape: Tape, parts: _Parts) -> list[Tensor]:
    """What attention keeps of its inputs: parts of a product keep the whole of it in memory."""
    if parts.whole is None or tape.kernels.copies:
        return [parts.query, parts.key, parts.value]
    own = [each for each in (parts.query, parts.key) if each.name.rpartition(".")[2] != "y"]
    return [*own, parts.whole]


def _repeated(tape: Tape, mixer: Attention, parts: _Parts, tokens: Tokens, heads: int, kv_heads: int) -> _Parts:
    """A mask that is no plain causal one makes transformers give each head a copy of its keys and values."""
    if heads == kv_heads or not _mask(tape, mixer, tokens):
        return parts
    key = tape.tensor("attention.key.repeated", heads * mixer.head_dim * tokens.here)
    value = tape.tensor("attention.value.repeated", heads * mixer.value_dim * tokens.here)
    tape.elementwise("attention.repeat", (parts.key, parts.value), (key, value), passes=1)
    return _Parts(parts.query, key, value)


def _mask(tape: Tape, mixer: Attention, tokens: Tokens) -> tuple[Tensor, ...]:
    """The mask that transformers hands over where it is no plain causal one: a number per pair, for all heads."""
    if tape.kernels.rope or mixer.mask.pairs(tokens.seq) == Mask().pairs(tokens.seq):
        return ()
    return (tape.tensor("attention.mask", tokens.here * tokens.seq),)


def _indexer(tape: Tape, mixer: Attention, x: Tensor, tokens: Tokens) -> None:
    """A light attention over all pairs, whose best scores choose the keys (DeepSeek-V3.2, arXiv:2512.02556).

    The loss of the model sends no gradient through the choice.
    """
    for matrix in mixer.indexer:
        source = tape.tensor("attention.query_down_norm.y", mixer.query_rank * tokens.here)
        tape.matmul(matrix, source if matrix.name == "indexer.query" else x, tokens.here, trained=False)
    queries = tokens.seq / tokens.cp
    batch, work = tokens.micro * mixer.index_heads, 2 * tokens.micro * queries * tokens.seq
    sizes: dict[str, Any] = {"batch": batch, "m": queries, "n": tokens.seq, "k": mixer.index_dim, "density": 0.5}
    moved = (mixer.index_heads + 1) * mixer.index_dim * tokens.here * tape.width_bytes
    flops = work * mixer.index_heads * (mixer.index_dim + 1)  # scores, and their sum over heads by weight
    tape.add("matmul", "indexer.scores", "F", flops=flops, reads=moved, writes=work * 2, **sizes)


def linear_attention(tape: Tape, mixer: LinearAttention, x: Tensor, tokens: Tokens, full: float | None) -> Tensor:
    """Write the operators of a layer with a state of fixed size; return its result."""
    here, shard = tokens.here, tape.shard
    made = [tape.matmul(matrix, *_source(tape, mixer, matrix, x, here, full)) for matrix in mixer.inward]
    mixed = made[0]
    channels, width = mixer.conv
    if channels:
        mixed = tape.tensor("linear.conv.y", here * shard.of(channels, "channels"))
        passes: dict[str, Any] = {"passes": 1, "again": 2, "per_element": 2.0 * width}
        tape.elementwise("linear.conv", (made[0],), (mixed,), (made[0], mixed), **passes)
    out = _state(tape, mixer, mixed, tokens)
    for norm in mixer.norms[:1] if mixer.rule != "mamba" else ():
        out = tape.norm(_narrowed(norm, shard.tp), "linear.norm", out, here)
    return tape.matmul(mixer.outward, out, here)


def _source(
    tape: Tape, mixer: LinearAttention, matrix: Matrix, x: Tensor, here: float, full: float | None
) -> tuple[Tensor, float]:
    """What a product reads: the layer's input, or a narrow result before it."""
    if matrix.inputs == mixer.hidden:
        return x, here
    share = tape.shard.tp if matrix.split == "rows" else 1
    return tape.tensor(f"{matrix.name}.x", here * matrix.inputs / share), here


def _narrowed(norm: Norm, tp: int) -> Norm:
    if norm.over > 1:
        return replace(norm, over=max(1, norm.over // tp))
    return replace(norm, width=norm.width // tp)


def _state(tape: Tape, mixer: LinearAttention, mixed: Tensor, tokens: Tokens) -> Tensor:
    """The state through the sequence: in chunks, products within each and one update of the state between.

    Per head and token of a chunk of ``c``: scores and what they weigh, ``2 c (key_dim + value_dim)`` of which causality
    needs half, and state in and out, ``4 key_dim value_dim``; a delta rule solves a triangle of ``c`` besides.
    """
    heads, here = tape.shard.of(mixer.heads, "heads"), tokens.here
    out = tape.tensor("linear.state.y", here * heads * mixer.value_dim)
    chunks = -(-tokens.seq // mixer.chunk)
    state = tape.tensor("linear.states", tokens.micro * chunks * heads * mixer.key_dim * mixer.value_dim, 4)
    between = 4 * mixer.key_dim * mixer.value_dim
    inside = 0 if mixer.rule == "mamba" else 2 * mixer.chunk * (mixer.key_dim + mixer.value_dim)
    if mixer.rule == "gated_delta":
        inside += 2 * mixer.chunk * (mixer.key_dim + mixer.value_dim) + mixer.chunk**2
    work = here * heads * (between + inside)
    moved = mixed.size_bytes + state.size_bytes
    sizes: dict[str, Any] = {"batch": tokens.micro * heads, "m": mixer.chunk, "n": mixer.value_dim, "k": mixer.key_dim}
    many = 1 if mixer.rule == "mamba" else 5
    tape.add(
        "scan", "linear.state", "F", flops=work, reads=moved, writes=out.size_bytes + state.size_bytes, launches=many,
        takes=(mixed,), makes=(out,), saves=(mixed, state), **sizes,
    )  # fmt: skip
    reads, writes = 2 * moved + out.size_bytes, moved
    tape.add("scan", "linear.state", "I", flops=2 * work, reads=reads, writes=writes, launches=2 * many, **sizes)
    return out
