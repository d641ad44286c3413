"""The nouns ``Job`` (what must be achieved), ``Strategy`` (how it is split) and ``RunSpec`` (one run of both).

Every field carries its help and its range. Flags, keys of job files and documentation are made from them by
``settings()``, and a field's name is the same in all four places.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from penstock.core.model import Model
from penstock.core.op import Sends
from penstock.core.words import divisors, suggest

BYTE_VOCAB = 256  # a token is a byte
SliceBy = Literal["length", "time"]
OptimizerStep = Literal["barrier", "post-validation"]


def _setting(
    default: Any, help_: str, *, low: float = -math.inf, high: float = math.inf, above: float | None = None
) -> Any:
    """Return a dataclass field whose value lies in ``[low, high]`` and, where given, strictly above ``above``."""
    return dataclasses.field(default=default, metadata={"help": help_, "low": low, "high": high, "above": above})


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What must be achieved: the data, the sequences per step, and how the optimizer goes through them.

    Raises:
        ValueError: a value is out of its range; the message names the value and the nearest that is allowed.

    >>> Job(steps=100).tokens_per_step
    2048
    """

    data: str = _setting("stdlib", "text to train on: 'stdlib' (Python's own library), a file or a folder")
    seq_length: int = _setting(256, "tokens per sequence", low=2)
    batch: int = _setting(8, "sequences per optimizer step, over all micro-batches", low=1)
    steps: int = _setting(220, "optimizer steps of the whole run, those before a resume included", low=1)
    learning_rate: float = _setting(2e-3, "AdamW's highest learning rate", above=0.0)
    min_learning_rate_ratio: float = _setting(
        0.1, "learning rate of the last step as a part of the highest; a cosine leads there", low=0.0, high=1.0
    )
    warmup_steps: int = _setting(20, "steps over which the learning rate rises from zero to its highest", low=0)
    weight_decay: float = _setting(0.1, "AdamW's weight decay, on matrices only", low=0.0)
    beta1: float = _setting(0.9, "AdamW's decay of the mean of gradients", low=0.0, high=0.999999)
    beta2: float = _setting(0.95, "AdamW's decay of the mean of squared gradients", low=0.0, high=0.999999)
    clip_norm: float = _setting(1.0, "largest norm of all gradients together; 0 never clips", low=0.0)
    max_left_out: int = _setting(
        0, "steps in a row left out because a gradient is not finite; one more ends the run", low=0
    )
    seed: int = _setting(0, "seed of the first weights and of the order of the data", low=0, high=2**63 - 1)
    precision: Literal["float32", "float64", "bfloat16"] = _setting(
        "float32", "type of weights, activations and gradients"
    )
    held_out_sequences: int = _setting(
        64, "sequences of text never trained on that measure the loss, rounded up to whole batches; 0 for none", low=0
    )

    def __post_init__(self) -> None:
        _check_fields(self)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step trains on."""
        return self.batch * self.seq_length


SOLVE = "solve"
"""In the place of a schedule's name: measure costs in the first steps, search, and change to the order found."""
PLAN_FILES = (".json", ".txt")
"""How names of plans in files end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """How a job is split over ranks: the schedule, the virtual stages and the micro-batches.

    Raises:
        ValueError: a value is out of its range, or ``stage_layers`` is not one number for each stage.

    >>> Strategy(ranks=4, chunks=2).stages
    8
    """

    ranks: int = _setting(2, "pipeline ranks, one process each", low=1)
    schedule: str = _setting("1f1b", "a schedule's name, a plan (.json), your own function as FILE.py:NAME, or solve")
    chunks: int = _setting(1, "virtual stages on each rank", low=1)
    micro_batches: int = _setting(8, "parts that the batch is cut into", low=1)
    slices: int = _setting(
        0, "parts that each sequence is cut into, by schedules that can; 0 leaves the number to the schedule", low=0
    )
    slice_by: SliceBy = _setting(  # noqa: RUF009
        "length", "'length': slices of as many tokens; 'time': cut so that, with attention, all take as long"
    )
    stage_layers: tuple[int, ...] | None = _setting(
        None, "decoder layers of each virtual stage, in the order of the model; left out they are cut evenly", low=0
    )
    sends: Sends = _setting("overlapped", "whether a rank computes while it sends, or waits")  # noqa: RUF009
    recompute: str = _setting(
        "",
        "make activations again before the backward: 'full' or 'selective', with options as --pass recompute= of "
        "penstock schedule has them ('full,keep=1'); empty: none",
    )
    offload: str = _setting(
        "",
        "let this share of activations, above 0 to 1, wait in host memory, with options as --pass offload= of penstock "
        "schedule has them ('0.5,stages=0'); empty: none",
    )
    solve_s: float = _setting(
        20.0, "with schedule='solve': seconds of search, beside the training and at low priority", above=0.0
    )
    costs: str = _setting(
        "1,1,1,0",
        "what schedules and passes that read costs believe, as --costs of penstock schedule; the costs.json of an "
        "earlier run is measured",
    )
    vocabulary: int = _setting(
        0, "split embedding and head over all ranks by this algorithm, 1 or 2; 0 keeps them whole", low=0, high=2
    )
    optimizer_step: OptimizerStep = _setting(  # noqa: RUF009
        "barrier",
        "'barrier': all ranks wait for the norm of the gradients; 'post-validation': each steps when it is done, and "
        "undoes the step if the norm demands it (a copy of weights and moments more)",
    )

    def __post_init__(self) -> None:
        _check_fields(self)
        own = self.schedule.endswith(PLAN_FILES) or self.schedule.partition(":")[0].endswith(".py")
        if self.stage_layers is not None and not own and len(self.stage_layers) != self.stages:
            raise ValueError(
                f"stage_layers={list(self.stage_layers)} has {len(self.stage_layers)} numbers for ranks={self.ranks} "
                f"x chunks={self.chunks} = {self.stages} stages; give {self.stages} numbers"
            )

    @property
    def stages(self) -> int:
        """Virtual stages of all ranks together, replicas not counted; files of the user's may place others."""
        return self.ranks * self.chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Where a run puts its results and how its processes behave; nothing here changes what is learnt.

    Raises:
        ValueError: a value is out of its range.
    """

    out: str = _setting("", "folder of the results; left out, the next free of runs/001, runs/002, ...")
    checkpoint_every: int = _setting(50, "steps between checkpoints; 0 writes none", low=0)
    resume: bool = _setting(False, "go on from the newest checkpoint in out; left out, of the newest in runs/")
    timeout_s: float = _setting(120.0, "seconds after which a rank that still waits counts as hung", above=0.0)
    threads: int = _setting(1, "compute threads of each rank", low=1)
    port: int = _setting(0, "TCP port where the ranks meet; 0 takes any free one", low=0, high=65535)

    def __post_init__(self) -> None:
        _check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """One run: the model, the job, the strategy and the settings of the run.

    Raises:
        ValueError: ``model`` is empty, or ``micro_batches`` does not divide ``batch``.

    >>> RunSpec().sequences_per_micro_batch
    1
    """

    model: str = _setting("tiny-llama", "a shipped model's name, or a config.json of Hugging Face or its folder")
    job: Job = dataclasses.field(default_factory=Job)
    strategy: Strategy = dataclasses.field(default_factory=Strategy)
    run: RunSettings = dataclasses.field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError(f"model={self.model!r} names no model; use 'tiny-llama' or the path of a config.json")
        batch, micro_batches = self.job.batch, self.strategy.micro_batches
        if batch % micro_batches:
            larger = -(-batch // micro_batches) * micro_batches
            raise ValueError(
                f"micro_batches={micro_batches} does not divide batch={batch}; "
                f"use {divisors(batch, near=micro_batches)} micro-batches, or batch={larger}"
            )

    def check_model(self, model: Model, parts: int) -> None:
        """Check that ``model`` can be cut into ``parts`` as the strategy says and takes the tokens of the job.

        Raises:
            ValueError: the layers cannot be cut so, or the sequences or the vocabulary do not fit.
        """
        model.cut(parts, self.strategy.stage_layers)
        if self.job.seq_length > model.positions:
            raise ValueError(
                f"seq_length={self.job.seq_length} is longer than {model.name} takes; use {model.positions} or less"
            )
        if model.vocab < BYTE_VOCAB:
            raise ValueError(
                f"{model.name} has a vocabulary of {model.vocab}, too small for tokens that are bytes; "
                f"use vocab_size={BYTE_VOCAB} or more"
            )

    @property
    def sequences_per_micro_batch(self) -> int:
        """Sequences that one forward op takes."""
        return self.job.batch // self.strategy.micro_batches


@dataclass(frozen=True, slots=True)
class Setting:
    """A field as flags, job files and documentation show it.

    ``table`` is the TOML table (``""`` for the top level); ``type`` is the annotation, such as ``int`` or a
    ``Literal``.
    """

    table: str
    name: str
    type: Any
    default: Any
    help: str


TABLES: dict[str, type[Job] | type[Strategy] | type[RunSettings]] = {
    "job": Job,
    "strategy": Strategy,
    "run": RunSettings,
}


@cache
def settings() -> Mapping[str, Setting]:
    """Return every setting of a run by its name, which is unique over all tables.

    >>> settings()["micro_batches"].table
    'strategy'
    """
    owners: dict[str, type[Any]] = {"": RunSpec, **TABLES}
    found = {
        field.name: Setting(table, field.name, types[field.name], field.default, field.metadata["help"])
        for table, owner in owners.items()
        for types in [typing.get_type_hints(owner)]
        for field in dataclasses.fields(owner)
        if "help" in field.metadata
    }
    return MappingProxyType(found)


def _check_fields(value: Job | Strategy | RunSettings) -> None:
    types = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        choices = typing.get_args(types[field.name]) if typing.get_origin(types[field.name]) is Literal else ()
        if choices and held not in choices:
            raise ValueError(f"{field.name}={held!r} is unknown; {suggest(str(held), choices)}")
        numbers = held if isinstance(held, tuple) else (held,)
        for number in numbers:
            if isinstance(number, int | float):
                _check_range(field.name, number, **{k: field.metadata[k] for k in ("low", "high", "above")})


def _check_range(name: str, number: float, low: float, high: float, above: float | None) -> None:
    if not math.isfinite(number):
        raise ValueError(f"{name}={number} is not a finite number")
    if number < low:
        raise ValueError(f"{name}={number} is too small; use {low:g} or more")
    if number > high:
        raise ValueError(f"{name}={number} is too large; use {high:.15g} or less")
    if above is not None and number <= above:
        raise ValueError(f"{name}={number} is too small; use more than {above:g}")
