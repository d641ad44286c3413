"""Typed access to the keys of a ``config.json``, and where to find one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from penstock.core.files import read_text
from penstock.core.words import divisors, nearest, suggest


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a config, with errors that name file, key and value.

    ``defaults`` are those of the family for keys that are missing.
    """

    config: Mapping[str, Any]
    source: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def find(self, *names: str) -> Any:
        """Return the value of the first of these keys that is given and not null, else the family's default, else
        ``None``."""
        for where in (self.config, self.defaults):
            for name in names:
                if where.get(name) is not None:
                    return where[name]
        return None

    def whole(self, *names: str, missing: int | None = None, least: int = 1) -> int:
        """Return a whole number from ``least`` up, under the first of ``names`` that is there; else ``missing``."""
        value = self.find(*names)
        return self._whole(self._given(names), missing if value is None else value, least)

    def truth(self, *names: str, missing: bool = False) -> bool:
        """Return true or false, under the first of ``names`` that is there; else ``missing``."""
        value = self.find(*names)
        return self._truth(self._given(names), missing if value is None else value)

    def size(self, key: str, missing: int | None = None, null: int | None = None) -> int:
        """Return a whole number above 0; ``missing`` and ``null`` stand for a key that is not there or is null."""
        value = self.config.get(key, missing)
        return self._whole(key, null if value is None else value, 1)

    def flag(self, key: str, missing: bool) -> bool:
        """Return true or false; null is neither."""
        return self._truth(key, self.config.get(key, missing))

    def multiple(self, key: str, value: int, of_key: str, of: int) -> None:
        """Check that ``value`` is a multiple of ``of``."""
        if value % of:
            raise ValueError(
                f"{self.source}: {of_key}={of} does not divide {key}={value}; use {divisors(value, near=of)}"
            )

    def _given(self, names: tuple[str, ...]) -> str:
        """The name under which a value was given, for an error."""
        return next((name for name in names if self.config.get(name) is not None), names[0])

    def _whole(self, key: str, value: Any, least: int) -> int:
        if value is None:
            alike = nearest(key, self.config)
            fix = f"it has {alike!r}, is that meant?" if alike else "give a whole number above 0"
            raise ValueError(f"{self.source} has no key {key!r}; {fix}")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{self.source}: {key}={value!r} must be a whole number above {least - 1}")
        return value

    def _truth(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{self.source}: {key}={value!r} must be true or false")
        return value


def shipped_models() -> tuple[str, ...]:
    """Return the names of the models that come with Penstock."""
    names = (entry.name for entry in _shelf().iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def _shelf() -> Traversable:
    return resources.files("penstock") / "data" / "models"


def locate(path_or_name: str, others: Iterable[str] = ()) -> tuple[str, Traversable]:
    """Return the model's name and the file that describes it; ``others`` are names that a user may have meant too."""
    shipped = shipped_models()
    if path_or_name in shipped:
        return path_or_name, _shelf() / f"{path_or_name}.json"
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"model={path_or_name!r} is a folder without config.json")
        return path.resolve().name, path / "config.json"
    if path.is_file():
        return path.resolve().parent.name if path.name == "config.json" else path.stem, path
    if path.name == path_or_name and path.suffix != ".json":
        raise ValueError(f"model={path_or_name!r} is unknown; {suggest(path_or_name, (*shipped, *others))}")
    alike = nearest(path.name, [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else [])
    fix = f"did you mean '{path.parent / alike}'?" if alike else f"shipped are {', '.join(shipped)}"
    raise ValueError(f"model={path_or_name!r} does not exist; {fix}")


def read_json(source: Traversable) -> Mapping[str, Any]:
    """Return the object that a JSON file holds."""
    try:
        config = json.loads(read_text(source))
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{source} holds a JSON {type(config).__name__}; a config.json is an object {{...}}")
    return config
