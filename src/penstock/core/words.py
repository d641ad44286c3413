"""Words that users write for yes and no, and those of error messages: the nearest name, choices, and divisors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from math import isqrt

_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def yes_or_no(text: str, what: str) -> bool:
    """Return what a word for yes or no means, in upper or lower case; ``what`` names it in an error.

    Raises:
        ValueError: it is no such word.

    >>> yes_or_no("Yes", "sp=Yes"), yes_or_no("0", "sp=0")
    (True, False)
    """
    if text.lower() not in _YES:
        raise ValueError(f"{what} says neither yes nor no; use 1 or 0")
    return _YES[text.lower()]


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the choice most like ``word``, or ``""`` when none is alike.

    Case and the difference between ``-`` and ``_`` do not count.

    >>> nearest("micro-batchs", ["micro_batches", "model"])
    'micro_batches'
    """
    plain = {_plain(choice): choice for choice in choices}
    found = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=0.5)
    return plain[found[0]] if found else ""


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return the end of an error line: the nearest choice, or all of them when none is alike.

    >>> suggest("qwen4", ["llama", "qwen3"])
    "did you mean 'qwen3'?"
    >>> suggest("xyz", ["llama", "qwen3"])
    'choose from llama, qwen3'
    """
    names = list(choices)
    found = nearest(word, names)
    if found:
        return f"did you mean {found!r}?"
    return f"choose from {', '.join(names)}" if names else "there is none to choose from"


def all_divisors(number: int) -> list[int]:
    """Return the divisors of ``number`` from the smallest on; none if it is below 1.

    >>> all_divisors(6)
    [1, 2, 3, 6]
    """
    small = [d for d in range(1, isqrt(max(0, number)) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def divisors(number: int, near: int | None = None, most: int = 4) -> str:
    """Return the divisors of ``number`` as text; at most ``most`` of them, those closest to ``near``.

    >>> divisors(6)
    '1, 2, 3, 6'
    >>> divisors(96, near=10)
    '4, 6, 8, 12'
    """
    found = all_divisors(number)
    if near is not None:
        found = sorted(sorted(found, key=lambda d: abs(d - near))[:most])
    return ", ".join(map(str, found))


def whole_numbers(text: str, what: str) -> tuple[int, ...]:
    """Return whole numbers with commas between them; ``what`` names them in an error.

    Raises:
        ValueError: something is none.

    >>> whole_numbers("2,3,1", "--stage-layers")
    (2, 3, 1)
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"{what} {text}: write whole numbers with commas, for example 2,3,1") from None


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def spans_of(text: str, least: int = 1) -> list[tuple[int, int]] | None:
    """Return the ends of each span of whole numbers from ``least`` that a text names; ``None`` if it names something
    else.

    >>> spans_of("8..64"), spans_of("8/16..18"), spans_of("8..x")
    ([(8, 64)], [(8, 8), (16, 18)], None)
    """
    ends = [word.partition("..") for word in text.split("/")]
    pairs = [(low, high if dots else low) for low, dots, high in ends]
    if not all(end.strip().isdecimal() and int(end) >= least for pair in pairs for end in pair):
        return None
    return [(int(low), int(high)) for low, high in pairs]
