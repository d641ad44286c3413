"""A plan: one lane of ops per rank over a placement. What is shown, checked, simulated and run is this object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import NO_MICRO, RECVS, SENDS, Kind, Op
from penstock.core.placement import Placement

FORMAT = 1
"""Version of the JSON and text formats."""


@dataclass(frozen=True, eq=False)
class Lane(Sequence[Op]):
    """The ops of one rank in the order it runs them, held as an array.

    Args:
        codes: int32 array of shape (ops, 3): kind, stage, micro-batch (``NO_MICRO`` for ``STEP``).

    Example:
        >>> str(Lane.parse("0F0 0F1 0B0 0B1")[2])
        '0B0'
    """

    codes: NDArray[np.int32]

    def __post_init__(self) -> None:
        codes = np.array(self.codes, dtype=np.int32).reshape(-1, 3)
        codes.setflags(write=False)
        object.__setattr__(self, "codes", codes)

    @classmethod
    def of(cls, ops: Iterable[Sequence[int]] | NDArray[Any]) -> Lane:
        """From ops (or rows of kind, stage, micro-batch)."""
        return cls(np.asarray(ops if isinstance(ops, np.ndarray) else list(ops), dtype=np.int32))

    @classmethod
    def parse(cls, text: str) -> Lane:
        """From text such as ``0F0 0F1 0B0``.

        Raises:
            ValueError: a word is not an op.
        """
        words = text.split()
        found = _WORD.findall(text)
        if len(found) != len(words) or any(kind not in _CODE for _, kind, _ in found):
            return cls.of([Op.parse(word) for word in words])
        return cls.of([(_CODE[kind], int(stage), int(micro or NO_MICRO)) for stage, kind, micro in found])

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> Op: ...
    @overload
    def __getitem__(self, index: slice) -> Lane: ...
    def __getitem__(self, index: int | slice) -> Op | Lane:
        if isinstance(index, slice):
            return Lane(self.codes[index])
        kind, stage, micro = self.codes[index].tolist()
        return Op(Kind(kind), stage, micro)

    def __iter__(self) -> Iterator[Op]:
        return (Op(_KINDS[kind], stage, micro) for kind, stage, micro in self.codes.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lane) and np.array_equal(self.codes, other.codes)

    def __hash__(self) -> int:
        return hash(self.codes.tobytes())

    def __str__(self) -> str:
        return " ".join(f"{s}{_NAMES[k]}{i if i >= 0 else ''}" for k, s, i in self.codes.tolist())


_WORD = re.compile(r"(?<!\S)(\d{1,9})([A-Z]+(?:_[A-Z]+)*)(\d{1,9}|(?<=STEP))(?!\S)", re.ASCII)
_KINDS = tuple(Kind)
_NAMES = tuple(kind.name for kind in Kind)
_CODE = {kind.name: int(kind) for kind in Kind}


@dataclass(frozen=True)
class Plan:
    """All that a run needs but the machines.

    Args:
        name: the schedule's name, for people.
        placement: where the stages live.
        micros: micro-batches per step.
        lanes: the ops of each rank, in order.
        blocking: sends and receives hold their rank until the message has passed (else they overlap with compute).
        in_flight: messages a link from rank to rank may hold that have not arrived; a send waits for the message so
            many before it. ``None``: no bound. It is what bounds the memory of sent tensors.

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
    blocking: bool = False
    in_flight: int | None = None

    def __post_init__(self) -> None:
        if self.in_flight is not None and self.in_flight < 1:
            raise ValueError(f"in_flight={self.in_flight}; a link holds at least 1 message, or None for no bound")
        if len(self.lanes) != self.placement.ranks:
            raise ValueError(f"{len(self.lanes)} lanes for {self.placement.ranks} ranks; give one lane per rank")
        if self.micros < 1:
            raise ValueError(f"micros={self.micros}; a step has at least one micro-batch")

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
    def lowered(self) -> bool:
        """Whether sends and receives stand in the lanes."""
        return bool(np.isin(self.ops[:, 0], SENDS + RECVS).any())

    @cached_property
    def trains(self) -> bool:
        """Whether any backward stands in the lanes (a plan of forwards alone evaluates)."""
        return bool(np.isin(self.ops[:, 0], (Kind.B, Kind.I, Kind.W)).any())

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
            "blocking": self.blocking,
            "in_flight": self.in_flight,
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
        return cls(data["name"], placement, data["micros"], lanes, data["blocking"], data["in_flight"])

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
            f"sends {'blocking' if self.blocking else 'overlapped'} {self.in_flight or ''}".rstrip(),
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
        if how not in ("blocking", "overlapped"):
            raise ValueError(f"sends {facts['sends']}: write blocking or overlapped")
        bound = _numbers("sends", in_flight)[0] if in_flight else None
        (micros,) = _numbers("micros", facts["micros"])
        return cls(facts["plan"], placement, micros, lanes, how == "blocking", bound)


_TYPES: dict[str, Any] = {
    "name": str,
    "micros": int,
    "blocking": bool,
    "in_flight": int | None,
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
