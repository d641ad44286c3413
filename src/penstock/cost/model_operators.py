"""Operators of a block, of the ends of a model, and of a pipeline stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from penstock.core.architecture import Architecture, Block
from penstock.core.mixers import Attention, LinearAttention
from penstock.core.parts import Experts, Matrix, Mlp
from penstock.cost.feeding import experts, mlp
from penstock.cost.mixing import Tokens, attention, linear_attention
from penstock.cost.operators import FUSED, WHOLE, Kernels, Operator, Shard, Tensor
from penstock.cost.tape import Tape


def operators(
    block: Block,
    *,
    micro: int,
    seq: int,
    width_bytes: float = 2,
    gradient_bytes: float = 4,
    shard: Shard = WHOLE,
    kernels: Kernels = FUSED,
    scope: str = "",
) -> tuple[Operator, ...]:
    """Return the operators of one micro-batch of ``micro`` sequences of ``seq`` tokens through a block, on one rank.

    Forwards come first, in order; then gradients, in the order of a backward. Those of inputs (``I``) and of weights
    (``W``) are apart.

    Args:
        width_bytes, gradient_bytes: of an element of weights and activations, and of a weight gradient.
        shard: how the block is split.
        kernels: what runs as one kernel, and so what is kept in between.
        scope: put before all names, so that those of several blocks differ.

    Raises:
        ValueError: a split that does not divide heads, widths or experts.

    >>> from penstock.core.config import gpt
    >>> block = gpt(layers=1, hidden=64, heads=4, vocab=96).blocks[0]
    >>> sum(op.flops for op in operators(block, micro=1, seq=8) if op.kind == "matmul" and op.phase == "F")
    786432.0
    """
    tape = Tape(kernels, shard, width_bytes, gradient_bytes, scope)
    _write_block(tape, block, Tokens(micro, seq, shard.cp))
    return tape.operators()


def _write_block(tape: Tape, block: Block, tokens: Tokens) -> None:
    own = tokens.here / (tape.shard.tp if tape.shard.sp else 1)
    x = tape.tensor("input", own * block.hidden * block.streams)
    halves = [half for half in (block.attention, block.mlp) if half is not None]
    each = max(1, len(block.norms) // max(1, len(halves)))
    entry: Tensor | None = None
    for index, half in enumerate(halves):
        norms = block.norms[index * each : (index + 1) * each] or block.norms[:1]
        role = ("attention", "mlp")[half is block.mlp]
        source = _collapsed(tape, block, x, own, role)
        if not (block.parallel and len(block.norms) == 1 and entry is not None):
            entry = tape.norm(norms[0], f"{role}_norm", source, own)
        y = _write_half(tape, block, half, entry, tokens)
        y = Tensor(y.name, source.size_bytes)
        for norm in norms[1:2]:
            y = tape.norm(norm, f"{role}_post_norm", y, own)
        sum_of = tape.tensor(f"{role}.sum", own * block.hidden * block.streams)
        tape.elementwise(f"{role}.add", (x, y), (sum_of,))
        x = sum_of


def _collapsed(tape: Tape, block: Block, x: Tensor, own: float, role: str) -> Tensor:
    """One stream of several, by weights that a product of all of them gives."""
    if not block.mixing:
        return x
    weights = tape.matmul(replace(block.mixing[0], name=f"{role}.streams"), x, own)
    one = tape.tensor(f"{role}.stream", own * block.hidden)
    tape.elementwise(f"{role}.collapse", (x, weights), (one,), (x, weights), passes=2, again=3)
    return one


def _write_half(
    tape: Tape, block: Block, half: Attention | LinearAttention | Mlp | Experts, entry: Tensor, tokens: Tokens
) -> Tensor:
    full = tokens.here * block.hidden * tape.width_bytes
    if isinstance(half, Attention):
        return attention(tape, half, entry, tokens, full)
    if isinstance(half, LinearAttention):
        return linear_attention(tape, half, entry, tokens, full)
    if isinstance(half, Experts):
        return experts(tape, half, entry, entry.size_bytes / tape.width_bytes / block.hidden)
    return mlp(tape, half, entry, tokens.here, full)


def embedding_operators(
    model: Architecture,
    *,
    micro: int,
    seq: int,
    width_bytes: float = 2,
    gradient_bytes: float = 4,
    shard: Shard = WHOLE,
    kernels: Kernels = FUSED,
) -> tuple[Operator, ...]:
    """Return the operators of the input embedding: a gather, and sums of its gradient."""
    tape = Tape(kernels, shard, width_bytes, gradient_bytes, "embedding.")
    part, here = model.embedding, micro * seq / shard.cp
    ids, places = tape.tensor("ids", here, 8), tape.tensor("places", seq / shard.cp, 8)
    x = tape.tensor("tokens.y", here * part.width)
    _gather(tape, "tokens", ids, x)
    if part.project is not None:
        x = tape.matmul(part.project, x, here, split=False)
    if part.positions:
        rows = tape.tensor("positions.y", seq / shard.cp * model.hidden)
        _gather(tape, "positions", places, rows)
        tape.elementwise("add", (x, rows), (tape.tensor("sum", here * model.hidden),))
    if part.norm is not None:
        tape.norm(part.norm, "norm", x, here)
    return tape.operators()


def _gather(tape: Tape, name: str, ids: Tensor, rows: Tensor) -> None:
    tape.add(
        "gather",
        name,
        "F",
        reads=ids.size_bytes + rows.size_bytes,
        writes=rows.size_bytes,
        takes=(ids,),
        makes=(rows,),
        saves=(ids,),
    )
    wide = rows.size_bytes / tape.width_bytes * tape.gradient_bytes
    tape.add("gather", name, "W", reads=ids.size_bytes + rows.size_bytes + wide, writes=wide)


def head_operators(
    model: Architecture,
    *,
    micro: int,
    seq: int,
    width_bytes: float = 2,
    gradient_bytes: float = 4,
    shard: Shard = WHOLE,
    kernels: Kernels = FUSED,
) -> tuple[Operator, ...]:
    """Return the operators behind the last block: norm, output head over the vocabulary of a rank, loss."""
    tape = Tape(kernels, shard, width_bytes, gradient_bytes, "head.")
    here = micro * seq / shard.cp
    own = here / (shard.tp if shard.sp else 1)
    streams = model.blocks[-1].streams if model.blocks else 1
    x = tape.tensor("input", own * model.hidden * streams)
    if streams > 1:
        weights = tape.matmul(Matrix("streams", streams * model.hidden, streams, True, "none"), x, own)
        one = tape.tensor("stream", own * model.hidden)
        tape.elementwise("collapse", (x, weights), (one,), (x, weights), passes=2, again=3)
        x = one
    full = here * model.hidden * width_bytes
    if model.norm is not None:
        x = tape.norm(model.norm, "norm", x, own)
    if model.head.project is not None:
        x = tape.matmul(model.head.project, x, here, split=False, full=full)
    vocab = -(-model.vocab // shard.tp) * shard.tp
    logits = tape.matmul(Matrix("logits", model.head.inputs, vocab, model.head.bias), x, here, full=full)
    _loss(tape, logits, here * vocab / shard.tp)
    return tape.operators()


def _loss(tape: Tape, logits: Tensor, elements: float) -> None:
    result = tape.tensor("loss", 1, 4)
    if tape.kernels.loss:
        tape.add(
            "loss", "loss", "F", flops=6 * elements, reads=2 * logits.size_bytes, writes=logits.size_bytes, launches=2,
            takes=(logits,), makes=(result,), saves=(logits,),
        )  # fmt: skip
        tape.add("loss", "loss", "I", flops=elements, reads=logits.size_bytes, writes=logits.size_bytes)
        return
    wide = tape.tensor("probabilities", elements, 4)
    reads = logits.size_bytes + wide.size_bytes * (1 + (tape.width_bytes < 4))
    tape.add(
        "loss", "loss", "F", flops=6 * elements, reads=reads, writes=2 * wide.size_bytes, launches=3,
        takes=(logits,), makes=(result,), saves=(wide, result),
    )  # fmt: skip
    reads = 2 * wide.size_bytes
    tape.add(
        "loss", "loss", "I", flops=4 * elements, reads=reads, writes=wide.size_bytes + logits.size_bytes, launches=3
    )


def predictor_operators(
    model: Architecture,
    *,
    micro: int,
    seq: int,
    width_bytes: float = 2,
    gradient_bytes: float = 4,
    shard: Shard = WHOLE,
    kernels: Kernels = FUSED,
) -> tuple[Operator, ...]:
    """Return the operators of the multi-token heads, each with its pass through the output head and its loss."""
    found: list[Operator] = []
    given: dict[str, Any] = {
        "width_bytes": width_bytes,
        "gradient_bytes": gradient_bytes,
        "shard": shard,
        "kernels": kernels,
    }
    for index, predictor in enumerate(model.predictors):
        scope = f"predictor{index}."
        tape = Tape(kernels, shard, width_bytes, gradient_bytes, scope)
        tokens = Tokens(micro, seq, shard.cp)
        own = tokens.here / (shard.tp if shard.sp else 1)
        for name, norm in zip(("hidden_norm", "embedding_norm"), predictor.norms, strict=False):
            tape.norm(norm, name, tape.tensor(f"{name}.x", own * model.hidden), own)
        both = tape.tensor("both", own * 2 * model.hidden)
        tape.elementwise("join", (both,), (both,))
        tape.matmul(predictor.project, both, tokens.here, full=both.size_bytes * tokens.here / own)
        _write_block(tape, predictor.block, tokens)
        found += [*tape.operators(), *head_operators(model, micro=micro, seq=seq, **given)]
    return tuple(found)


def stage_operators(
    model: Architecture,
    layers: range,
    *,
    micro: int,
    seq: int,
    width_bytes: float = 2,
    gradient_bytes: float = 4,
    shard: Shard = WHOLE,
    kernels: Kernels = FUSED,
) -> tuple[Operator, ...]:
    """Return the operators of a pipeline stage: its layers, with the embedding before the first and the head (and
    multi-token heads) behind the last layer of the model."""
    sizes: dict[str, Any] = {"micro": micro, "seq": seq}
    given: dict[str, Any] = {
        "width_bytes": width_bytes,
        "gradient_bytes": gradient_bytes,
        "shard": shard,
        "kernels": kernels,
    }
    parts: list[tuple[Operator, ...]] = []
    if layers.start == 0:
        parts.append(embedding_operators(model, **sizes, **given))
    for layer in layers:
        parts.append(operators(model.blocks[layer], **sizes, **given, scope=f"layer{layer}."))
    if layers.stop == model.layers:
        parts.append(predictor_operators(model, **sizes, **given))
        parts.append(head_operators(model, **sizes, **given))
    forward = [op for part in parts for op in part if op.phase == "F"]
    backward = [op for part in reversed(parts) for op in part if op.phase != "F"]
    return (*forward, *backward)
