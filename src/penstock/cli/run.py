"""The command ``penstock run``; its flags are the fields of the job."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Union, get_args, get_origin

from cyclopts import Parameter

from penstock.core.job import Setting, settings
from penstock.core.words import whole_numbers


def _flag(setting: Setting) -> tuple[str, Any, None]:
    """A field for a flag that is None unless the user gives it."""
    kind, default = setting.type, setting.default
    shown = "" if default is None or default == "" else f" [default: {default}]"
    if get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind)):
        kind, shown = str, " (numbers with commas)"
    return setting.name, Annotated[Union[kind, NoneType], Parameter(help=setting.help + shown)], None  # noqa: UP007


Flags = dataclasses.make_dataclass(
    "Flags", map(_flag, settings().values()), kw_only=True, namespace={"__module__": __name__}
)
"""Every setting of a run, None where the user gave no flag."""
NO_FLAGS = Flags()


def run(
    job: Path | None = None,
    /,
    *,
    json: Path | None = None,
    flags: Annotated[Flags, Parameter(name="*")] = NO_FLAGS,  # type: ignore[valid-type]
) -> None:
    """Train a model through a pipeline, and compare the run with its prediction.

    With no arguments: a small Llama learns the text of Python's standard library on two processes.

    Args:
        job: a job file (TOML); flags win over it.
        json: write the figures of the run as one JSON object.
    """
    from penstock.core.files import writable, write_whole
    from penstock.runtime.run import RunError, run, spec_of

    if json is not None:
        writable(json)
    given = {name: value for name, value in dataclasses.asdict(flags).items() if value is not None}
    if "stage_layers" in given:
        given["stage_layers"] = whole_numbers(given["stage_layers"], "--stage-layers")
    spec = spec_of(job, given)
    try:
        result = run(spec)
    except RunError as failed:
        sys.exit(failed.code)
    if json is not None and result:
        import json as json_format

        write_whole(json, json_format.dumps(result, indent=1) + "\n")
