"""The noun ``Figure``: a number of a prediction, what it is the sum of, how it came about and with which constants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from penstock.core.words import nearest
from penstock.cost.origins import Constant

Unit = Literal["s", "bytes"]
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that can be opened.

    Args:
        name: among its neighbours.
        value: seconds of a step, or bytes of a device.
        parts: what it is the sum of; empty at the bottom.
        how: the formula, in words and numbers.
        facts: shapes, FLOPs, bytes, counts and rates behind it, by name, in SI units.
        constants: of the model that it was made with, itself, its parts aside.
    """

    name: str
    value: float
    unit: Unit
    parts: tuple[Figure, ...] = ()
    how: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[Constant, ...] = ()

    def walk(self, above: Path = ()) -> Iterator[tuple[Path, Figure]]:
        """Give it and all below it, each with the names that lead to it; its own name is not among them."""
        yield above, self
        for part in self.parts:
            yield from part.walk((*above, part.name))

    def find(self, words: str) -> list[tuple[Path, Figure]]:
        """Return the figures that these names lead to, the highest first in the tree where several could be meant.

        Args:
            words: names from the top down with ``/`` between them; those in the middle may be left out.

        Raises:
            ValueError: there is none; the nearest name is said.
        """
        wanted = [_plain(word) for word in words.split("/") if word.strip()]
        found = [(path, figure) for path, figure in self.walk() if _leads(path, wanted)]
        if not found:
            names = {part: None for path, _ in self.walk() for part in path}
            missing = next((word for word in wanted if word not in map(_plain, names)), "")
            near = nearest(missing, names) if missing else ""
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(part.name for part in self.parts)}"
            raise ValueError(f"{words!r} is no figure of {self.name}; {hint}")
        least = min(len(path) for path, _ in found)
        return [(path, figure) for path, figure in found if len(path) == least]

    def touched(self) -> dict[Constant, float]:
        """Return how much of the value each constant has a part in, the most first."""
        found: dict[Constant, float] = defaultdict(float)
        for value, constants in self._leaves(frozenset()):
            for constant in constants:
                found[constant] += abs(value)
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    def _leaves(self, above: frozenset[Constant]) -> Iterator[tuple[float, frozenset[Constant]]]:
        """Values at the bottom, with the constants of all that holds them."""
        own = above | set(self.constants)
        if not self.parts:
            yield self.value, own
        for part in self.parts:
            yield from part._leaves(own)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with what is empty left out."""
        found: dict[str, Any] = {"name": self.name, "value": self.value, "unit": self.unit}
        rest = {
            "how": self.how,
            "facts": dict(self.facts),
            "constants": [asdict(constant) for constant in self.constants],
            "parts": [part.to_dict() for part in self.parts],
        }
        return found | {name: value for name, value in rest.items() if value}


def total(name: str, unit: Unit, parts: Iterable[Figure], **rest: Any) -> Figure:
    """Return the sum of figures; those that are 0 are left out."""
    some = tuple(part for part in parts if part.value)
    return Figure(name=name, value=sum(part.value for part in some), unit=unit, parts=some, **rest)


def _leads(path: Path, wanted: list[str]) -> bool:
    """Whether the names are on the path in this order, the last at its end."""
    if not wanted or not path or _plain(path[-1]) != wanted[-1]:
        return False
    left = iter(map(_plain, path))
    return all(any(word == name for name in left) for word in wanted)


def _plain(word: str) -> str:
    return " ".join(word.lower().replace("_", " ").split())
