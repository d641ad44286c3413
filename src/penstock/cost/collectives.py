"""Seconds of collectives and of point-to-point sends, by bytes, algorithm and the levels of links of a group.

A message costs a base, a latency for every hop in turn, and its bytes on the wire over the rate of the slowest link.
Two protocols are open to it, one of short hops and a small share of the rate, one the other way round; the faster is
used. The constants were fitted inside of single nodes with a switch, eight devices at most; meshes and cards have the
same, unmeasured. Adapters between nodes reach a share of their own of their rate, as far as ``data/links.toml`` has
one; what rings over many nodes lose of it is the latency of their hops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from penstock.core.cluster import Level
from penstock.core.words import suggest
from penstock.cost.constants import constants
from penstock.cost.curves import link_curve

Floats = npt.NDArray[np.float64]
Collective = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
Algorithm = Literal["auto", "ring", "tree", "hierarchical", "switch"]
Constants = Mapping[str, float]
PROTOCOLS = ("low", "full")


def collective_s(
    kind: Collective,
    whole_bytes: npt.ArrayLike,
    levels: Sequence[Level],
    *,
    algorithm: Algorithm = "auto",
    sharing: float = 1.0,
    shape: Constants | None = None,
) -> Floats:
    """Return seconds of one collective over the group that crosses ``levels`` (``Cluster.path``), inside first.

    Args:
        whole_bytes: the whole tensor: what is reduced, what is gathered, or what one rank sends, its own part too.
        algorithm: ``auto`` takes the fastest that the kind and the links allow, as libraries try to.
        sharing: how many groups use the same links at once; each has its part of the rate.
        shape: constants other than those of ``data/constants.toml``.

    Raises:
        ValueError: an unknown kind or algorithm, one that the links or the kind do not allow, or bytes below 0.
    """
    size = np.asarray(whole_bytes, float)
    _check_names(kind, algorithm)
    _check_sizes(size, sharing)
    levels = [level for level in levels if level.ranks > 1]
    if not levels:
        return np.zeros_like(size)
    if algorithm == "auto" and shape is None and (found := _measured_s(kind, size, levels, sharing)) is not None:
        return found
    shape = shape or constants("collective")
    levels = _lasting(levels, shape)
    if kind == "all_to_all":
        return _all_to_all_s(size, levels, sharing, shape)
    open_to = _open_to(kind, levels)
    if algorithm != "auto" and algorithm not in open_to:
        raise ValueError(f"algorithm={algorithm!r} cannot do {kind} on these links; use auto, {', '.join(open_to)}")
    names = open_to if algorithm == "auto" else (algorithm,)
    return np.asarray(np.min([_by(name, kind, size, levels, sharing, shape) for name in names], axis=0))


def send_s(
    message_bytes: npt.ArrayLike, levels: Sequence[Level], *, sharing: float = 1.0, shape: Constants | None = None
) -> Floats:
    """Return seconds of a message from one rank to another over the slowest of ``levels``; 0 where there are none.

    Raises:
        ValueError: bytes below 0, or a sharing below 1.
    """
    size = np.asarray(message_bytes, float)
    _check_sizes(size, sharing)
    if not levels:
        return np.zeros_like(size)
    if shape is None and (found := _measured_s("send", size, levels, sharing)) is not None:
        return found
    shape = shape or constants("collective")
    levels = _lasting(levels, shape)
    level = min(levels, key=lambda level: level.bytes_per_s)
    return _fastest(size * sharing / level.bytes_per_s, level.latency_s, shape)


@lru_cache(maxsize=32768)
def seconds_of(kind: Collective | Literal["send"], size_bytes: float, levels: tuple[Level, ...]) -> float:
    """Return the seconds of one collective, or of one message, as far as there is one; remembered, since many setups
    have the same."""
    if not size_bytes:
        return 0.0
    return float(send_s(size_bytes, levels) if kind == "send" else collective_s(kind, size_bytes, levels))


def _measured_s(
    kind: Collective | Literal["send"], size: Floats, levels: Sequence[Level], sharing: float
) -> Floats | None:
    """Seconds by the curve of the one level of links that is crossed; ``None`` where that has none."""
    curve = link_curve(kind, levels[0], _structured_s) if len(levels) == 1 else None
    if curve is None:
        return None
    return curve.at(_structured_s(kind, size, levels[0], sharing), np.maximum(size, 1.0), levels[0].ranks).seconds


def _structured_s(kind: Collective | Literal["send"], size: Floats, level: Level, sharing: float = 1.0) -> Floats:
    """Seconds over links that were not measured."""
    bare = [replace(level, curves=None)]
    return send_s(size, bare, sharing=sharing) if kind == "send" else collective_s(kind, size, bare, sharing=sharing)


def _lasting(levels: Sequence[Level], shape: Constants) -> list[Level]:
    """Levels at rates of which the share inside of nodes is what each reaches."""
    of = shape["share_full"]
    return [replace(one, bytes_per_s=one.bytes_per_s * one.share / of) if one.share else one for one in levels]


def _fastest(wire_s: Floats, hops_s: float, shape: Constants, base_s: float = 0.0) -> Floats:
    """The faster protocol, with ``wire_s`` at the whole rate and ``hops_s`` of link latencies in a row."""
    times = [hops_s * shape[f"hop_{name}"] + wire_s / shape[f"share_{name}"] for name in PROTOCOLS]
    return np.asarray(np.minimum(*times) + shape["base_s"] + base_s)


def _by(name: str, kind: Collective, size: Floats, levels: Sequence[Level], sharing: float, shape: Constants) -> Floats:
    """Seconds by one algorithm: a ring crosses a level's links between each two of its parts, a tree log2 of them."""
    twice = 2 if kind == "all_reduce" else 1
    ranks = prod(level.ranks for level in levels)
    if name == "hierarchical":
        return _stages_s(kind, size, levels, sharing, shape)
    if name == "switch":
        level = levels[0]
        parts = 1 + 1 / ranks if kind == "all_reduce" else (ranks - 1) / ranks
        wire_s = size * parts * sharing / level.bytes_per_s / shape["share_switch"]
        return np.asarray(twice * level.latency_s * shape["hop_switch"] + wire_s + shape["base_s"])
    inner, slowest, hops_s = 1, 0.0, 0.0
    for level in levels:
        slowest = max(slowest, sharing / (level.bytes_per_s * inner))
        edges = np.log2(level.ranks) if name == "tree" else (level.ranks - 1) * ranks / (inner * level.ranks)
        hops_s += float(np.ceil(edges)) * level.latency_s
        inner *= level.ranks
    share = shape["share_tree"] if name == "tree" else 1.0
    return _fastest(twice * size * (ranks - 1) / ranks * slowest / share, twice * hops_s, shape)


