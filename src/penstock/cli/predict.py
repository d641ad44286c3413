"""The command ``penstock predict``; its flags are the fields of a setup."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union

from cyclopts import Parameter

from penstock.core.arguments import arguments
from penstock.core.filling import filling
from penstock.core.setup import FRAMEWORK, Setup
from penstock.core.words import whole_numbers
from penstock.units import parse_count, parse_length

if TYPE_CHECKING:
    from penstock.core.architecture import Architecture
    from penstock.core.cluster import Cluster
    from penstock.cost.stack import Stack
    from penstock.predict import Prediction

READ_LENGTH = Parameter(converter=lambda _, tokens: parse_length(tokens[0].value))
READ_COUNT = Parameter(converter=lambda _, tokens: parse_count(tokens[0].value))
NAMES = {"micro": ("--micro-batch", "--micro"), "chunks": ("--chunks", "--vpp"), "order": ("--rank-order",)}
"""Flags that are not called like their field."""
WORDS = ("precision", "recompute", "recompute_first", "schedule", "optimizer", "overlap", "disk")
"""Fields whose values are words, in whatever letters."""
HELP = {
    "tp": "ranks that share columns and heads (tensor parallelism).",
    "cp": "ranks that share the tokens of a sequence (context parallelism).",
    "pp": "ranks that share layers (pipeline parallelism).",
    "dp": "ranks that share batches, those of experts included; left out, as many as the cluster has for them.",
    "ep": "ranks that share experts.",
    "etp": "ranks that share the columns of an expert.",
    "schedule": "a name of the table of schedules; left out with several chunks, interleaved.",
}
"""Where the docstring of the setup speaks of several at once, or a flag means more."""


def _flag(field: dataclasses.Field[Any], kind: Any, said: str) -> tuple[str, Any, None]:
    """A field for a flag that is None unless the user gives it."""
    needed = field.default is dataclasses.MISSING
    default = "" if needed or field.name == "dp" or field.default in ("", ()) else f" [default: {field.default}]"
    kind = str if typing.get_origin(kind) is not None else kind
    names = NAMES.get(field.name)
    parameter = Parameter(name=names, help=said + default, show_default=False)
    reads = (READ_LENGTH,) if field.name == "seq" else ()
    return field.name, Annotated[Union[kind, NoneType], *reads, parameter], None  # noqa: UP007


def _said() -> dict[str, str]:
    """What the docstring of the setup says of each field."""
    each = {name: text.replace("``", "") for name, text in arguments(Setup).items()}
    return each | HELP


_TYPES, _SAYS = typing.get_type_hints(Setup), _said()
Flags = dataclasses.make_dataclass(
    "Flags",
    [_flag(field, _TYPES[field.name], _SAYS[field.name]) for field in dataclasses.fields(Setup)],
    kw_only=True,
    namespace={"__module__": __name__},
)
"""Every field of a setup, None where the user gave no flag."""
NO_FLAGS = Flags()


def predict(
    *,
    model: str | None = None,
    cluster: str,
    framework: str | None = None,
    flags: Annotated[Flags, Parameter(name="*")] = NO_FLAGS,  # type: ignore[valid-type]
    usd_per_hour: float | None = None,
    json: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    timeline: Path | None = None,
    start: Annotated[Path | None, Parameter(name="--from")] = None,
    export: Annotated[list[str] | None, Parameter(negative="")] = None,
) -> None:
    """Predict a training step: its time, where that goes, memory, and cost.

    Args:
        model: a published model's name, a config.json, a folder with one, or sizes, gpt:L=24,h=1024,a=16,vocab=50304;
            left out, that of --from.
        cluster: a cluster such as dgx-h100:64 or h100:512, or FILE.toml.
        framework: whose kernels, overlap and buffers: a name, or FILE.toml or FILE.toml:NAME; left out, that of --from,
            else megatron-core.
        usd_per_hour: rent of one node, in place of the catalogue's.
        json: print the figures as one JSON object in place of the text, or write them to a file beside it.
        timeline: write the pipeline's timeline as a page (.html), a picture (.png, .svg) or a trace (.json).
        start: a file of another framework to begin with: a torchtitan TOML or train_config.py, a DeepSpeed JSON, a
            script of Megatron-LM or Megatron-Bridge, or a job of penstock run; flags win.
        export: write the setup as torchtitan:DIR, or as megatron:FILE, bridge:FILE, deepspeed:FILE, accelerate:FILE,
            slurm:FILE, job:FILE.toml or schedule:FILE.csv, and on the standard error what these cannot say; may be
            repeated.
    """
    from penstock.cli.export import check_written, checked, write_exports
    from penstock.cli.json import json_file, write_facts
    from penstock.cli.predict_text import facts_of, print_prediction
    from penstock.core.files import writable

    json_file(json)
    targets = checked(export, [*(json or []), *([timeline] if timeline else [])])
    if timeline is not None:
        writable(timeline)
    asked = asked_for(model, cluster, framework, flags, usd_per_hour, start)
    found = asked.predicted()
    check_written(write_exports(targets, *asked))
    if timeline is not None:
        _show(found, timeline)
    facts = {
        "asked": {"model": model or asked.model.name, "cluster": cluster, "framework": asked.framework.name}
    } | facts_of(found, *asked[:3], asked.framework.name)
    write_facts(facts, json, lambda: print_prediction(found, facts, asked.setup))


def check_tokens(tokens: float | None) -> None:
    """Do nothing if a training may have so many tokens, or nobody said how many.

    Raises:
        ValueError: they are no number above 0.
    """
    if tokens is not None and not 0 < tokens < math.inf:
        raise ValueError(f"--tokens {tokens:g}: give how many are trained on, for example 15T")


class Asked(NamedTuple):
    """What is to be predicted."""

    model: Architecture
    cluster: Cluster
    setup: Setup
    framework: Stack

    def predicted(self) -> Prediction:
        """Return what one step takes."""
        from penstock.predict import predict

        return predict(*self)


def asked_for(
    model: str | None,
    cluster: str,
    framework: str | None,
    flags: Flags,  # type: ignore[valid-type]
    usd_per_hour: float | None = None,
    start: Path | None = None,
) -> Asked:
    """Return what flags ask for, over what the file ``start`` of another framework says.

    Raises:
        ValueError: a name is unknown, or a setup cannot be.
    """
    from penstock.cli.export import merged, read_setup
    from penstock.cli.machines import priced
    from penstock.core.cluster import Cluster
    from penstock.core.config.text import model_of
    from penstock.cost.stack_file import named
    from penstock.predict.kept_bytes import check_names
    from penstock.predict.micro import Rank
    from penstock.search.meshes import check_experts

    rented = priced(Cluster.read(cluster), usd_per_hour)
    read = None if start is None else read_setup(start, rented.devices)
    wanted = model or (read and read.model)
    if not wanted:
        raise ValueError(f"--model is missing{f', and {start} does not say which it is' if start else ''}; name one")
    architecture = model_of(wanted) if isinstance(wanted, str) else wanted
    software = named(framework or (read.framework if read else FRAMEWORK))
    given = {name: value for name, value in vars(flags).items() if value is not None}
    given = merged(read.fields, given) if read else given
    asked = Asked(architecture, rented, setup_of(software.usual | given, rented.devices), software)
    check_experts(architecture, {name: (value,) for name, value in vars(flags).items() if value is not None})
    check_names(Rank(*asked))
    return asked


def setup_of(given: dict[str, Any], devices: int) -> Setup:
    """Return the setup of the flags that were given, on so many devices.

    Raises:
        ValueError: a field is missing or wrong, or the split leaves devices without work.
    """
    missing = [name for name in ("seq", "batch") if name not in given]
    if missing:
        raise ValueError(f"--{missing[0]} is missing; say how many {_SAYS[missing[0]].split(',')[0].rstrip('.')}")
    given = {
        name: value.lower() if name in WORDS and isinstance(value, str) else value for name, value in given.items()
    }
    for name in ("stage_layers", "recompute_layers"):
        if isinstance(given.get(name), str):
            given[name] = whole_numbers(given[name], f"--{name.replace('_', '-')}")
    if isinstance(given.get("adapter_on"), str):
        given["adapter_on"] = _names(given["adapter_on"])
    if "," in given.get("recompute", ""):
        given["recompute"] = _names(given["recompute"])
    if isinstance(given.get("offload"), str):
        given["offload"] = _share_or_names(given["offload"])
    return filling(devices, **given)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _share_or_names(text: str) -> float | tuple[str, ...]:
    try:
        return float(text)
    except ValueError:
        return _names(text)


def _show(found: Prediction, path: Path) -> None:
    from penstock.api import show

    show(found.timeline, path)
