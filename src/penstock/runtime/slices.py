"""Attention over the slices of a sequence: keys and values of the slices before, and their gradients.

A slice attends to itself and to all before it of its sequence. Keys and values of a sequence stand in one buffer per
layer, which the slices fill one after the other and of which each reads the part up to its own end, without a copy.
Backwards come in the other order: each adds the gradient of all that it read to one sum per layer, and takes from it
the part of its own keys and values, to which all later slices have added by then. So each slice has a graph of its own,
which its own backward frees, whole or split (Sun et al. 2024, arXiv:2406.03488).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _Row:
    """Keys or values of one layer and one sequence, and the sum of their gradients; both (micro, heads, seq, size)."""

    def __init__(self, own: Tensor, tokens: int) -> None:
        micro, heads, _, size = own.shape
        self._held = torch.empty(micro, heads, tokens, size, dtype=own.dtype, device=own.device)
        self._grads: Tensor | None = None

    def extend(self, own: Tensor, start: int) -> Tensor:
        """Put in a slice's own part; all up to its end."""
        end = start + own.shape[2]
        held = self._held.data  # no graph sees it change: what earlier slices read stays as it is
        held[:, :, start:end] = own
        return held[:, :, :end]

    def collect(self, grad: Tensor, start: int) -> Tensor:
        """Add the gradient of what a slice read; the whole gradient of its own part, from ``start``."""
        end = grad.shape[2]
        if self._grads is None:
            self._grads = grad.clone()
        else:
            self._grads[:, :, :end] += grad
        own = self._grads[:, :, start:end].clone()
        if start == 0:
            self._grads = None
        return own


class _Extend(Function):
    """``_Row.extend`` with ``_Row.collect`` as its backward."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, row: _Row, start: int) -> Tensor:
        ctx.row, ctx.start = row, start
        return row.extend(own, start)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.row.collect(grad, ctx.start), None, None


class KeysAndValues:
    """What attention of transformers takes for its cache: keys and values of the slices before the one at work.

    Args:
        slices: of each sequence.
        lengths: their tokens; empty: as many in each.

    Attributes:
        start: tokens of the sequence before the slice at work.
    """

    is_compileable = False

    def __init__(self, slices: int, lengths: tuple[int, ...] = ()) -> None:
        self.slices, self.start, self._lengths = slices, 0, lengths
        self._tokens = 0
        self._at = 0
        self._open: dict[int, dict[tuple[int, str], _Row]] = {}

    def begin(self, micro: int, tokens: int) -> None:
        """Say which slice comes next: its micro-batch number and its length. The rows of a sequence are let go with
        its last slice; the graphs that need them keep them."""
        sequence, self._at = divmod(micro, self.slices)
        self.start = sum(self._lengths[: self._at]) if self._lengths else self._at * tokens
        self._tokens = sum(self._lengths) or self.slices * tokens
        if self._at == 0:
            self._open[sequence] = {}
        self._rows = self._open[sequence] if self._at < self.slices - 1 else self._open.pop(sequence)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer with those of the slices before; all (micro, heads, tokens, size)."""
        return self._extended(keys, (layer_idx, "keys")), self._extended(values, (layer_idx, "values"))

    def _extended(self, own: Tensor, which: tuple[int, str]) -> Tensor:
        if self._at == 0:
            self._rows[which] = _Row(own, self._tokens)
        found: Tensor = _Extend.apply(own, self._rows[which], self.start)
        return found

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the slice at work."""
        return self.start

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """How many keys there are, and the number of the first."""
        return self.start + query_length, 0