def _stages_s(kind: Collective, size: Floats, levels: Sequence[Level], sharing: float, shape: Constants) -> Floats:
    """Scatter inwards, reduce at the top and gather back out, each level with its part of the bytes."""
    below, total = 1, np.zeros_like(size)
    for number, level in enumerate(levels):
        top = number == len(levels) - 1
        stage: Collective = kind if top or kind != "all_reduce" else "reduce_scatter"
        times = 1 if top or kind != "all_reduce" else 2
        name = "switch" if level.reduces else "ring"
        total = total + times * _by(name, stage, size / below, [level], sharing, shape)
        below *= level.ranks
    return np.asarray(total)


def _all_to_all_s(size: Floats, levels: Sequence[Level], sharing: float, shape: Constants) -> Floats:
    """Every rank sends each other one its part."""
    ranks, inner, over = prod(level.ranks for level in levels), 1, list[Floats]()
    for level in levels:
        over.append(size * inner * (level.ranks - 1) / ranks * sharing)
        inner *= level.ranks
    return _side_by_side_s(over, levels, shape)


def exchange_s(over_bytes: Sequence[float], levels: Sequence[Level]) -> float:
    """Return the seconds of an exchange among all ranks in which each sends so many bytes over each of the levels."""
    shape = constants("collective")
    return float(_side_by_side_s([np.asarray(each) for each in over_bytes], _lasting(levels, shape), shape))


def _side_by_side_s(over: Sequence[Floats], levels: Sequence[Level], shape: Constants) -> Floats:
    """The levels work side by side, messages to all ranks start one after another."""
    wire_s = np.max([each / level.bytes_per_s for each, level in zip(over, levels, strict=True)], axis=0)
    hop_s, ranks = max(level.latency_s for level in levels), prod(level.ranks for level in levels)
    return _fastest(wire_s, hop_s, shape, (ranks - 1) * shape["message_s"])


def _open_to(kind: Collective, levels: Sequence[Level]) -> tuple[Algorithm, ...]:
    names: list[Algorithm] = ["ring"]
    if kind == "all_reduce":
        names.append("tree")
    if len(levels) > 1:
        names.append("hierarchical")
    elif levels[0].reduces:
        names.append("switch")
    return tuple(names)


def _check_names(kind: str, algorithm: str) -> None:
    if kind not in get_args(Collective):
        raise ValueError(f"unknown collective {kind!r}; {suggest(kind, get_args(Collective))}")
    if algorithm not in get_args(Algorithm):
        raise ValueError(f"unknown algorithm {algorithm!r}; {suggest(algorithm, get_args(Algorithm))}")


def _check_sizes(size: Floats, sharing: float) -> None:
    if not (size >= 0).all() or not sharing >= 1:
        raise ValueError(
            f"bytes={size.min(initial=0):g}, sharing={sharing}: give at least 0 bytes and a sharing of 1 or more"
        )
