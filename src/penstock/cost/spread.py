"""Times per stage, per rank or per layer, spread over the stages of any placement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.words import divisors, suggest

Array = NDArray[np.float64]
TIMES = ("F", "I", "W")
PER_STAGE = ("saved_bytes", "w_share", "boundary_bytes", "kept_share", "host_share", "weight_bytes")
KEYS = ("per", *TIMES, "link", "layers", "first", "last", "saved_bytes", "boundary_bytes", "w_share")


def exactly(data: dict[str, Any]) -> Callable[[Placement], Costs]:
    """Costs of stages as ``Costs.to_dict`` writes them; replicas of a stage cost the same.

    Raises:
        ValueError: ``data`` holds no costs; or later a placement has another number of ranks or model parts.
    """
    try:
        costs = Costs.from_dict(data)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"holds no costs as Costs.to_dict writes them: {error}") from None
    stages, ranks = len(costs.saved_bytes), len(costs.hop_s)

    def on(placement: Placement) -> Costs:
        parts = max(placement.part_of) + 1
        if placement.ranks != ranks or stages not in (parts, placement.stages):
            raise ValueError(
                f"holds times of {stages} stages on {ranks} ranks, this placement has {parts} on {placement.ranks}; "
                "state them per rank or per layer, which fits any number of stages"
            )
        row = np.array(placement.part_of) if stages == parts else np.arange(stages)
        per_stage = {name: getattr(costs, name)[row] for name in PER_STAGE}
        return replace(costs, seconds=costs.seconds[:, row], **per_stage)

    return on


@dataclass(frozen=True)
class _Stated:
    per: str
    layers: int
    times: dict[str, Array]
    """Of each letter: one value per rank or per layer, or one for all."""
    first: dict[str, float]
    last: dict[str, float]
    """Seconds on top of the layers, for embeddings and for the head with the loss."""
    link_s: Array
    saved_bytes: Array | None
    boundary_bytes: float
    w_share: float


class OnPlacement(Protocol):
    """Costs of a placement; where times are per layer, also with so many layers on each model part."""

    def __call__(self, placement: Placement, /, cut: Sequence[int] | None = None) -> Costs:
        """The costs."""


def stated(data: dict[str, Any], w_share: float = 1.0) -> OnPlacement:
    """Times as an engineer has them, for placements with any number of chunks.

    Args:
        data: ``per`` is ``"rank"`` or ``"layer"``; ``F``, ``I`` and ``W`` are seconds (or any unit) of one
            micro-batch, a number for all or a list. A rank's are for all its chunks together, and they share them
            evenly; layers go in order to the stages, equally many to each unless the call says how many (``cut``, a
            number per model part), with ``layers`` saying how many there are if no list does, and with ``first`` and
            ``last`` (as ``{"F": 1, "I": 1, "W": 1}``) on top of the first and the last stage. ``link`` is the time of a
            message: a number, or a matrix from rank to rank. Bytes are
            optional: ``saved_bytes`` per rank or layer (else equal, a rank's 1 on average), ``boundary_bytes``, and
            ``w_share``, the share of the saved bytes that W needs after I.
        w_share: where ``data`` does not say.

    Raises:
        ValueError: a key is unknown or lacks, a value is not a time; or later the numbers do not fit a placement.

    Example:
        >>> heavy_head = {"per": "layer", "layers": 8, "F": 1, "I": 1, "W": 1, "last": {"F": 2, "I": 2, "W": 2}}
        >>> stated(heavy_head)(Placement.loop(2, 2)).seconds[Kind.F].tolist()
        [2.0, 2.0, 2.0, 4.0]
        >>> stated({"per": "rank", "F": [1, 2], "I": 1, "W": 1})(Placement.vee(2)).seconds[Kind.F].tolist()
        [0.5, 1.0, 1.0, 0.5]
    """
    unknown = next((key for key in data if key not in KEYS), None)
    if unknown is not None:
        raise ValueError(f"unknown key {unknown!r}; {suggest(unknown, KEYS)}")
    per = data.get("per")
    if per not in ("rank", "layer"):
        raise ValueError(f'"per" is {per!r}; it must be "rank" or "layer"')
    if per == "rank" and (alone := next((key for key in ("layers", "first", "last") if key in data), None)):
        raise ValueError(f'"{alone}" is for times per layer; write "per": "layer"')
    times = {letter: _list(data, letter) for letter in TIMES}
    saved = _list(data, "saved_bytes") if "saved_bytes" in data else None
    given = _Stated(
        per,
        _layers(data, times) if per == "layer" else 0,
        times,
        _extra(data, "first"),
        _extra(data, "last"),
        _array(data.get("link", 0.0), "link", (0, 2)),
        saved,
        float(_array(data.get("boundary_bytes", 0.0), "boundary_bytes", (0,))),
        float(_array(data.get("w_share", w_share), "w_share", (0,))),
    )
    if given.w_share > 1:
        raise ValueError(f'"w_share" is {given.w_share:g}; a share lies between 0 and 1')
    return lambda placement, cut=None: _on(given, placement, cut)


def layers_of(data: dict[str, Any]) -> int:
    """How many layers such figures speak of; 0 if they are not per layer."""
    return _layers(data, {letter: _list(data, letter) for letter in TIMES}) if data.get("per") == "layer" else 0


def _on(given: _Stated, placement: Placement, cut: Sequence[int] | None) -> Costs:
    if cut is not None and given.per == "rank":
        raise ValueError('times per rank cannot be cut by layers; write "per": "layer"')
    spread = _per_rank if given.per == "rank" else partial(_per_layer, cut=cut)
    f, i, w = (spread(given, placement, letter, given.times[letter]) for letter in TIMES)
    seconds = np.zeros((len(Kind), placement.stages))
    for kind, row in ((Kind.F, f), (Kind.B, i + w), (Kind.I, i), (Kind.W, w)):
        seconds[kind] = row
    saved = Costs.uniform(placement).saved_bytes
    if cut is not None:
        saved = np.array(cut)[list(placement.part_of)] * placement.ranks / given.layers
    if given.saved_bytes is not None:
        saved = spread(given, placement, "saved_bytes", given.saved_bytes)
    ones = np.ones(placement.stages)
    return Costs(
        seconds, _hops(given.link_s, placement.ranks), saved, given.w_share * ones, given.boundary_bytes * ones
    )


def _hops(link_s: Array, ranks: int) -> Array:
    if link_s.ndim == 0:
        link_s = np.full((ranks, ranks), float(link_s))
        np.fill_diagonal(link_s, 0.0)
    if link_s.shape != (ranks, ranks):
        raise ValueError(f'"link" has shape {link_s.shape}; give one number, or a row per rank with {ranks} each')
    return link_s


def _per_rank(given: _Stated, placement: Placement, key: str, values: Array) -> Array:
    """Each rank's value, shared evenly by its chunks of a chain."""
    if values.size not in (1, placement.ranks):
        raise ValueError(
            f'"{key}" holds {values.size} numbers, and there are {placement.ranks} ranks; give {placement.ranks}, one '
            "for all, or times per layer, which fit any number of ranks"
        )
    each = np.broadcast_to(values, placement.ranks)[list(placement.rank_of)]
    return each * Costs.uniform(placement).saved_bytes


def _per_layer(
    given: _Stated, placement: Placement, key: str, values: Array, cut: Sequence[int] | None = None
) -> Array:
    """The layers of each model part together, and what the first and the last part do on top."""
    parts = max(placement.part_of) + 1
    if cut is not None:
        if len(cut) != parts or sum(cut) != given.layers or min(cut) < 0:
            raise ValueError(f"cut={list(cut)}; give {parts} numbers that add up to {given.layers} layers")
    elif given.layers % parts:
        raise ValueError(
            f"{given.layers} layers do not go evenly on {parts} stages; take {divisors(given.layers, parts)} stages, "
            "or count embeddings and head as layers"
        )
    ends = np.cumsum([given.layers // parts] * parts if cut is None else cut)
    upto = np.r_[0.0, np.cumsum(np.broadcast_to(values, given.layers))]
    each: Array = upto[ends] - upto[np.r_[0, ends[:-1]]]
    each[0] += given.first.get(key, 0.0)
    each[-1] += given.last.get(key, 0.0)
    spread: Array = each[list(placement.part_of)]
    return spread


def _layers(data: dict[str, Any], times: dict[str, Array]) -> int:
    lengths = {letter: row.size for letter, row in times.items() if row.size > 1}
    said = data.get("layers")
    if said is not None:
        if not isinstance(said, int) or said < 1:
            raise ValueError(f'"layers" is {said!r}; give a whole number of at least 1')
        lengths["layers"] = said
    if not lengths:
        raise ValueError('say how many layers there are: "layers": 32, or lists of times')
    if len(set(lengths.values())) > 1:
        raise ValueError(f"numbers of layers differ: {lengths}")
    return next(iter(lengths.values()))


def _extra(data: dict[str, Any], key: str) -> dict[str, float]:
    extra = data.get(key, {})
    if not isinstance(extra, dict) or not {*extra} <= {*TIMES, "saved_bytes"}:
        raise ValueError(f'"{key}" is {extra!r}; write times on top of the layers, as {{"F": 1, "I": 1, "W": 1}}')
    return {letter: float(_array(value, f"{key}.{letter}", (0,))) for letter, value in extra.items()}


def _list(data: dict[str, Any], key: str) -> Array:
    if key not in data:
        raise ValueError(f'lacks "{key}"; give F, I and W, each a number or a list')
    return np.atleast_1d(_array(data[key], key, (0, 1)))


def _array(value: Any, key: str, dims: tuple[int, ...]) -> Array:
    try:
        found = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    if found.ndim not in dims or not found.size or not ((found >= 0) & (found < np.inf)).all():
        raise ValueError(f'"{key}" is {value!r}; figures are finite numbers, not negative')
    return found
