"""Families of models: those of the catalogue whose names begin alike, and a GPT whose shape follows from its depth."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.core.architecture import Architecture
from penstock.core.config.described import known_name
from penstock.core.config.read import catalogue, read_architecture
from penstock.core.config.text import NUMBERS, model_of, sizes_of
from penstock.core.words import nearest

WIDTH = 128
"""Of a scaled GPT, per layer, and of a head: GPT-3's shape, 96 layers and heads of 128, 12,288 wide (Brown et al. 2020,
arXiv:2005.14165, table 2.1)."""
VOCABULARY = 51_200
"""Of a scaled GPT, unless it is given (Narayanan et al. 2021, arXiv:2104.04473, section 5)."""
DEPTHS = 8
"""Depths of a scaled GPT are multiples of it, so that its heads divide over the devices of most nodes."""
LEAST_BYTES = 2.0
"""Of a parameter, on all devices together: less than any training needs."""
_SIZE = re.compile(r"-a?\d+(\.\d+)?[mbt](-|$)")
"""A number of parameters in a name."""


def family(text: str, room_bytes: float, positions: int) -> list[Architecture]:
    """Return the models that text means, the largest first: ``members``, or all GPTs of ``scaled`` that devices with so
    much memory could hold at best, with so many positions.

    Raises:
        ValueError: there are none.
    """
    if not text.lower().startswith(NUMBERS):
        return members(text)
    if not is_scaled(text):
        raise ValueError(f"model={text!r} is one size; leave layers out, they are what is looked for")
    found = [*scaled(text, room_bytes / LEAST_BYTES, positions)]
    if not found:
        raise ValueError(
            f"model={text!r}: even {DEPTHS} layers have more parameters than the devices hold; give smaller sizes"
        )
    return found


def members(text: str) -> list[Architecture]:
    """Return the models of the catalogue whose names begin with a text, or with that of a model up to its number of
    parameters; the largest first.

    Raises:
        ValueError: there are none.

    >>> [one.name for one in members("llama-2")] == [one.name for one in members("Llama-2-7B")]
    True
    """
    start = _SIZE.split(known_name(text) or text.lower())[0].rstrip("-.")
    names = [name for name in catalogue() if name == start or name.startswith((f"{start}-", f"{start}."))]
    names = names or [name for name in catalogue() if name.startswith(start)]
    if not names:
        near = nearest(text, catalogue())
        fix = f"did you mean {near!r}?" if near else "write how names of a family begin, such as llama-3, or gpt:"
        raise ValueError(f"model={text!r} begins no name of the catalogue; {fix}")
    return sorted((read_architecture(name) for name in names), key=lambda one: (-one.parameters, one.name))


def is_scaled(text: str) -> bool:
    """Return whether text names a GPT without its depth, whose shape follows from it.

    >>> is_scaled("gpt:"), is_scaled("gpt:L=24,h=1024,a=16,vocab=50304"), is_scaled("gpt2")
    (True, False, False)
    """
    return text.lower().startswith(NUMBERS) and "layers" not in sizes_of(text)


def scaled(text: str, most_parameters: float, positions: int) -> Iterator[Architecture]:
    """Give GPTs of ever fewer layers: ``WIDTH`` wide per layer, with heads as wide, but for what the text gives.

    Args:
        text: ``gpt:`` and sizes, all but ``layers``.
        most_parameters: that the first has at most.
        positions: tokens of a sequence.

    >>> next(scaled("gpt:", 175e9, 2048)).name
    'gpt:L=88,h=11264,a=88,vocab=51200,positions=2048'
    """
    given = sizes_of(text)
    depth = 0
    while _of_depth(given, depth + DEPTHS, positions).parameters <= most_parameters:
        depth += DEPTHS
    for layers in range(depth, 0, -DEPTHS):
        yield _of_depth(given, layers, positions)


def _of_depth(given: dict[str, int | bool], layers: int, positions: int) -> Architecture:
    hidden = given.get("hidden", WIDTH * layers)
    usual = {"L": layers, "h": hidden, "a": max(1, hidden // WIDTH), "vocab": VOCABULARY, "positions": positions}
    short = {"hidden": "h", "heads": "a"}
    sizes = usual | {short.get(name, name): int(size) for name, size in given.items()}
    return model_of(NUMBERS + ",".join(f"{name}={size}" for name, size in sizes.items()))
