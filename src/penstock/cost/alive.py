"""What is alive while a backward runs: what was kept, what is made again, and gradients that nothing has read yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from penstock.cost.operators import Operator, Tensor


def backward_bytes(operators: Sequence[Operator], kept: Mapping[str, float], again: Collection[str] = ()) -> float:
    """Return the most that is alive at once in a backward, what ``kept`` holds included.

    Gradients go from the last operator to the first. What an operator saved is freed with its gradient, unless an
    earlier one saved it too; the gradient of a tensor lives from the last operator that read it to the one that made
    it. What is made again is there from the start.

    Args:
        operators: of one block; only forwards matter.
        kept: storages that wait for the backward, by name, with their bytes.
        again: full names of operators that run once more before their gradients.
    """
    forward = [op for op in operators if op.phase == "F"]
    alive = dict(kept)
    for op in forward:
        if op.name in again:
            alive |= {tensor.name: tensor.size_bytes for tensor in op.saves}
    first = _first_savers(forward)
    gradients = _sizes(forward[-1].makes[:1])
    most = 0.0
    for index in range(len(forward) - 1, -1, -1):
        op = forward[index]
        made = _sizes(tensor for tensor in op.makes if tensor.name in gradients)
        gradients |= _sizes(op.takes)
        most = max(most, sum(alive.values()) + sum((gradients | made).values()))
        for name in made:
            if name not in {tensor.name for tensor in op.takes}:
                gradients.pop(name, None)
        for tensor in op.saves:
            if first[tensor.name] == index:
                alive.pop(tensor.name, None)
    return most


def _first_savers(forward: Sequence[Operator]) -> dict[str, int]:
    """Where each storage is saved first: its last reader in a backward."""
    found: dict[str, int] = {}
    for index, op in enumerate(forward):
        for tensor in op.saves:
            found.setdefault(tensor.name, index)
    return found


def _sizes(tensors: Iterable[Tensor]) -> dict[str, float]:
    return {tensor.name: tensor.size_bytes for tensor in tensors}
