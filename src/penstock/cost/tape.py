"""Writes down the operators of a pass one after the other, each with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.core.parts import Matrix, Norm
from penstock.cost.operators import Kernels, Operator, OperatorKind, Phase, Shard, Tensor


class Tape:
    """Operators in forward order, and their gradients.

    Args:
        width_bytes: of an element of activations and weights.
        gradient_bytes: of an element of a weight gradient, which is read and written as it accumulates.
        scope: put before the names of operators and tensors.
    """

    def __init__(
        self, kernels: Kernels, shard: Shard, width_bytes: float, gradient_bytes: float = 4, scope: str = ""
    ) -> None:
        self.kernels, self.shard = kernels, shard
        self.width_bytes, self.gradient_bytes, self.scope = width_bytes, gradient_bytes, scope
        self.forward: list[Operator] = []
        self.backward: list[Operator] = []
        self._saved: set[str] = set()

    def operators(self) -> tuple[Operator, ...]:
        """All: forwards in order, then the backward in its order."""
        return (*self.forward, *reversed(self.backward))

    def tensor(self, name: str, elements: float, width_bytes: float | None = None) -> Tensor:
        """Name a storage."""
        size_bytes = elements * (self.width_bytes if width_bytes is None else width_bytes)
        return Tensor(f"{self.scope}{name}", size_bytes)

    def matmul(
        self,
        matrix: Matrix,
        x: Tensor,
        rows: float,
        trained: bool = True,
        split: bool = True,
        full: float | None = None,
    ) -> Tensor:
        """A linear layer on ``rows`` tokens; if ``trained``, it keeps ``x`` for the gradient of its weights.

        ``full``: bytes of the input as the product reads it, where ``x`` is a part that is gathered first.
        """
        inputs, outputs = matrix.inputs, matrix.outputs
        if split and matrix.split == "columns":
            outputs = self.shard.of(outputs, matrix.name)
        if split and matrix.split == "rows":
            inputs = self.shard.of(inputs, matrix.name)
        y = self.tensor(f"{matrix.name}.y", rows * outputs)
        self.product("matmul", matrix.name, x, y, (1, rows, outputs, inputs), rows, full, trained=trained)
        if matrix.bias and trained:
            self.add("elementwise", f"{matrix.name}.bias", "W", reads=y.size_bytes, writes=outputs * self.width_bytes)
        return y

    def product(
        self,
        kind: OperatorKind,
        name: str,
        x: Tensor,
        y: Tensor,
        sizes: tuple[int, float, float, float],
        rows: float,
        full: float | None = None,
        launches: int = 1,
        trained: bool = True,
    ) -> None:
        """A product of activations and weights: forward, and if ``trained`` both gradients.

        ``sizes``: batch, m, n, k. ``rows``: of all groups together.
        """
        batch, m, n, k = sizes
        weight = batch * n * k * self.width_bytes
        given = x.size_bytes if full is None else full
        work = 2 * rows * n * k
        tall: dict[str, Any] = {"flops": work, "batch": batch, "launches": launches}
        self.add(
            kind, name, "F", m=m, n=n, k=k, reads=given + weight, writes=y.size_bytes, weight=weight, **tall,
            takes=(x,), makes=(y,), saves=(x,) if trained else (),
        )  # fmt: skip
        if not trained:
            return
        gradient = batch * n * k * self.gradient_bytes
        self.add(kind, name, "W", m=k, n=n, k=m, reads=given + y.size_bytes + gradient, writes=gradient, **tall)
        self.add(kind, name, "I", m=m, n=k, k=n, reads=y.size_bytes + weight, writes=given, weight=weight, **tall)

    def elementwise(
        self,
        name: str,
        takes: Sequence[Tensor],
        makes: Sequence[Tensor],
        saves: Sequence[Tensor] = (),
        passes: int = 1,
        again: int = 1,
        kind: OperatorKind = "elementwise",
        per_element: float = 1.0,
    ) -> None:
        """Work on each element: it reads what it takes and writes what it makes.

        ``passes``, ``again``: kernels that do so one after the other, forward and backward; every one but the last
        writes a result, which the next one reads.
        """
        into, out = sum(each.size_bytes for each in takes), sum(each.size_bytes for each in makes)
        kept = sum(each.size_bytes for each in saves)
        between, elements = 2 * out * (passes - 1), out / self.width_bytes
        self.add(
            kind, name, "F", flops=elements * per_element * passes, reads=into + between / 2, writes=out + between / 2,
            launches=passes, takes=tuple(takes), makes=tuple(makes), saves=tuple(saves),
        )  # fmt: skip
        more = into * (again - 1)
        self.add(
            kind, name, "I", flops=2 * elements * per_element * again, reads=out + kept + more, writes=into + more,
            launches=again,
        )  # fmt: skip

    def norm(self, norm: Norm, name: str, x: Tensor, tokens: float) -> Tensor:
        """A norm of ``x``; plain RMS norms go through single precision and keep what each of their kernels keeps."""
        elements = tokens * norm.features
        y = self.tensor(f"{name}.y", elements)
        runs = tokens * norm.over
        if self.kernels.norm or not norm.rms:
            given = self.kernels.stats_bytes if not norm.rms else 4
            stats_bytes = self.width_bytes if given is None else given
            stats = self.tensor(f"{name}.stats", runs * (1 if norm.rms else 2), stats_bytes)
            self.elementwise(name, (x,), (y,), (x, stats), kind="norm", per_element=6)
            return y
        wide = x if self.width_bytes == 4 else self.tensor(f"{name}.wide", elements, 4)
        stats, normed = self.tensor(f"{name}.stats", runs, 4), self.tensor(f"{name}.normed", elements)
        self.elementwise(name, (x,), (y,), (wide, stats, normed), passes=6, again=8, kind="norm", per_element=1)
        return y

    def add(
        self,
        kind: OperatorKind,
        name: str,
        phase: Phase,
        *,
        batch: int = 1,
        m: float = 0,
        n: float = 0,
        k: float = 0,
        value_dim: int = 0,
        flops: float = 0.0,
        density: float = 1.0,
        reads: float = 0.0,
        writes: float = 0.0,
        weight: float = 0.0,
        launches: int = 1,
        takes: Sequence[Tensor] = (),
        makes: Sequence[Tensor] = (),
        saves: Sequence[Tensor] = (),
    ) -> None:
        """Write down an operator; ``reads``, ``writes`` and ``weight`` are bytes."""
        fresh = {tensor.name: tensor.size_bytes for tensor in saves if tensor.name not in self._saved}
        self._saved.update(fresh)
        made = Operator(
            name=f"{self.scope}{name}",
            kind=kind,
            phase=phase,
            batch=batch,
            m=m,
            n=n,
            k=k,
            value_dim=value_dim,
            flops=flops,
            density=density,
            reads_bytes=reads,
            writes_bytes=writes,
            weight_bytes=weight,
            saved_bytes=sum(fresh.values()),
            launches=launches,
            takes=tuple(takes),
            makes=tuple(makes),
            saves=tuple(saves),
        )
        (self.forward if phase == "F" else self.backward).append(made)
