"""Operators of a block, of the ends of a model, and of a pipeline stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from penstock.core.architecture import Architecture, Block
from penstock.core.mixers import Attention, LinearAttention
from penstock.core.parts import Experts, Matrix, Mlp
from penstock.cost.feeding import experts, mlp
from penstock.cost.mixing import attention, linear_attention
from penstock.cost.operators import Microbatch, Operator, Tensor
from penstock.cost.tape import Tape

Half = Attention | LinearAttention | Mlp | Experts


def operators(block: Block, batch: Microbatch, scope: str = "") -> tuple[Operator, ...]:
    """Return the operators of one micro-batch through a block, on one rank.

    Forwards come first, in order; then gradients, in the order of a backward. Those of inputs (``I``) and of weights
    (``W``) are apart.

    Args:
        scope: put before all names, so that those of several blocks differ.

    Raises:
        ValueError: a split that does not divide heads, widths or experts.

    >>> from penstock.core.config import gpt
    >>> block = gpt(layers=1, hidden=64, heads=4, vocab=96).blocks[0]
    >>> made = operators(block, Microbatch(micro=1, seq=8))
    >>> sum(op.flops for op in made if op.kind == "matmul" and op.phase == "F")
    786432.0
    """
    if scope:
        tape = Tape(batch, scope)
        _write_block(tape, block)
        return tape.operators()
    each = [half_operators(block, index, seen) for index, seen in halves(block, batch)]
    return (*(op for forward, _ in each for op in forward), *(op for _, backward in each[::-1] for op in backward))


def halves(block: Block, batch: Microbatch) -> list[tuple[int, Microbatch]]:
    """Return the place of each half of a block, and the micro-batch as it sees it: only experts are split over the
    ranks of experts."""
    return [
        (index, batch if isinstance(half, Experts) else dense(batch)) for index, half in enumerate(_halves_of(block))
    ]


@lru_cache(maxsize=4096)
def dense(batch: Microbatch) -> Microbatch:
    """Return a micro-batch as all but experts see it."""
    return replace(batch, shard=replace(batch.shard, ep=1, etp=1))


@lru_cache(maxsize=4096)
def half_operators(block: Block, index: int, batch: Microbatch) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
    """Return the operators of a half of a block, its norms and its sum with what goes past it: forwards, and gradients
    in the order of a backward. Many splits of a block have halves in common."""
    tape = Tape(batch)
    _write_half_block(tape, block, index)
    return tuple(tape.forward), tuple(reversed(tape.backward))


def _halves_of(block: Block) -> list[Half]:
    return [half for half in (block.attention, block.mlp) if half is not None]


def _write_block(tape: Tape, block: Block) -> None:
    for index in range(len(_halves_of(block))):
        _write_half_block(tape, block, index)


def _write_half_block(tape: Tape, block: Block, index: int) -> None:
    own, each = tape.batch.own, _halves_of(block)
    roles = [("attention", "mlp")[half is block.mlp] for half in each]
    role, count = roles[index], max(1, len(block.norms) // max(1, len(each)))
    x = tape.tensor(f"{roles[index - 1]}.sum" if index else "input", own * block.hidden * block.streams)
    norms = block.norms[index * count : (index + 1) * count] or block.norms[:1]
    source = _collapsed(tape, block.mixing[0], x, block.hidden, f"{role}.") if block.mixing else x
    shares = index > 0 and block.parallel and len(block.norms) == 1
    normed, by = (Tape(tape.batch, tape.scope), roles[0]) if shares else (tape, role)  # its norm was written before
    y = _write_half(tape, each[index], normed.norm(norms[0], f"{by}_norm", source, own))
    y = Tensor(y.name, source.size_bytes)
    for norm in norms[1:2]:
        y = tape.norm(norm, f"{role}_post_norm", y, own)
    sum_of = tape.tensor(f"{role}.sum", own * block.hidden * block.streams)
    masks = (tape.tensor(f"{role}.mask_of_dropout", own * block.hidden, 1),) if tape.batch.dropout else ()
    tape.elementwise(f"{role}.add", (x, y), (sum_of,), masks)


def _collapsed(tape: Tape, product: Matrix, x: Tensor, hidden: int, prefix: str) -> Tensor:
    """One residual stream of the several in ``x``, by weights that ``product`` makes of all of them."""
    own = tape.batch.own
    weights = tape.matmul(replace(product, name=f"{prefix}streams"), x, own)
    one = tape.tensor(f"{prefix}stream", own * hidden)
    tape.elementwise(f"{prefix}collapse", (x, weights), (one,), (x, weights), passes=2, again=3)
    return one


def _write_half(tape: Tape, half: Half, entry: Tensor) -> Tensor:
    if isinstance(half, Attention):
        return attention(tape, half, entry)
    if isinstance(half, LinearAttention):
        return linear_attention(tape, half, entry)
    if isinstance(half, Experts):
        return experts(tape, half, entry)
    return mlp(tape, half, entry)


def embedding_operators(model: Architecture, batch: Microbatch) -> tuple[Operator, ...]:
    """Return the operators of the input embedding: a gather, and sums of its gradient."""
    tape, part, here = Tape(batch, "embedding."), model.embedding, batch.here
    places = batch.seq / batch.shard.cp
    x = tape.tensor("tokens.y", here * part.width)
    _gather(tape, "tokens", tape.tensor("ids", here, 8), x)
    if part.project is not None:
        x = tape.matmul(part.project, x, here)
    if part.positions:
        rows, both = tape.tensor("positions.y", places * model.hidden), tape.tensor("sum", here * model.hidden)
        _gather(tape, "positions", tape.tensor("places", places, 8), rows)
        tape.elementwise("add", (x, rows), (both,))
        x = both
    if part.norm is not None:
        tape.norm(part.norm, "norm", x, here)
    return tape.operators()


def _gather(tape: Tape, name: str, ids: Tensor, rows: Tensor) -> None:
    reads = ids.size_bytes + rows.size_bytes
    tape.add(
        Operator(
            name=name, kind="gather", reads_bytes=reads, writes_bytes=rows.size_bytes,
            takes=(ids,), makes=(rows,), saves=(ids,),
        )
    )  # fmt: skip
    wide = rows.size_bytes / tape.width_bytes * tape.batch.gradient_bytes
    tape.add(Operator(name=name, kind="gather", phase="W", reads_bytes=reads + wide, writes_bytes=wide))


def head_operators(model: Architecture, batch: Microbatch) -> tuple[Operator, ...]:
    """Return the operators behind the last block: norm, output head over the vocabulary of a rank, loss."""
    tape = Tape(batch, "head.")
    _write_head(tape, model)
    return tape.operators()


def _write_head(tape: Tape, model: Architecture) -> None:
    own, here, tp = tape.batch.own, tape.batch.here, tape.shard.tp
    streams = model.blocks[-1].streams if model.blocks else 1
    x = tape.tensor("input", own * model.hidden * streams)
    if streams > 1:
        product = Matrix("streams", streams * model.hidden, streams, True, "none")
        x = _collapsed(tape, product, x, model.hidden, "")
    if model.norm is not None:
        x = tape.norm(model.norm, "norm", x, own)
    if model.head.project is not None:
        x = tape.matmul(model.head.project, x, here)
    vocab = tape.shard.filled(model.vocab) if tp > 1 or tape.kernels.fills else model.vocab
    logits = tape.matmul(Matrix("logits", model.head.inputs, vocab, model.head.bias), x, here)
    _loss(tape, logits, here * vocab / tp)


def _loss(tape: Tape, logits: Tensor, elements: float) -> None:
    result, size = tape.tensor("loss", 1, 4), logits.size_bytes
    if tape.kernels.loss:
        tape.add(
            Operator(
                name="loss", kind="loss", flops=6 * elements, reads_bytes=2 * size, writes_bytes=size, launches=2,
                takes=(logits,), makes=(result,), saves=(logits,),
            )
        )  # fmt: skip
        tape.add(Operator(name="loss", kind="loss", phase="I", flops=elements, reads_bytes=size, writes_bytes=size))
        return
    wide = tape.tensor("probabilities", elements, 4)
    reads = size + wide.size_bytes * (1 + (tape.width_bytes < 4))
    tape.add(
        Operator(
            name="loss", kind="loss", flops=6 * elements, reads_bytes=reads, writes_bytes=2 * wide.size_bytes,
            launches=3, takes=(logits,), makes=(result,), saves=(wide, result),
        )
    )  # fmt: skip
    reads, writes = 2 * wide.size_bytes, wide.size_bytes + size
    tape.add(
        Operator(
            name="loss", kind="loss", phase="I", flops=4 * elements, reads_bytes=reads, writes_bytes=writes, launches=3
        )
    )


def predictor_operators(model: Architecture, batch: Microbatch) -> tuple[Operator, ...]:
    """Return the operators of the multi-token heads, each with its pass through the output head and its loss."""
    parts: list[tuple[Operator, ...]] = []
    for index, predictor in enumerate(model.predictors):
        scope = f"predictor{index}."
        tape, head = Tape(batch, scope), Tape(batch, f"{scope}head.")
        for name, norm in zip(
            ("hidden_norm", "embedding_norm"), predictor.norms, strict=False
        ):  # the third: the head's
            tape.norm(norm, name, tape.tensor(f"{name}.x", batch.own * model.hidden), batch.own)
        both = tape.tensor("both", batch.own * 2 * model.hidden)
        tape.elementwise("join", (both,), (both,))
        tape.matmul(predictor.project, both, batch.here)
        _write_block(tape, predictor.block)
        _write_head(head, model)
        parts += [tape.operators(), head.operators()]
    return _joined(parts)


def stage_operators(model: Architecture, layers: range, batch: Microbatch) -> tuple[Operator, ...]:
    """Return the operators of a pipeline stage: its layers, with the embedding before the first and the head (and
    multi-token heads) behind the last layer of the model."""
    parts: list[tuple[Operator, ...]] = []
    if layers.start == 0:
        parts.append(embedding_operators(model, batch))
    parts += [operators(model.blocks[layer], batch, f"layer{layer}.") for layer in layers]
    if layers.stop == model.layers:
        parts += [predictor_operators(model, batch), head_operators(model, batch)]
    return _joined(parts)


def _joined(parts: Sequence[tuple[Operator, ...]]) -> tuple[Operator, ...]:
    """Parts that follow each other: all forwards, then the backwards from the last part to the first."""
    forward = [op for part in parts for op in part if op.phase == "F"]
    backward = [op for part in reversed(parts) for op in part if op.phase != "F"]
    return (*forward, *backward)
