"""The noun ``Written``: files for another framework, and what of a setup they do not say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

from penstock.core.setup import Setup

POLICIES = ("none", "selective", "full")
"""Ways of making activations again; other words are names of operators."""

ALIKE = "all layers are made again alike"
"""Why a framework does not say ``recompute_layers``."""
MEMORY = "what is offloaded stays in host memory"
"""Why a framework does not say ``disk``."""
FACT = "a fact of data and router, not a key"
"""Why no framework says ``imbalance``."""
SCRIPTS = {
    "seq": "the data loader's",
    "graphs": "no graphs in training",
    "flash": "attn_implementation of the model",
    "dropout": "the model's own",
    "fused_loss": "the model's own",
    "adapter": "wrap the model with adapters in the training script",
    "adapter_on": "wrap the model with adapters in the training script",
    "frozen_bytes": "weights are loaded by the training script",
    "multi_token": "the model's own",
    "imbalance": FACT,
}
"""Fields of a setup for which frameworks that train a script's own model have no keys, and who says them."""


@dataclass(frozen=True, slots=True)
class Left:
    """A field of a setup (or ``model``) that a file does not say, or says only nearly, and why."""

    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.why}"


@dataclass(frozen=True, slots=True)
class Written:
    """Files by name, in the words of a framework, and what they leave out of the setup."""

    files: Mapping[str, str]
    left: tuple[Left, ...]


def unsaid(setup: Setup, why: Mapping[str, str]) -> list[Left]:
    """Return what a framework has no words for: the fields of ``why`` that are not as they are unless told otherwise.

    >>> [str(left) for left in unsaid(Setup(seq=8, batch=1, vocabulary=1), {"vocabulary": "no such thing"})]
    ['vocabulary: no such thing (vocabulary=1)']
    """
    usual = {field.name: field.default for field in fields(Setup)}
    given = {name: getattr(setup, name) for name in why}
    return [Left(name, f"{why[name]} ({name}={value})") for name, value in given.items() if value != usual[name]]


def named(setup: Setup) -> tuple[str, ...]:
    """Return the operators that a setup makes again by name; none if it has a policy.

    >>> named(Setup(seq=8, batch=1, recompute="attention.core")), named(Setup(seq=8, batch=1, recompute="full"))
    (('attention.core',), ())
    """
    if isinstance(setup.recompute, tuple):
        return setup.recompute
    return () if setup.recompute in POLICIES else (setup.recompute,)


def refuse(framework: str, reasons: Mapping[str, object]) -> None:
    """Do nothing where no reason is true.

    Raises:
        ValueError: one is.
    """
    for reason, so in reasons.items():
        if so:
            raise ValueError(f"{framework}: {reason}")


def shards_of(setup: Setup) -> tuple[int, int]:
    """Return the degrees of replicas and of shards of data parallelism for FSDP, which shards over ``cp`` ranks beside.

    >>> shards_of(Setup(seq=8, batch=8, cp=2, dp=8, zero=3)), shards_of(Setup(seq=8, batch=8, cp=2, dp=8))
    ((1, 8), (8, 1))
    """
    shards = max(1, setup.sharded // setup.cp)
    return setup.dp // shards, shards


def hosted(setup: Setup) -> bool:
    """Return whether FSDP keeps weights, gradients and the optimizer in host memory, which it does together."""
    return setup.optimizer_offload == 1


def offloaded(setup: Setup) -> Iterator[Left]:
    """Give the shares in host memory that FSDP does not have so."""
    if 0 < setup.optimizer_offload < 1:
        yield Left("optimizer_offload", f"all or nothing; {setup.optimizer_offload} is written as 0")
    if setup.weight_offload != hosted(setup):
        yield Left("weight_offload", f"weights, gradients and the optimizer go together; written as {hosted(setup):d}")


def comments(left: Iterable[Left], framework: str) -> list[str]:
    """Return the lines of a comment that say what was left out, for files whose comments begin with ``#``."""
    lines = [f"#   {each}" for each in left]
    head = "# Not said, or only nearly, since {} has no words for it:" if lines else "# {} has words for all of it."
    return [head.format(framework), *lines]


def toml(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Return tables of plain values as TOML; that without a name comes first.

    >>> print(toml({"": {"model": "gpt2"}, "job": {"batch": 8}}), end="")
    model = "gpt2"
    <BLANKLINE>
    [job]
    batch = 8
    """
    blocks = []
    for name, table in tables.items():
        rows = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        blocks.append("\n".join([f"[{name}]", *rows] if name else rows))
    return "\n\n".join(blocks) + "\n"
