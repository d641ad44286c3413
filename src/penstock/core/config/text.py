"""Models as a flag names them: a config, a published model, or numbers."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.config.described import known_name
from penstock.core.config.numbers import gpt
from penstock.core.config.read import read_architecture
from penstock.core.words import suggest, yes_or_no

NUMBERS = "gpt:"
_SHORT = {"L": "layers", "h": "hidden", "a": "heads", "v": "vocab", "kv": "kv_heads"}


def model_of(text: str) -> Architecture:
    """Return the model of a ``config.json`` or a folder with one, of a published model's name however it is written, or
    of ``gpt:`` and sizes.

    Sizes are the arguments of ``gpt``; L, h, a, v and kv stand for layers, hidden, heads, vocab and kv_heads.

    Raises:
        ValueError: no such file or model, or sizes that are wrong.

    >>> model_of("gpt:L=96,h=12288,a=96,vocab=51200").parameters // 10**9, model_of("Meta-Llama-3-8B").name
    (175, 'llama-3-8b')
    """
    if text.lower().startswith(NUMBERS):
        return _of_numbers(text)
    try:
        return read_architecture(text)
    except ValueError:
        known = None if "/" in text and text.endswith(".json") else known_name(text)
        if known is None:
            raise
        return read_architecture(known)


def sizes_of(text: str) -> dict[str, int | bool]:
    """Return the sizes behind ``gpt:``, by the names of the arguments of ``gpt``.

    Raises:
        ValueError: a size that there is not, or a value that it cannot have.

    >>> sizes_of("gpt:h=1024,kv=8,gated=yes")
    {'hidden': 1024, 'kv_heads': 8, 'gated': True}
    """
    types, sizes = _sizes(), dict[str, int | bool]()
    for part in filter(None, text[len(NUMBERS) :].split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        key = _SHORT.get(name, name)
        if not equals or key not in types:
            raise ValueError(f"model={text!r}: {part!r} is no size of a GPT; {suggest(name, [*_SHORT, *types])}")
        sizes[key] = _value(value, types[key], f"model={text!r}: {part!r}")
    return sizes


def _of_numbers(text: str) -> Architecture:
    sizes: dict[str, Any] = sizes_of(text)
    if missing := [name for name in ("layers", "hidden", "heads", "vocab") if name not in sizes]:
        raise ValueError(f"model={text!r} lacks {', '.join(missing)}; write gpt:L=24,h=1024,a=16,vocab=50304")
    return gpt(**sizes, name=text)


def _value(value: str, kind: str, what: str) -> int | bool:
    if "bool" in kind:
        return yes_or_no(value, what)
    if not value.isdecimal():
        raise ValueError(f"{what} is no whole number")
    return int(value)


@cache
def _sizes() -> dict[str, str]:
    """Types of the arguments of ``gpt`` but for its name."""
    arguments = inspect.signature(gpt).parameters.values()
    return {each.name: str(each.annotation) for each in arguments if each.name != "name"}
