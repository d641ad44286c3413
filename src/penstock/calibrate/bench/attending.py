"""Attention through PyTorch's own entry: forward and gradient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from penstock.calibrate.bench.pieces import Machine, Piece, timed
from penstock.calibrate.bench.timers import Call
from penstock.calibrate.shapes import Attention, attentions
from penstock.cost.bounds import BYTES

_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
_FORCED = 3
"""Shapes that each kernel is made to do, besides the one PyTorch chooses."""


def pieces(machine: Machine, _: float) -> list[Piece]:
    """Forwards and gradients by shape: as PyTorch chooses its kernel, and some with a kernel of which each is named."""
    shapes = attentions(large=machine.cuda)
    plan = [("chosen", shape) for shape in shapes[:6]]
    if machine.cuda:
        plan += [(name, shape) for shape in shapes[:_FORCED] for name in _BACKENDS]
    plan += [("chosen", shape) for shape in shapes[6:]]
    return [_piece(machine, backend, shape, gradient) for backend, shape in plan for gradient in (False, True)]


def _piece(machine: Machine, backend: str, shape: Attention, gradient: bool) -> Piece:
    facts = {"precision": machine.precision, **shape._asdict(), "gradient": gradient, "backend": backend}
    return timed(facts, machine, partial(_calls, machine, backend, shape, gradient), grad=True)


def _calls(machine: Machine, backend: str, shape: Attention, gradient: bool) -> Sequence[Call]:
    token = (2 * shape.heads + 2 * shape.kv_heads) * shape.head * BYTES[machine.precision] * (2 if gradient else 1)
    count = min(8, machine.sets(token * shape.batch * shape.seq))
    return [_call(machine, backend, shape, gradient) for _ in range(count)]


def _call(machine: Machine, backend: str, shape: Attention, gradient: bool) -> Call:
    def make(heads: int) -> Tensor:
        """(batch, heads, seq, head) as a projection leaves it: tokens outside of heads."""
        made = machine.random(shape.batch, shape.seq, heads, shape.head, precision=machine.precision)
        return made.transpose(1, 2).requires_grad_()

    q, k, v = make(shape.heads), make(shape.kv_heads), make(shape.kv_heads)

    def forward() -> Tensor:
        with _chosen(backend):
            return scaled_dot_product_attention(
                q, k, v, is_causal=shape.causal, enable_gqa=shape.heads != shape.kv_heads
            )

    if not gradient:
        return forward
    out = forward()
    return partial(torch.autograd.grad, out, (q, k, v), torch.randn_like(out), retain_graph=True)


def _chosen(backend: str) -> AbstractContextManager[None]:
    return sdpa_kernel([_BACKENDS[backend]]) if backend in _BACKENDS else nullcontext()
