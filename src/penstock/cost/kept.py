"""What is kept of a forward until its backward, by what is made again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.core.words import nearest
from penstock.cost.operators import NARROW, WIDENING, Operator, Tensor

DEAR = ("matmul", "grouped_matmul", "attention")
"""Kinds whose results the runtime's selective recompute keeps."""


def kept(
    operators: Sequence[Operator], again: str | Collection[str] = "none", discard: Collection[str] = ()
) -> dict[str, float]:
    """Return the storages kept between forward and backward, by name, with their bytes.

    Args:
        operators: of one stage or block; only forwards matter.
        again: ``none``: all is kept that a gradient needs. ``full``: the first input alone. ``selective``: that input
            and the results of products and attention. Or names of operators, or beginnings of names behind their scope
            (``attention.core``, ``mlp_norm``): these run again, from their inputs, and what they save goes.
        discard: names likewise, of operators that run again and whose results go too, though others save them.

    Raises:
        ValueError: a name that no operator has.
    """
    forward = [op for op in operators if op.phase == "F"]
    if again == "none" and not discard:
        return bytes_of(tensor for op in forward for tensor in op.saves)
    if again == "full":
        return bytes_of(forward[0].takes[:1])
    if again == "selective":
        results = (tensor for op in forward if op.kind in DEAR for tensor in op.makes)
        return bytes_of([*forward[0].takes[:1], *results])
    names = [again] if isinstance(again, str) else [*again]
    return _without(forward, _chosen(forward, [name for name in names if name != "none"]), _chosen(forward, discard))


def rerun(
    operators: Sequence[Operator], again: str | Collection[str] = "none", stops_early: bool = False
) -> NDArray[np.bool_]:
    """Return which operators run once more before their gradients; ``again`` as in ``kept``.

    ``stops_early``: it ends when all is there that gradients need. That of a product's matrix needs its input and not
    its result, so the last product of a block does not run again.
    """
    forward = [op for op in operators if op.phase == "F"]
    if again in ("none", "full"):
        names = {op.name for op in forward} if again == "full" else set()
    elif again == "selective":
        names = {op.name for op in forward if op.kind not in DEAR and not op.name.endswith(WIDENING)}
    else:
        names = _chosen(forward, [again] if isinstance(again, str) else [*again])
    names = names & _until_saved(forward) if stops_early else names
    return np.array([op.phase == "F" and op.name in names for op in operators], dtype=bool)


def _until_saved(forward: Sequence[Operator]) -> set[str]:
    """Operators up to where the last tensor that some gradient needs is there: of one that keeps what it takes alone,
    those before it."""
    for at, op in reversed([*enumerate(forward)]):
        if op.saves:
            taken = {tensor.name for tensor in op.takes}
            own = any(tensor.name.removesuffix(NARROW) not in taken for tensor in op.saves)
            return {one.name for one in forward[: at + own]}
    return set()


def of_these(operators: Sequence[Operator], again: str | Collection[str]) -> str | tuple[str, ...]:
    """Return those of the names in ``again`` that some operator has; a policy as it is."""
    if isinstance(again, str):
        return again
    return _there(tuple(op.name for op in operators), tuple(again))


@lru_cache(maxsize=4096)
def _there(known: tuple[str, ...], again: tuple[str, ...]) -> tuple[str, ...]:
    names = {_bare(one) for one in known}
    return tuple(name for name in again if any(mine == name or mine.startswith(f"{name}.") for mine in names))


def _without(forward: Sequence[Operator], again: set[str], discard: set[str]) -> dict[str, float]:
    """What the operators that run once save, and what the others need to begin."""
    twice = again | discard
    made = {tensor.name for op in forward if op.name in twice for tensor in op.makes}
    gone = {tensor.name for op in forward if op.name in discard for tensor in op.makes}
    saved = [
        tensor
        for op in forward
        if op.name not in twice
        for tensor in op.saves
        if tensor.name.removesuffix(NARROW) not in gone
    ]
    begun = [tensor for op in forward if op.name in twice for tensor in op.takes if tensor.name not in made]
    return bytes_of([*saved, *begun])


def _chosen(forward: Sequence[Operator], names: Collection[str]) -> set[str]:
    """Full names of the operators that these names mean."""
    known = tuple(op.name for op in forward)
    return set[str]().union(*(_meant(known, name) for name in names))


@lru_cache(maxsize=4096)
def _meant(known: tuple[str, ...], name: str) -> frozenset[str]:
    """Those of the full names that a name means; blocks of one kind have the same."""
    mine = frozenset(one for one in known if name in (one, _bare(one)) or _bare(one).startswith(f"{name}."))
    if not mine:
        near = nearest(name, ("none", "selective", "full"))
        fix = f"did you mean {near!r}?" if near else f"there are {', '.join(dict.fromkeys(map(_bare, known)))}"
        raise ValueError(f"no operator is called {name!r}; {fix}")
    return mine


def _bare(name: str) -> str:
    """The name behind its scope, ``layer3.`` or the like."""
    head, _, rest = name.partition(".")
    return rest if head.startswith(("layer", "predictor")) else name


def bytes_of(tensors: Iterable[Tensor]) -> dict[str, float]:
    """Return the bytes of tensors by name."""
    return {tensor.name: tensor.size_bytes for tensor in tensors}
