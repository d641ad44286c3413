"""The command line: one sub-command per verb. Errors that users can cause are one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, Parameter, Token, convert

from penstock.cli.check import check
from penstock.cli.explain import explain
from penstock.cli.goodput import goodput
from penstock.cli.machines import machines
from penstock.cli.peers import peers
from penstock.cli.plan import plan
from penstock.cli.predict import predict
from penstock.cli.schedule import schedule, simulate
from penstock.cli.solve import solve
from penstock.cli.validate import validate

USER_ERROR = 2
BROKEN_PIPE = 141


def _version() -> str:
    from importlib.metadata import version

    return version("penstock")


def _converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """What words of a flag mean; ``cyclopts`` alone rounds 4.5 to a whole number.

    Raises:
        ValueError: it has a point and should be whole.
    """
    found = convert(kind, tokens)
    if type(found) is int and "." in tokens[0].value:
        raise ValueError(f"{tokens[0].value} is no whole number")
    return found


app = App(
    name="penstock",
    help="Plan, simulate, draw and run pipeline-parallel training of large language models.",
    version=_version,
    default_parameter=Parameter(converter=_converted),
)
app.command("penstock.cli.run:run", help="Train a model through a pipeline, and compare the run with its prediction.")
app.command("penstock.cli.calibrate:calibrate", help="Measure this machine, and write a cluster file from it.")
app.command(schedule)
app.command(simulate)
app.command(check)
app.command(solve)
app.command(peers)
app.command(machines)
app.command(plan)
app.command(predict)
app.command(explain)
app.command(goodput)
app.command(validate)


def main(tokens: list[str] | None = None) -> None:
    """Run one command.

    What users can cause (``ValueError``, ``OSError``, a wrong option) ends with one line on stderr and exit code 2;
    any other exception keeps its traceback.
    """
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        _leave(BROKEN_PIPE)
    except (CycloptsError, ValueError, OSError) as error:
        print(f"penstock: {_one_line(error)}", file=sys.stderr)
        _leave(USER_ERROR)


def _leave(code: int) -> NoReturn:
    """Exit without a second complaint about a standard output that cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
