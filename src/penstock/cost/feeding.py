"""Operators of what works on each token by itself: feed-forwards and experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from penstock.core.parts import Experts, Matrix, Mlp
from penstock.cost.operators import Operator, Tensor
from penstock.cost.tape import Tape

_ACTIVATIONS = {"gelu_new": (8, 3), "gelu_fast": (8, 3), "relu2": (2, 1), "xielu": (6, 4)}
"""Activations that PyTorch runs as several kernels: how many, and how many tensors between them are kept."""
_KEEPS_RESULT = frozenset({"relu"})
"""Activations whose gradient is made of their result, not of their input."""


def mlp(tape: Tape, part: Mlp, x: Tensor, name: str = "mlp") -> Tensor:
    """Write the operators of a feed-forward on all tokens of this rank; return its result."""
    rows = tape.batch.here
    if tape.kernels.gate_up is not None:
        part = replace(part, fused=tape.kernels.gate_up)
    made = [tape.matmul(_named(matrix, name), x, rows) for matrix in part.inward]
    width = rows * tape.shard.of(part.ffn, "ffn")
    product = activation(tape, part, made, width, name)
    if part.norm is not None:
        product = tape.norm(part.norm, f"{name}.norm", product, rows, split=True)
    return tape.matmul(_named(part.outward, name), product, rows)


def _named(matrix: Matrix, name: str) -> Matrix:
    return replace(matrix, name=matrix.name.replace("mlp", name, 1))


def activation(tape: Tape, part: Mlp, made: list[Tensor], width: float, name: str) -> Tensor:
    """Write the activation, and the product with the gate's other half; return its result of ``width`` elements."""
    product = tape.tensor(f"{name}.product", width)
    if tape.kernels.activation:
        kept = (product,) if part.activation in _KEEPS_RESULT and not part.gated else tuple(made)
        tape.elementwise(f"{name}.activation", made, (product,), kept, per_element=8)
        return product
    kernels, between = _ACTIVATIONS.get(part.activation, (1, 0))
    inner = [tape.tensor(f"{name}.inner{i}", width) for i in range(between)]
    if part.gated:
        acted = tape.tensor(f"{name}.acted", width)
        kept = (*made, *inner, acted)
        tape.elementwise(f"{name}.activation", made, (product,), kept, passes=kernels + 1, again=kernels + 2)
    elif part.activation in _KEEPS_RESULT:
        tape.elementwise(f"{name}.activation", made, (product,), (product,))
    else:
        own = () if part.activation == "relu2" else tuple(made)
        tape.elementwise(f"{name}.activation", made, (product,), (*own, *inner), passes=kernels, again=kernels + 1)
    return product


def experts(tape: Tape, part: Experts, x: Tensor) -> Tensor:
    """Write the operators of a mixture of experts on the tokens that this rank routes; return its result.

    Experts are balanced: of all tokens that the ranks of a group send, each rank gets as many as it sends.
    """
    shard, rows = tape.shard, tape.batch.own
    scores = tape.matmul(part.router, x, rows)
    weights = tape.tensor("experts.weights", rows * part.topk, 4)
    probabilities = tape.tensor("experts.probabilities", rows * part.experts, 4)
    tape.elementwise("experts.choice", (scores,), (probabilities, weights), (probabilities,), passes=3, again=3)
    local = shard.of(part.experts, "experts", shard.ep)
    sent = rows * part.topk * shard.etp
    order = tape.tensor("experts.order", sent, 8)
    given = tape.tensor("experts.rows", sent * part.expert.hidden)
    source = tape.matmul(part.latent[0], x, rows) if part.latent else x
    tape.elementwise("experts.dispatch", (source,), (given,), (order,), kind="gather")
    ffn = shard.of(part.expert.ffn, "expert's ffn", shard.etp)
    inward, width = "experts.gate_up" if part.expert.gated else "experts.up", ffn * (1 + part.expert.gated)
    made = _grouped(tape, inward, given, local, sent, part.expert.hidden, width)
    _biases(tape, part.expert, inward, made)
    made = _limited(tape, part.expert, made)
    product = activation(tape, replace(part.expert, fused=True), [made], sent * ffn, "experts")
    back = _grouped(tape, "experts.down", product, local, sent, ffn, part.expert.hidden)
    _biases(tape, part.expert, "experts.down", back, 0 if tape.kernels.biased else local)
    out = tape.tensor("experts.y", rows * part.expert.hidden)
    kept = () if tape.kernels.activation else (back, weights)
    tape.elementwise("experts.combine", (back, weights), (out,), kept, kind="gather")
    if part.latent:
        out = tape.matmul(part.latent[1], out, rows)
    if part.shared is not None:
        _shared(tape, part, part.shared, x, out)
    return out


def _shared(tape: Tape, part: Experts, shared: Mlp, x: Tensor, out: Tensor) -> None:
    """The expert that every token visits, with its gate, and the sum of both."""
    beside = mlp(tape, shared, x, "shared")._replace(size_bytes=x.size_bytes)
    if part.shared_gate:
        gate = tape.matmul(Matrix("shared.gate_scalar", shared.hidden, 1, split="none"), x, tape.batch.own)
        tape.elementwise("shared.gated", (beside, gate), (beside,), (beside, gate), passes=2, again=3)
    tape.elementwise("shared.add", (out, beside), (out,))


def _limited(tape: Tape, part: Mlp, made: Tensor) -> Tensor:
    """What an activation reads, kept within limits, where that is no part of its kernel: both halves, and joined."""
    if not part.limited or tape.kernels.biased:
        return made
    within = tape.tensor("experts.limited", made.size_bytes / tape.width_bytes)
    tape.elementwise("experts.activation.limits", (made,), (within,), (made,), passes=2, again=2)
    return within


def _biases(tape: Tape, part: Mlp, name: str, y: Tensor, apart: int = 0) -> None:
    """Write what biases of experts add to their products: a sum over tokens for their gradient, where products add
    them; or all of it for each of so many experts ``apart``, by the weights of the router.

    Apart, Megatron-LM (``transformer/moe/experts.py``, August 2026) multiplies an expert's bias by the weights of
    its tokens and adds it, both in 4 bytes, joins experts and rounds: 28 bytes of an element in 2 bytes. Back it turns
    the gradient to 4 bytes and back, joins it, and makes products and sums of it for biases and for weights: 40.
    """
    if not part.bias:
        return
    if not apart:
        tape.add(Operator(name=f"{name}.bias", kind="elementwise", phase="W", reads_bytes=y.size_bytes))
        return
    both: dict[str, Any] = {"name": f"{name}.bias", "kind": "elementwise", "batch": apart}
    tape.add(Operator(reads_bytes=7 * y.size_bytes, writes_bytes=7 * y.size_bytes, launches=2, takes=(y,), **both))
    tape.add(Operator(phase="I", reads_bytes=12 * y.size_bytes, writes_bytes=8 * y.size_bytes, launches=5, **both))


def _grouped(tape: Tape, name: str, x: Tensor, groups: int, rows: float, inputs: int, outputs: int) -> Tensor:
    """One product per expert, of the rows that it got."""
    y = tape.tensor(f"{name}.y", rows * outputs)
    launches = 1 if tape.kernels.grouped else groups
    tape.product("grouped_matmul", name, x, y, (groups, rows / groups, outputs, inputs), rows, launches=launches)
    return y
