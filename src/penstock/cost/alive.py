"""What is alive while a backward runs: what was kept, what is made again, and gradients that nothing has read yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.cost.kept import bytes_of
from penstock.cost.operators import Operator


def backward_bytes(operators: Sequence[Operator], saved: Mapping[str, float]) -> float:
    """Return the most that is alive at once in a backward, what was ``saved`` included.

    Gradients go from the last operator to the first. What an operator saved is freed with its gradient, unless an
    earlier one saved it too; the gradient of a tensor lives from the last operator that read it to the one that made
    it.

    Args:
        operators: of one block; only forwards matter.
        saved: storages that are there when the backward begins, kept or made again, by name, with their bytes.
    """
    forward = [op for op in operators if op.phase == "F"]
    alive, first = dict(saved), _first_savers(forward)
    gradients = bytes_of(forward[-1].makes[:1])
    kept, waiting, most = sum(alive.values()), sum(gradients.values()), 0.0
    for index in range(len(forward) - 1, -1, -1):
        op = forward[index]
        made = bytes_of(tensor for tensor in op.makes if tensor.name in gradients)
        takes = bytes_of(op.takes)
        waiting += sum(size - gradients.get(name, 0.0) for name, size in takes.items())
        gradients |= takes
        more = sum(size - gradients[name] for name, size in made.items())
        most = max(most, kept + waiting + more)
        waiting -= sum(gradients.pop(name) for name in made if name not in takes)
        for tensor in op.saves:
            if first[tensor.name] == index:
                kept -= alive.pop(tensor.name, 0.0)
    return most


def _first_savers(forward: Sequence[Operator]) -> dict[str, int]:
    """Where each storage is saved first: its last reader in a backward."""
    found: dict[str, int] = {}
    for index, op in enumerate(forward):
        for tensor in op.saves:
            found.setdefault(tensor.name, index)
    return found
