"""The command ``penstock explain``: any figure of a prediction, opened to operators, formulas, constants, sources."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.cli.json import json_file
from penstock.cli.predict import NO_FLAGS, Asked, Flags, asked_for
from penstock.core.setup import FRAMEWORK

if TYPE_CHECKING:
    from penstock.predict.explain import Explanation
    from penstock.predict.figure import Figure


def explain(
    file: Path | None = None,
    /,
    *,
    model: str | None = None,
    cluster: str | None = None,
    framework: str | None = None,
    flags: Annotated[Flags, Parameter(name="*")] = NO_FLAGS,  # type: ignore[valid-type]
    what: str | None = None,
    memory: Annotated[bool, Parameter(negative="")] = False,
    rank: int | None = None,
    json: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    roofline: Path | None = None,
) -> None:
    """Open any figure of a prediction: which operators, formulas, constants and sources it comes from.

    Args:
        file: what penstock predict --json wrote, in place of a model, a cluster and the flags of a setup.
        model: as for penstock predict.
        cluster: as for penstock predict.
        framework: as for penstock predict.
        what: a figure to open to the bottom, for example blocks/attention.out; names in between may be left out.
        memory: open gigabytes in place of seconds.
        rank: the pipeline rank whose memory is opened; left out, the fullest.
        json: print all figures, or the one opened, as JSON in place of the text, or write them to a file beside it.
        roofline: write a picture (.png, .svg) of operators under the device's rates.
    """
    from penstock.cli import explain_text as text
    from penstock.core.files import writable, write_whole
    from penstock.predict.explain import explain
    from penstock.view import roofline as picture

    out = json_file(json)
    if roofline is not None:
        writable(roofline)
    asked = _asked(file, model, cluster, framework, flags)
    found = explain(*asked)
    at = _rank(rank, found)
    opened = _opened(found, what, memory, at)
    if roofline is not None:
        picture.save(found.roofline, roofline, _title(asked))
    facts = json_format.dumps(_facts(found, opened), indent=1) if json is not None else ""
    if out is not None:
        write_whole(out, facts + "\n")
    if json == []:
        print(facts)
    elif opened is not None:
        text.print_opened(opened, found)
    elif memory:
        text.print_memory(found, at)
    else:
        text.print_time(found.time)


def _asked(
    file: Path | None,
    model: str | None,
    cluster: str | None,
    framework: str | None,
    flags: Flags,  # type: ignore[valid-type]
) -> Asked:
    """What a file or the flags ask for."""
    given = [name for name, value in {"model": model, "cluster": cluster, "framework": framework, **vars(flags)}.items()
             if value is not None]  # fmt: skip
    if file is not None:
        if given:
            raise ValueError(f"{file} says what was asked; leave out --{given[0].replace('_', '-')}, or the file")
        return read_asked(file)
    for name, value in {"model": model, "cluster": cluster}.items():
        if value is None:
            raise ValueError(f"--{name} is missing; give it, or a file that penstock predict --json wrote")
    return asked_for(str(model), str(cluster), framework or FRAMEWORK, flags)


def read_asked(file: Path) -> Asked:
    """Return what a prediction was asked for, from the file that ``penstock predict --json`` wrote.

    Raises:
        ValueError: it is no such file.
    """
    from penstock.core.cluster import Cluster
    from penstock.core.config.text import model_of
    from penstock.core.setup import Setup
    from penstock.cost.stack_file import named

    try:
        facts = json_format.loads(file.read_text())
        asked, setup = facts["asked"], facts["setup"]
        split: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in setup.items()
        }
        machines, framework = Cluster.read(asked["cluster"]), named(asked["framework"])
        return Asked(model_of(asked["model"]), machines, Setup(**split), framework)
    except (KeyError, TypeError, json_format.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{file} is not what penstock predict --json FILE writes") from None


def _rank(rank: int | None, found: Explanation) -> int:
    """The pipeline rank that was asked for, or the fullest."""
    ranks = len(found.memory)
    if rank is None:
        return max(range(ranks), key=lambda r: found.memory[r].value)
    if not 0 <= rank < ranks:
        raise ValueError(f"--rank {rank}: the pipeline has the ranks 0 to {ranks - 1}")
    return rank


Opening = list[tuple[tuple[str, ...], "Figure"]]


def _opened(found: Explanation, what: str | None, memory: bool, rank: int) -> Opening | None:
    """The figures that ``--what`` names, of seconds unless only memory has them."""
    if what is None:
        return None
    if memory:
        return found.memory[rank].find(what)
    try:
        return found.time.find(what)
    except ValueError as missing:
        try:
            return found.memory[rank].find(what)
        except ValueError:
            raise missing from None


def _facts(found: Explanation, opened: Opening | None) -> dict[str, Any]:
    if opened is not None:
        return {"figures": [{"path": "/".join(path)} | figure.to_dict() for path, figure in opened]}
    guessed = {constant.name: value for constant, value in found.time.touched().items() if constant.guessed}
    trees = {"time": found.time.to_dict(), "memory": [figure.to_dict() for figure in found.memory]}
    return trees | {"guessed_s": guessed}


def _title(asked: Asked) -> str:
    setup = asked.setup
    split = " ".join(
        f"{name}={getattr(setup, name)}" for name in ("tp", "cp", "pp", "dp", "ep") if getattr(setup, name) > 1
    )
    return f"{asked.model.name} on {asked.cluster.device.name}, {asked.framework.name}, {split}".rstrip(", ")
