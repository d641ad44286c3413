"""A plan: one lane of ops per rank over a placement. What is shown, checked, simulated and run is this object."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import MESSAGES, Kind, Op, Sends, Weights
from penstock.core.placement import Placement
from penstock.core.words import suggest

T = TypeVar("T")
FORMAT = 2
"""Version of the JSON and text formats."""


@dataclass(frozen=True)
class Plan:
    """All that a run needs but the machines.

    Args:
        name: the schedule's name, for people.
        placement: where the stages live.
        micros: micro-batches per step.
        lanes: the ops of each rank, in order.
        sends: how sends and receives pass.
        in_flight: messages a link from rank to rank may hold that have not arrived; a send waits for the message so
            many before it. ``None``: no bound. It is what bounds the memory of sent tensors.
        slices: so many micro-batches in a row are slices of one sequence: each needs the ones before it in the forward
            and the ones after it in the backward (keys and values of attention). 1: all are whole.
        barrier: the optimizer's steps begin when every rank has done all else; without, each when its own rank has,
            and a step that should have been scaled or left out is undone later (post-validation).
        weights: which weights forwards run with; all but ``synced`` are of plans with ``UPDATE``, whose gradients
            differ from those of one process.
        slice_lengths: of the slices of a sequence, in tokens or any other unit; empty: all are of equal length. Of
            unequal ones each is taken to take as long, unless ``Costs.slice_factor`` says otherwise.

    Raises:
        ValueError: the number of lanes is not the number of ranks. (Whether the plan can run is for ``engine.check``.)

    Example:
        >>> plan = Plan("mine", Placement.loop(2), 1, (Lane.parse("0F0 0B0"), Lane.parse("1F0 1B0")))
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    name: str
    placement: Placement
    micros: int
    lanes: tuple[Lane, ...]
    sends: Sends = "overlapped"
    in_flight: int | None = None
    slices: int = 1
    barrier: bool = True
    weights: Weights = "synced"
    slice_lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.in_flight is not None and self.in_flight < 1:
            raise ValueError(f"in_flight={self.in_flight}; a link holds at least 1 message, or None for no bound")
        if len(self.lanes) != self.placement.ranks:
            raise ValueError(f"{len(self.lanes)} lanes for {self.placement.ranks} ranks; give one lane per rank")
        if self.micros < 1:
            raise ValueError(f"micros={self.micros}; a step has at least one micro-batch")
        for name, value, known in (("sends", self.sends, Sends), ("weights", self.weights, Weights)):
            if value not in get_args(known):
                raise ValueError(f"{name} {value}: {suggest(value, get_args(known))}")
        if self.slices < 1 or self.micros % self.slices:
            raise ValueError(f"slices={self.slices} does not divide micros={self.micros}; all have as many")
        if self.slice_lengths and (len(self.slice_lengths) != self.slices or min(self.slice_lengths) < 1):
            raise ValueError(f"slice_lengths={self.slice_lengths}; give one for each of {self.slices} slices, above 0")

    def __len__(self) -> int:
        return len(self.ops)

    @cached_property
    def ops(self) -> NDArray[np.int32]:
        """All lanes one after the other, shape (ops, 3); row numbers are the ids that timelines use."""
        ops = np.concatenate([lane.codes for lane in self.lanes])
        ops.setflags(write=False)
        return ops

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Id of each rank's first op, and the number of ops as last entry: shape (ranks + 1,)."""
        return np.concatenate([[0], np.cumsum([len(lane) for lane in self.lanes])])

    @cached_property
    def rank_of_op(self) -> NDArray[np.int32]:
        """Rank of each op id."""
        return np.repeat(np.arange(len(self.lanes), dtype=np.int32), np.diff(self.first))

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Where tables of shape (kinds, stages) have each op id, one row after the other."""
        return self.ops[:, 0].astype(np.int64) * self.placement.stages + self.ops[:, 1]

    def memo(self, of: Callable[[Plan], T]) -> T:
        """What a function of this plan gives, found once: a plan never changes."""
        if of not in self._found:
            self._found[of] = of(self)
        found: T = self._found[of]
        return found

    @cached_property
    def _found(self) -> dict[Callable[[Plan], Any], Any]:
        return {}

    @property
    def blocking(self) -> bool:
        """Whether messages hold their ranks."""
        return self.sends != "overlapped"

    @cached_property
    def fused(self) -> NDArray[np.bool_]:
        """Whether each op id and the next are one block."""
        return np.concatenate([lane.fused for lane in self.lanes])

    @cached_property
    def _present(self) -> NDArray[np.bool_]:
        """Whether the lanes hold an op of each kind."""
        found: NDArray[np.bool_] = np.bincount(self.ops[:, 0].clip(0), minlength=len(Kind)) > 0
        return found

    @property
    def lowered(self) -> bool:
        """Whether sends and receives stand in the lanes."""
        return self.holds(*MESSAGES)

    @property
    def trains(self) -> bool:
        """Whether any backward stands in the lanes (a plan of forwards alone evaluates)."""
        return self.holds(Kind.B, Kind.I, Kind.W)

    def holds(self, *kinds: Kind) -> bool:
        """Whether an op of one of these kinds stands in the lanes."""
        return bool(self._present[list(kinds)].any())

    def op(self, op_id: int) -> Op:
        """The op of an id."""
        kind, stage, micro = self.ops[op_id].tolist()
        return Op(Kind(kind), stage, micro)

    def with_lanes(self, lanes: Iterable[Lane]) -> Plan:
        """The same plan over other lanes."""
        return replace(self, lanes=tuple(lanes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; lanes as text."""
        placement = self.placement
        return {
            "penstock_plan": FORMAT,
            "name": self.name,
            "micros": self.micros,
            "sends": self.sends,
            "in_flight": self.in_flight,
            "slices": self.slices,
            "barrier": self.barrier,
            "weights": self.weights,
            "slice_lengths": list(self.slice_lengths),
            "rank_of": list(placement.rank_of),
            "prev": list(placement.prev),
            "part_of": list(placement.part_of),
            "lanes": [str(lane) for lane in self.lanes],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Inverse of ``to_dict``.

        Raises:
            ValueError: not a plan, of another format version, or a key is missing; the message names it.
        """
        if not isinstance(data, dict) or data.get("penstock_plan") != FORMAT:
            version = data.get("penstock_plan") if isinstance(data, dict) else None
            raise ValueError(f"not a Penstock plan of format {FORMAT} (penstock_plan={version!r})")
        data = dict[str, Any](slice_lengths=[]) | data
        for key, kinds in _TYPES.items():
            if key not in data:
                raise ValueError(f"the plan lacks the key {key!r}")
            if not isinstance(data[key], kinds):
                raise ValueError(f"the plan's {key} is {data[key]!r}")
        try:
            placement = Placement(tuple(data["rank_of"]), tuple(data["prev"]), tuple(data["part_of"]))
            lanes = tuple(Lane.parse(text) for text in data["lanes"])
        except (TypeError, AttributeError) as wrong:
            raise ValueError(f"the plan holds a value of the wrong type: {wrong}") from None
        how = (data["sends"], data["in_flight"], data["slices"], data["barrier"], data["weights"])
        return cls(data["name"], placement, data["micros"], lanes, *how, tuple(data["slice_lengths"]))

    def to_json(self) -> str:
        """One JSON object; ``from_json`` reads it back."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Inverse of ``to_json``.

        Raises:
            ValueError: malformed JSON (names line and column) or not a plan.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"malformed JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
        return cls.from_dict(data)

    def to_text(self) -> str:
        """A page for people and golden files; ``from_text`` reads it back."""
        placement = self.placement
        rows = [
            f"plan {self.name}",
            f"micros {self.micros}",
            f"sends {self.sends} {self.in_flight or ''}".rstrip(),
            *([f"slices {self.slices}"] if self.slices > 1 else []),
            *([f"slice_lengths {_words(self.slice_lengths)}"] if self.slice_lengths else []),
            *([] if self.barrier else ["barrier no"]),
            *([] if self.weights == "synced" else [f"weights {self.weights}"]),
            f"rank_of {_words(placement.rank_of)}",
            f"prev {_words(placement.prev)}",
            f"part_of {_words(placement.part_of)}",
            *(f"lane {lane}" for lane in self.lanes),
        ]
        return "\n".join(rows) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """Inverse of ``to_text``.

        Raises:
            ValueError: a line is missing or cannot be read.
        """
        rows = [line.partition(" ") for line in text.splitlines() if line.strip()]
        facts = {key: value for key, _, value in rows if key != "lane"}
        missing = {"plan", "micros", "sends", "rank_of", "prev", "part_of"} - facts.keys()
        if missing:
            raise ValueError(f"the plan lacks the line {min(missing)!r}")
        placement = Placement(*(_numbers(key, facts[key]) for key in ("rank_of", "prev", "part_of")))
        lanes = tuple(Lane.parse(value) for key, _, value in rows if key == "lane")
        how, _, in_flight = facts["sends"].partition(" ")
        bound = _numbers("sends", in_flight)[0] if in_flight else None
        (micros,), (slices,) = _numbers("micros", facts["micros"]), _numbers("slices", facts.get("slices", "1"))
        barrier = facts.get("barrier") != "no"
        weights = facts.get("weights", "synced")
        lengths = _numbers("slice_lengths", facts.get("slice_lengths", ""))
        more = (how, bound, slices, barrier, weights, lengths)
        return cls(facts["plan"], placement, micros, lanes, *more)  # type: ignore[arg-type]


_TYPES: dict[str, Any] = {
    "name": str,
    "micros": int,
    "sends": str,
    "in_flight": int | None,
    "slices": int,
    "barrier": bool,
    "weights": str,
    "slice_lengths": list,
    "rank_of": list,
    "prev": list,
    "part_of": list,
    "lanes": list,
}
"""Keys of the JSON and what they hold."""


def _numbers(key: str, text: str) -> tuple[int, ...]:
    """Whole numbers of a line."""
    try:
        return tuple(map(int, text.split()))
    except ValueError:
        raise ValueError(f"{key} {text}: not whole numbers") from None


def _words(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))
