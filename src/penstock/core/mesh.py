"""The order of parallel axes over devices, from the innermost on, and which devices a group of each axis takes.

Ranks that follow each other on the first axis of an order are neighbours. Every framework has tensor parallelism there,
whose messages are the largest; the orders of the others are what they differ in. Experts lie over the ranks of a stage:
the columns of an expert innermost, then experts, then their replicas.
"""

from __future__ import annotations

from functools import reduce
from itertools import permutations
from operator import mul
from typing import Any, NamedTuple

AXES = ("tp", "cp", "dp", "pp")
ORDER = "-".join(AXES)
"""Of a setup that says none: stages of a pipeline are furthest apart."""
ORDERS = tuple("-".join(("tp", *rest)) for rest in permutations(AXES[1:]))
STAGES_NEAR = "tp-cp-pp-dp"
"""Megatron-LM's other order: stages of a pipeline are neighbours, replicas furthest apart."""
EXPERTS = "ep"
"""Megatron-LM's orders name the axis of experts too, behind ``cp``."""


def order_of(text: str) -> str:
    """Return one of ``ORDERS`` by a text: axes joined by dashes; ``ep`` may stand before ``dp``, ``cp`` may lack.

    Raises:
        ValueError: it is no such order.

    >>> order_of("tp-cp-ep-pp-dp"), order_of("tp-pp-dp")
    ('tp-cp-pp-dp', 'tp-cp-pp-dp')
    """
    axes = text.lower().split("-")
    if EXPERTS in axes and "dp" in axes and 0 < axes.index(EXPERTS) < axes.index("dp"):
        axes.remove(EXPERTS)
    if axes[:1] == ["tp"] and "cp" not in axes:
        axes.insert(1, "cp")
    found = "-".join(axes)
    if found not in ORDERS:
        inner = ", with tp first, since it talks most" if sorted(axes) == sorted(AXES) else ""
        raise ValueError(f"order={text} is no order of tp, cp, dp and pp{inner}; use {', '.join(ORDERS)}")
    return found


class Row(NamedTuple):
    """Devices of a group: ``size`` of them, ``stride`` apart, but ``skip`` more behind each ``run`` of devices.

    They are numbers, or arrays with an entry for each of many setups.
    """

    size: Any
    stride: Any = 1
    run: Any = 1
    skip: Any = 0

    def part(self, size: Any) -> Row:
        """Return the first so many of it."""
        return self._replace(size=size)

    def across(self, size: Any) -> Row:
        """Return every so manyth of it."""
        return self._replace(size=self.size // size, stride=self.stride * size)


def stride(setup: Any, axis: str) -> Any:
    """Return how many devices lie between neighbours of an axis: the product of the axes inside of it.

    Args:
        setup: one setup, or a grid of them; so in all that follows.
        axis: one of ``AXES``.
    """
    others = (name for name in AXES if name != axis)
    return reduce(mul, (1 + setup.inside(name, axis) * (getattr(setup, name) - 1) for name in others))


def tensor(setup: Any) -> Row:
    """Return ranks that share columns and heads."""
    return Row(setup.tp)


def context(setup: Any) -> Row:
    """Return ranks that share the tokens of a sequence."""
    return Row(setup.cp, stride(setup, "cp"))


def stages(setup: Any) -> Row:
    """Return the ranks of a pipeline."""
    return Row(setup.pp, stride(setup, "pp"))


def replicas(setup: Any) -> Row:
    """Return ranks that hold the same weights, experts apart: those of ``dp`` and ``cp``."""
    cp, dp, first = stride(setup, "cp"), stride(setup, "dp"), setup.inside("cp", "dp")
    near, far, inner = (_either(first, *pair) for pair in ((cp, dp), (dp, cp), (setup.cp, setup.dp)))
    size = setup.dp * setup.cp
    skip = (inner > 1) * (inner < size) * (far - near * inner)
    return Row(size, _either(inner > 1, near, far), _either(skip > 0, near * inner, 1), skip)


def experts(setup: Any) -> Row:
    """Return ranks that share the experts of a layer."""
    return _on_stage(setup, setup.ep, setup.etp)


def expert_replicas(setup: Any) -> Row:
    """Return ranks that hold the same experts."""
    return _on_stage(setup, setup.expert_replicas, setup.ep * setup.etp)


def pipes_agree(setup: Any) -> bool:
    """Return whether experts and all else have the same pipelines if each lies over all devices in the order, as
    Megatron-LM asks where ``pp`` is not last: there are as many replicas of experts as of all else."""
    piped = setup.pp > 1 and not setup.order.endswith("pp")
    return not piped or setup.expert_replicas == setup.dp


def _on_stage(setup: Any, size: Any, apart: Any) -> Row:
    """Ranks that are so far apart among those of a stage."""
    run = stride(setup, "pp")
    skip = (size * apart > run) * run * (setup.pp - 1)
    return Row(size, apart, _either(skip > 0, run, 1), skip)


def _either(when: Any, one: Any, other: Any) -> Any:
    """The one where something is so, else the other."""
    return when * one + (1 - when) * other
