"""Tables of TOML as frozen dataclasses: keys are the names of fields, and errors name file, table, key and value."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from penstock.core.files import read_text
from penstock.core.words import nearest, suggest
from penstock.units import parse_bytes

T = TypeVar("T")
Table = Mapping[str, Any]


def read_toml(file: Path | Traversable) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ValueError: no such file (the nearest name is given), not TOML, or not UTF-8.
    """
    try:
        return tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {error}") from None
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{file} {_missing(Path(str(file)))}") from None


def made(kind: type[T], where: str, table: Table) -> T:
    """Return the ``kind`` whose fields are the keys of ``table``; ``where`` is what errors call it.

    Fields that end in ``_bytes`` may be text such as ``"80 GiB"``; whole numbers count as floats, lists as tuples.

    Raises:
        ValueError: no table, an unknown key, a missing one, a value of a wrong type, or what ``kind`` itself refuses.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Disk:
    ...     room_bytes: int
    >>> made(Disk, "my disk", {"room_bytes": "1 kB"}).room_bytes
    1000
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    check_keys(where, table, fields)
    bare = [name for name, field in fields.items() if _needed(field) and name not in table]
    if bare:
        raise ValueError(f"{where} lacks {', '.join(bare)}; a table may take what it lacks from another: like = NAME")
    values = {key: _checked(kind, where, key, value) for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_keys(where: str, table: object, keys: Iterable[str]) -> None:
    """Check that ``table`` is one, with no other keys than these; ``where`` is what errors call it.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} is {table!r}; it must be a table of {', '.join(keys)}")
    for key in table:
        if key not in keys:
            raise ValueError(f"{where} has the unknown key {key!r}; {suggest(key, keys)}")


def merged(name: str, tables: Mapping[str, Table], own: frozenset[str], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the table ``name`` over the one that its key ``like`` names; the keys in ``own`` are never taken over.

    Raises:
        ValueError: ``like`` names no table, or a table is like itself.
    """
    if name in seen:
        raise ValueError(f"{name} is like itself: {' -> '.join((*seen, name))}")
    table = dict(tables[name])
    base = table.pop("like", None)
    if base is None:
        return table
    under = merged(_meant(name, str(base), tables), tables, own, (*seen, name))
    return {key: value for key, value in under.items() if key not in own} | table


def _meant(name: str, base: str, tables: Mapping[str, Table]) -> str:
    """Return the table that ``base`` names, by its name or one of its aliases."""
    if base in tables:
        return base
    named = [(other, table.get("aliases")) for other, table in tables.items()]
    aliases = {alias: other for other, names in named if isinstance(names, list) for alias in names}
    if base not in aliases:
        near = nearest(base, [*aliases, *tables])
        fix = f"did you mean {near!r}?" if near else "give the name of another table"
        raise ValueError(f"{name}: like={base!r} is unknown; {fix}")
    return aliases[base]


def check_positive(facts: object, *names: str) -> None:
    """Check that numbers of a dataclass are above 0; ``None`` passes.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(facts, name)
        for key, number in value.items() if isinstance(value, Mapping) else ((name, value),):
            if number is not None and not 0 < number < float("inf"):
                raise ValueError(f"{key}={number} must be a number above 0")


def check_fields(facts: Any, name: str) -> None:
    """Check that the keys of a mapping in a dataclass are fields of it.

    Raises:
        ValueError: one is not.
    """
    fields = [field.name for field in dataclasses.fields(facts)]
    for key in getattr(facts, name):
        if key not in fields:
            raise ValueError(f"{name} has the unknown field {key!r}; {suggest(key, fields)}")


def _needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _checked(kind: type, where: str, key: str, value: object) -> object:
    from pydantic import ValidationError

    if key.endswith("_bytes") and isinstance(value, str):
        try:
            return parse_bytes(value)
        except ValueError as error:
            raise ValueError(f"{where}: {key}: {error}") from None
    try:
        return _adapters(kind)[key].validate_python(_tuples(value), strict=True)
    except ValidationError as error:
        raise ValueError(f"{where}: {key}={value!r}: {error.errors()[0]['msg']}") from None


@lru_cache
def _adapters(kind: type) -> dict[str, Any]:
    from pydantic import TypeAdapter

    return {name: TypeAdapter(hint) for name, hint in get_type_hints(kind).items()}


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _missing(path: Path) -> str:
    if path.is_dir():
        return "is a folder; give a TOML file"
    alike = nearest(path.name, [found.name for found in path.parent.glob("*.toml")])
    fix = f"did you mean {path.parent / alike}?" if alike else "check the path"
    return f"does not exist; {fix}"
