"""One rank's rows of the vocabulary: the passes S, T, IF and IB as functions of tensors.

The softmax over all rows comes from those of parts (Yeung et al. 2024, arXiv:2411.05288): with m_r the greatest logit
of a part and s_r the sum of exp(logit - m_r), the whole has m = max m_r and s = sum s_r exp(m_r - m). Statistics are
float32 at least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penstock.runtime.collectives import Collectives


@dataclass(eq=False)
class Scores:
    """What ``S`` found for the tokens of a micro-batch; ``whole`` makes it that of all parts."""

    most: Tensor
    """Greatest logit, shape (tokens,)."""
    total: Tensor
    """Sum of exp(logit - most), shape (tokens,)."""
    target: Tensor
    """Logit of the target, zero where another rank has it, shape (tokens,)."""
    valid: Tensor
    """Whether the token counts, shape (tokens,)."""
    pulls: tuple[Tensor, Tensor] | None = None
    """Algorithm 2: sum over rows of exp(logit - most) row, and the row of the target; shape (tokens, hidden)."""

    def whole(self, collectives: Collectives) -> Scores:
        """Of all parts together, on every rank."""
        most = collectives.most(self.most.clone())
        sums = collectives.sum(torch.stack([self.total * (self.most - most).exp(), self.target]))
        return Scores(most, sums[0], sums[1], self.valid)

    def loss(self) -> Tensor:
        """Mean cross-entropy of the tokens that count, in nats; of the whole."""
        lost = (self.most + self.total.log() - self.target) * self.valid
        return lost.sum() / self.valid.sum()

    def weight(self, scale: float) -> Tensor:
        """Derivative of ``scale`` times the mean loss by each token's loss, shape (tokens,)."""
        counts = self.valid.to(self.total.dtype)
        return counts * (scale / counts.sum())


class Part:
    """Rows of the head and of the embedding table, and the micro-batches between their ``S`` and ``T``.

    Args:
        head, table: weights of shape (rows, hidden); the same parameter if they are tied, whose gradient then adds up.
        start: number of the first row.
        padding: token whose embedding is never trained, -1 for none.
        scale: factor of each micro-batch's loss, 1/m for the mean over the batch.
    """

    def __init__(self, head: nn.Parameter, table: nn.Parameter, start: int, padding: int, scale: float) -> None:
        self.head, self.table, self.start, self.scale = head, table, start, scale
        self.padding = padding - start if 0 <= padding - start < len(table) else -1
        self._kept: dict[int, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = {}

    def embed(self, ids: Tensor) -> Tensor:
        """IF: (micro, seq) -> (micro, seq, hidden), zero where another rank holds the row."""
        row, own = self._own(ids)
        if not len(self.table):
            return self.table.new_zeros(*ids.shape, self.table.shape[1])
        return torch.where(own[..., None], nn.functional.embedding(row, self.table.detach()), 0)

    def embed_backward(self, ids: Tensor, grad: Tensor) -> None:
        """IB: adds the gradient of the own rows of the table."""
        row, own = self._own(ids)
        if len(self.table):
            mine = torch.where(own[..., None], grad, 0)
            made = torch.ops.aten.embedding_dense_backward(mine, row, len(self.table), self.padding, False)
            _add(self.table, made)

    def score(self, micro: int, hidden: Tensor, targets: Tensor, pull: bool, keep: bool) -> Scores:
        """S: the logits of the own rows.

        Args:
            micro: its number, for ``gradients``.
            hidden: the head's input, (micro, seq, hidden).
            targets: ids of the next tokens, (micro, seq); -100 where none counts.
            pull: make ``Scores.pulls``.
            keep: keep what ``gradients`` needs.
        """
        x, targets = hidden.flatten(0, 1), targets.flatten()
        row, own = self._own(targets)
        logits = (x @ self.head.t()).to(torch.promote_types(x.dtype, torch.float32))
        if len(self.head):
            most = logits.amax(1)
            target = torch.where(own, logits.gather(1, row[:, None])[:, 0], 0)
        else:
            most, target = logits.new_full((len(x),), -torch.inf), logits.new_zeros(len(x))
        powers = logits.sub_(most[:, None]).exp_()
        scores = Scores(most, powers.sum(1), target, targets != -100)
        if pull:
            scores.pulls = powers.to(x.dtype) @ self.head, self._rows_of(row, own)
        if keep:
            self._kept[micro] = powers, most, x, row, own
        return scores

    def gradients(self, micro: int, whole: Scores, pull: bool) -> Tensor | None:
        """T: adds the gradient of the own rows of the head; with ``pull`` gives these rows' share of that of the head's
        input, (tokens, hidden)."""
        powers, most, x, row, own = self._kept.pop(micro)
        weight = whole.weight(self.scale)
        share = powers.mul_(((most - whole.most).exp() / whole.total * weight)[:, None])
        if len(self.head):
            share.scatter_add_(1, row[:, None], torch.where(own, -weight, 0).to(share.dtype)[:, None])
        share = share.to(x.dtype)
        if self.head.grad is None:
            self.head.grad = share.t() @ x
        else:
            self.head.grad.addmm_(share.t(), x)
        return share @ self.head if pull else None

    def pull(self, scores: Scores, whole: Scores) -> Tensor:
        """Algorithm 2: what ``gradients`` gives with ``pull``, from ``S`` alone."""
        assert scores.pulls is not None
        all_rows, own_row = scores.pulls
        factor = (scores.most - whole.most).exp() / whole.total
        pulled = (all_rows * factor[:, None] - own_row) * whole.weight(self.scale)[:, None]
        return pulled.to(all_rows.dtype)

    def _own(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Number among the own rows (0 for those of others), and whether it is one."""
        own = (ids >= self.start) & (ids < self.start + len(self.head))
        return torch.where(own, ids - self.start, 0), own

    def _rows_of(self, row: Tensor, own: Tensor) -> Tensor:
        if not len(self.head):
            return self.head.new_zeros(len(row), self.head.shape[1])
        return torch.where(own[:, None], self.head.detach()[row], 0)


def rows_of(rank: int, ranks: int, vocabulary: int) -> range:
    """The rows of a rank; no two ranks differ by more than one.

    Example:
        >>> [rows_of(rank, 3, 8) for rank in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]
    """
    return range(rank * vocabulary // ranks, (rank + 1) * vocabulary // ranks)


def _add(param: nn.Parameter, grad: Tensor) -> None:
    if param.grad is None:
        param.grad = grad
    else:
        param.grad.add_(grad)
