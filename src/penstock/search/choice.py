"""The nouns of a plan: ``Choice``, one strategy predicted, and ``Planned``, the best of all with what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from penstock.core.mesh import ORDER
from penstock.core.plan import Plan
from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES
from penstock.cost.laws import Suggested
from penstock.predict import Prediction, Room
from penstock.predict.grid import COUNTS
from penstock.search.wishes import layers_text

MESSAGES = ("messages", "between stages", "gathering weights", "gradients and weights")
"""Words of those parts of a step in which a rank waits for others' bytes."""
FLAGS = {"micro": "micro-batch", "order": "rank-order"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A strategy and what is predicted of it; fields as those of ``Prediction``.

    ``peak``: memory of the fullest device. ``bubble``: share of the busiest rank's time in the pipeline. ``score_s``:
    seconds by closed forms, by which it was found. ``host_bytes``, ``disk_bytes``: of the fullest rank's device, in
    host memory and on disks.
    """

    setup: Setup
    seconds: float
    low_s: float
    high_s: float
    parts: Mapping[str, float]
    peak: Room
    memory_bytes: float
    host_bytes: float
    host_memory_bytes: float
    disk_bytes: float
    disk_room_bytes: float
    mfu: float
    hfu: float
    tokens_per_s_per_device: float
    bubble: float
    checkpoint_bytes: float
    score_s: float

    @classmethod
    def of(cls, setup: Setup, found: Prediction, score_s: float = 0.0) -> Choice:
        """From a prediction."""
        return cls(
            setup=setup,
            seconds=found.seconds,
            low_s=found.low_s,
            high_s=found.high_s,
            parts=dict(found.parts),
            peak=max(found.rooms, key=lambda room: room.needed),
            memory_bytes=found.memory_bytes,
            host_bytes=max(found.host_bytes),
            host_memory_bytes=found.host_memory_bytes,
            disk_bytes=max(found.disk_bytes),
            disk_room_bytes=found.disk_room_bytes,
            mfu=found.mfu,
            hfu=found.hfu,
            tokens_per_s_per_device=found.tokens_per_s_per_device,
            bubble=found.timeline.bubble_sync,
            checkpoint_bytes=found.checkpoint_bytes,
            score_s=score_s or found.seconds,
        )

    @property
    def needed_bytes(self) -> float:
        """What must fit on a device."""
        return self.peak.needed

    @property
    def headroom(self) -> float:
        """Share of a device's memory that is left; negative if there is too little."""
        return 1 - self.needed_bytes / self.memory_bytes

    @property
    def messages_s(self) -> float:
        """Seconds in which a rank waits for bytes of others, but for the pipeline's bubble."""
        return sum(value for name, value in self.parts.items() if any(word in name for word in MESSAGES))

    @property
    def split(self) -> str:
        """Fields that say how it is split, those that are not 1 or none."""
        return split_of(self.setup)


def split_of(setup: Setup) -> str:
    """Return how a setup is split, in words that ``--fix`` takes.

    >>> split_of(Setup(seq=4096, batch=64, tp=4, pp=2, zero=1, sp=True))
    'tp=4 pp=2 dp=1 micro=1 sp=1 zero=1 recompute=none schedule=1f1b'
    """
    names = (
        "tp", "cp", "cp_heads", "cp_inner", "pp", "dp", "ep", "etp", "micro", "chunks", "sp", "zero", "shards",
        "recompute", "recompute_layers", "recompute_first", "offload", "optimizer_offload", "weight_offload", "disk",
        "schedule", "stage_layers", "vocabulary", "order", "precision", "wide_first", "wide_last", "low_weights",
        "optimizer", "overlap", *SWITCHES,
    )  # fmt: skip
    usual: dict[str, Any] = {"dp": None, "micro": None, "recompute": None, "order": ORDER} | dict.fromkeys(COUNTS, ())
    usual |= dict.fromkeys(("sp", "zero", "cp_heads", "cp_inner", "shards"), 0)
    usual |= dict.fromkeys(("offload", "optimizer_offload", "weight_offload"), 0)
    usual |= dict.fromkeys(("vocabulary", "wide_first", "wide_last", "low_weights"), 0)
    usual |= {"recompute_first": "full", "disk": "none", "precision": "bf16", "optimizer": "adam", "overlap": "own"}
    usual |= dict.fromkeys(SWITCHES, "own")
    usual["schedule"] = setup.schedule if setup.pp == 1 else ""
    values = {name: getattr(setup, name) for name in names}
    values |= {name: layers_text(values[name]) for name in COUNTS if values[name]}
    return " ".join(f"{name}={_word(value)}" for name, value in values.items() if value != usual.get(name, 1))


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else "+".join(value) if isinstance(value, tuple) else str(value)


def flags_of(setup: Setup, usual: Mapping[str, Any]) -> str:
    """Return the flags of ``penstock predict`` that ask for a setup, ``usual`` fields being as a framework has them.

    >>> flags_of(Setup(seq=4096, batch=64, tp=4, pp=2, sp=True, flash=False), {})
    '--seq 4096 --batch 64 --micro-batch 1 --tp 4 --pp 2 --dp 1 --schedule 1f1b --sp --recompute none --no-flash'
    """
    always = ("seq", "batch", "micro", "tp", "pp", "dp", "schedule", "recompute")
    words = []
    for field in fields(Setup):
        name, value = field.name, getattr(setup, field.name)
        if name not in always and value == field.default == usual.get(name, value):
            continue
        flag = FLAGS.get(name, name.replace("_", "-"))
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{flag}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"--{flag} {text}")
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order of passes for a plan.

    ``choice``: the plan as it is predicted with the order; ``named_s``: the step with its named schedule; ``bound_s``:
    what no order of it beats; ``plan``: the order itself, the named one if none is faster.
    """

    choice: Choice
    named_s: float
    bound_s: float
    plan: Plan

    @property
    def gain(self) -> float:
        """Share of the step that the order saves."""
        return 1 - self.choice.seconds / self.named_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The fastest strategy in a precision and with an optimizer, ``None`` where none fits.

    ``gradient_equal``: whether gradients are those of 16 bits or more. ``gaps``: what was published of results beside
    those in 16 bits and with states in 32, and where.
    """

    precision: str
    optimizer: str
    choice: Choice | None
    gradient_equal: bool
    gaps: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The best strategies for a model, machines and a batch.

    Args:
        choices: the best, fastest first; empty if none fits.
        considered: strategies looked at; ``impossible`` of them divide the model or the batch in no way, ``too_large``
            need more than a device has, ``too_slow`` have more work than devices do in the time of those that count,
            ``scored`` have a time by closed forms, ``predicted`` one with their timeline.
        proven: whether no other can be faster, as far as scores are right within what tests allow them.
        stopped: whether the search ended early because its watcher said so.
        seconds: what it took.
        first_s: until the first answer; ``None`` where none was found early.
        nearest: the strategy that needs least memory, if none fits.
        changes: the smallest changes with which one fits, then.
        suggested: the batch that laws suggest, where none was given.
        orders: of the best that have a pipeline, where orders were solved for.
        numbers: the best in each precision, where several were asked for.
    """

    choices: tuple[Choice, ...]
    considered: int
    impossible: int
    too_large: int
    too_slow: int
    scored: int
    predicted: int
    proven: bool
    headroom: float
    seconds: float
    first_s: float | None = None
    nearest: Choice | None = None
    changes: tuple[str, ...] = ()
    suggested: Suggested | None = None
    orders: tuple[Ordered, ...] = ()
    stopped: bool = False
    numbers: tuple[Numbers, ...] = ()

    @property
    def best(self) -> Choice:
        """The fastest.

        Raises:
            ValueError: none fits.
        """
        if not self.choices:
            raise ValueError("no strategy fits; see nearest and changes")
        return self.choices[0]
