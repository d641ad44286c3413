"""Writes down the operators of a pass one after the other, each with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from penstock.core.parts import Matrix, Norm
from penstock.core.unchecked import like
from penstock.cost.operators import (
    ADAPTER,
    NARROW,
    WIDE,
    WIDENING,
    Microbatch,
    Operator,
    OperatorKind,
    Tensor,
    adapted,
)


class Product(NamedTuple):
    """A product of activations and weights, as ``Tape.product`` takes it."""

    kind: OperatorKind
    name: str
    x: Tensor
    y: Tensor
    sizes: tuple[int, float, float, float]
    rows: float
    launches: int


class Tape:
    """Operators in forward order, and their gradients.

    Args:
        batch: what the operators work on, and how.
        scope: put before the names of operators and tensors.
    """

    def __init__(self, batch: Microbatch, scope: str = "") -> None:
        self.batch, self.scope = batch, scope
        self.kernels, self.shard, self.width_bytes = batch.kernels, batch.shard, batch.width_bytes
        self.forward: list[Operator] = []
        self.backward: list[Operator] = []

    def operators(self) -> tuple[Operator, ...]:
        """All: forwards in order, then the backward in its order."""
        return (*self.forward, *reversed(self.backward))

    def tensor(self, name: str, elements: float, width_bytes: float | None = None) -> Tensor:
        """Name a storage."""
        size_bytes = elements * (self.width_bytes if width_bytes is None else width_bytes)
        return Tensor(f"{self.scope}{name}", size_bytes)

    def matmul(self, matrix: Matrix, x: Tensor, rows: float, trained: bool = True) -> Tensor:
        """A linear layer on ``rows`` tokens; if ``trained``, it keeps ``x`` for the gradient of its weights."""
        inputs, outputs = matrix.inputs, matrix.outputs
        if matrix.split == "columns":
            outputs = self.shard.of(outputs, matrix.name)
        if matrix.split == "rows":
            inputs = self.shard.of(inputs, matrix.name)
        y = self.tensor(f"{matrix.name}.y", rows * outputs)
        self.product("matmul", matrix.name, x, y, (1, rows, outputs, inputs), rows, trained=trained)
        if matrix.bias and trained:
            written = outputs * self.width_bytes
            self.add(Operator(name=f"{matrix.name}.bias", kind="elementwise", phase="W", reads_bytes=y.size_bytes,
                              writes_bytes=written))  # fmt: skip
        return y

    def product(
        self,
        kind: OperatorKind,
        name: str,
        x: Tensor,
        y: Tensor,
        sizes: tuple[int, float, float, float],
        rows: float,
        launches: int = 1,
        trained: bool = True,
    ) -> None:
        """A product of activations and weights: forward, and if ``trained`` both gradients.

        ``sizes``: batch, m, n, k. ``rows``: of all groups together. Where ``x`` is a part of these rows, the others are
        gathered first, and the product reads them all.
        """
        made = Product(kind, name, x, y, sizes, rows, launches)
        if self.batch.frozen and trained:
            self._frozen(made)
        else:
            self._passes(made, (self.kept_input(name, x),) if trained else (), trained)

    def _passes(self, made: Product, saves: tuple[Tensor, ...], trained: bool = True) -> None:
        """A product's passes, with what it keeps for the gradient of its weights."""
        kind, name, x, y, sizes, rows, launches = made
        batch, m, n, k = sizes
        weight = batch * n * k * self.width_bytes
        given = max(x.size_bytes, rows * k * self.width_bytes)
        both: dict[str, Any] = {
            "name": name, "kind": kind, "flops": 2 * rows * n * k, "batch": batch, "launches": launches,
        }  # fmt: skip
        read: dict[str, Any] = {**both, "weight_bytes": weight}
        self.add(Operator(m=m, n=n, k=k, reads_bytes=given + weight, writes_bytes=y.size_bytes,
                          takes=(x,), makes=(y,), saves=saves, **read))  # fmt: skip
        if not trained:
            return
        gradient = batch * n * k * self.batch.gradient_bytes
        reads = given + y.size_bytes + gradient
        self.add(Operator(phase="W", m=k, n=n, k=m, reads_bytes=reads, writes_bytes=gradient, **both))
        self.add(Operator(phase="I", m=m, n=k, k=n, reads_bytes=y.size_bytes + weight, writes_bytes=given, **read))

    def _frozen(self, made: Product) -> None:
        """A product with a matrix that stays as it is, made as wide as it is read before each use where it is kept
        narrower; and beside it an adapter's two, whose result is scaled and added (Hu et al. 2021, arXiv:2106.09685).

        With tokens split (``Shard.sp``) an adapter keeps the gathered input, as Megatron-Bridge's do.
        """
        _, name, x, y, sizes, rows, _ = made
        batch, m, n, k = sizes
        rank = self.batch.adapter if adapted(name, self.batch.adapter_on) else 0
        self._widened(name, batch * n * k)
        self._passes(made, ())
        if not rank:
            return
        whole = rows * k * self.width_bytes
        kept = x if x.size_bytes >= whole else Tensor(f"{x.name}.gathered", whole)
        narrow = self.tensor(f"{name}{ADAPTER}.y", rows * rank)
        result = self.tensor(f"{name}{ADAPTER}.result", y.size_bytes / self.width_bytes)
        self._passes(made._replace(name=f"{name}{ADAPTER}.down", y=narrow, sizes=(batch, m, rank, k)), (kept,))
        up = made._replace(name=f"{name}{ADAPTER}.up", x=narrow, y=result, sizes=(batch, m, n, rank))
        self._passes(up, (narrow,))
        read, written = 3 * y.size_bytes, 2 * y.size_bytes
        both: dict[str, Any] = {"name": f"{name}{ADAPTER}.add", "kind": "elementwise", "launches": 2}
        self.add(Operator(reads_bytes=read, writes_bytes=written, takes=(result,), makes=(y,), **both))
        self.add(Operator(phase="I", reads_bytes=y.size_bytes + 2 * whole, writes_bytes=y.size_bytes + whole, **both))

    def _widened(self, name: str, elements: float) -> None:
        """A matrix is read as it is kept and written as its product reads it, in each direction (Dettmers et al. 2023,
        arXiv:2305.14314, section 3); routers and the like are kept wide."""
        kept = self.batch.frozen_bytes
        if kept is None or any(word in name for word in WIDE):
            return
        made: dict[str, Any] = {
            "name": f"{name}{WIDENING}", "kind": "elementwise", "reads_bytes": elements * kept,
            "writes_bytes": elements * self.width_bytes,
        }  # fmt: skip
        self.add(Operator(**made))
        self.add(Operator(phase="I", **made))

    def kept_input(self, name: str, x: Tensor) -> Tensor:
        """What the gradient of a product's weights keeps: its input, or a narrower copy where a recipe makes one."""
        kept = self.batch.kept_bytes
        if kept is None or any(word in name for word in WIDE):
            return x
        return Tensor(f"{x.name}{NARROW}", x.size_bytes * kept / self.width_bytes)

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
        between, elements = out * (passes - 1), out / self.width_bytes
        self.add(
            Operator(
                name=name, kind=kind, flops=elements * per_element * passes, reads_bytes=into + between,
                writes_bytes=out + between, launches=passes, takes=tuple(takes), makes=tuple(makes), saves=tuple(saves),
            )
        )  # fmt: skip
        more = into * (again - 1)
        self.add(
            Operator(
                name=name, kind=kind, phase="I", flops=2 * elements * per_element * again,
                reads_bytes=out + kept + more, writes_bytes=into + more, launches=again,
            )
        )  # fmt: skip

    def norm(self, norm: Norm, name: str, x: Tensor, tokens: float, split: bool = False) -> Tensor:
        """A norm of ``x``; plain RMS norms go through single precision and keep what each of their kernels keeps.

        ``split``: a rank has its part of the heads, or else of the features.
        """
        if split and norm.over > 1:
            norm = replace(norm, over=max(1, norm.over // self.shard.tp))
        elif split:
            norm = replace(norm, width=norm.width // self.shard.tp)
        elements, runs = tokens * norm.features, tokens * norm.over
        y = self.tensor(f"{name}.y", elements)
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

    def add(self, operator: Operator) -> None:
        """Write down an operator, under its name in the scope; gradients of what is frozen are none."""
        if operator.phase == "W" and self.batch.frozen and ADAPTER not in operator.name:
            return
        made = like(operator, name=f"{self.scope}{operator.name}") if self.scope else operator
        (self.forward if made.phase == "F" else self.backward).append(made)
