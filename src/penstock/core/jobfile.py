"""Job files: TOML and flags to a ``RunSpec``, and a ``RunSpec`` back to TOML.

A job file has the key ``model`` and the tables ``[job]``, ``[strategy]`` and ``[run]``; every key is optional::

    model = "tiny-llama"

    [job]
    steps = 300

    [strategy]
    ranks = 2
    schedule = "zb-h1"

Paths in it are relative to the folder the command runs in, as those of flags are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from penstock.core.job import TABLES, Job, RunSettings, RunSpec, Setting, Strategy, settings
from penstock.core.tables import read_toml
from penstock.core.words import nearest, suggest


def read_job(path: Path) -> dict[str, object]:
    """Return the values that a job file gives, by the names of their settings (the tables are taken off).

    Raises:
        ValueError: no such file, not TOML, an unknown table or key, or a value of a wrong type.
    """
    values: dict[str, object] = {}
    for key, value in _read_toml(path).items():
        if key in TABLES and not isinstance(value, dict):
            raise ValueError(f"{path}: {key} = {value!r} must be a table; write [{key}] and its keys below")
        table, inner = (key, value) if key in TABLES and isinstance(value, dict) else ("", {key: value})
        where = f"{path}: [{table}] " if table else f"{path}: "
        values |= {name: _checked(where, _known(path, table, name, held), held) for name, held in inner.items()}
    return values


def make_spec(file: Path | None, flags: Mapping[str, object]) -> RunSpec:
    """Return the run that ``file`` and ``flags`` describe; flags win over the file, the file over the defaults.

    ``flags`` holds only what the user gave, by the names of ``settings()``.

    Raises:
        ValueError: see ``read_job``; or a value is out of its range, or two do not go together.

    >>> make_spec(None, {"ranks": 4, "steps": 10}).strategy.ranks
    4
    """
    known = settings()
    values = read_job(file) if file is not None else {}
    for name, value in flags.items():
        if name not in known:
            raise ValueError(f"--{_dashes(name)} is unknown; {suggest(name, known)}")
        values[name] = _checked("flag", known[name], value)
    tables: dict[str, dict[str, Any]] = {table: {} for table in ("", *TABLES)}
    for name, value in values.items():
        tables[known[name].table][name] = value
    return RunSpec(
        **tables[""],
        job=Job(**tables["job"]),
        strategy=Strategy(**tables["strategy"]),
        run=RunSettings(**tables["run"]),
    )


def spec_to_toml(spec: RunSpec) -> str:
    """Return ``spec`` as a job file with every setting and its help; ``make_spec`` reads the same spec from it.

    A setting that is ``None`` is left out, as TOML has no word for it.
    """
    lines = []
    for table, holder in (("", spec), *((table, getattr(spec, table)) for table in TABLES)):
        lines += ["", f"[{table}]"] if table else []
        rows = [setting for setting in settings().values() if setting.table == table]
        for setting in rows:
            value = getattr(holder, setting.name)
            if value is not None:
                lines.append(f"{setting.name} = {_toml(value)}  # {setting.help}")
    return "\n".join(lines) + "\n"


def _read_toml(path: Path) -> dict[str, object]:
    if not path.is_file():
        folder = path.parent
        alike = nearest(path.name, [found.name for found in sorted(folder.glob("*.toml"))])
        what = "is a folder, not a job file" if path.is_dir() else "does not exist"
        fix = f"did you mean {folder / alike}?" if alike else f"there is no job file like it in {folder.resolve()}"
        raise ValueError(f"job file {path} {what}; {fix}")
    return read_toml(path)


def _known(path: Path, table: str, name: str, value: object) -> Setting:
    """Return the setting of a key, or say where it belongs or what may have been meant."""
    known = settings()
    if name in known and known[name].table == table:
        return known[name]
    if isinstance(value, dict) and not table:
        raise ValueError(f"{path}: unknown table [{name}]; {suggest(name, TABLES)}")
    here = f"[{table}] has" if table else "the top has"
    if name in known:
        raise ValueError(f"{path}: {here} the key {name!r}, which belongs {_home(known[name])}")
    mine = [setting.name for setting in known.values() if setting.table == table]
    alike = nearest(name, mine) or nearest(name, known)
    fix = f"did you mean {alike!r} {_home(known[alike])}?" if alike and alike not in mine else suggest(name, mine)
    raise ValueError(f"{path}: {here} the unknown key {name!r}; {fix}")


def _home(setting: Setting) -> str:
    return f"in [{setting.table}]" if setting.table else "at the top, above every table"


_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text in quotes",
    tuple[int, ...] | None: "a list of whole numbers such as [2, 4]",
}


def _checked(where: str, setting: Setting, value: object) -> object:
    """Return ``value`` as the type of ``setting``; whole numbers count as floats, lists as tuples, nothing else."""
    from pydantic import ValidationError

    given = tuple(value) if isinstance(value, list) else value
    try:
        return _adapter(setting.type).validate_python(given, strict=True)
    except ValidationError:
        choices = get_args(setting.type) if get_origin(setting.type) is Literal else ()
        expected = f"one of {', '.join(choices)}" if choices else _EXPECTED[setting.type]
        alike = nearest(str(value), choices)
        fix = f"; did you mean {alike!r}?" if alike else ""
        name = f"--{_dashes(setting.name)} " if where == "flag" else f"{where}{setting.name} = "
        raise ValueError(f"{name}{value!r} must be {expected}{fix}") from None


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _dashes(name: str) -> str:
    return name.replace("_", "-")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
