"""Arguments of a launch script: shell text without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping

from penstock.calibrate.megatron import Arguments

_SET = re.compile(r"^(?:export\s+)?([A-Za-z_]\w*)=(?!\()(.*)$", re.DOTALL)
_PLACE = re.compile(r"\$\{(\w+)(?::?[-=]([^{}$]*))?\}|\$(\w+)")
_SUM = re.compile(r"\$\(\(([^()]*)\)\)")
_NAME = re.compile(r"[A-Za-z_]\w*")
DEEP = 10
"""Variables that stand in one another, at most."""


def script_words(text: str) -> list[str]:
    """Return the words of a script (or a file with nothing else), of all its commands and arrays together.

    Values of variables, ``${X:-value}`` and sums and products of whole numbers are put in; what only running would
    tell, such as ``$1``, stays as it stands, and every branch counts.

    Raises:
        ValueError: a quotation does not end.

    >>> script_words('N=2\\nrun model.x=$N')[-1]
    'model.x=2'
    """
    known: dict[str, str] = {}
    words: list[str] = []
    for line in _statements(text.replace("\\\n", " ")):
        if found := _SET.match(line):
            known[found[1]] = " ".join(_words(_filled(found[2], known)))
        words += _words(_filled(line, known))
    return [part for word in words for part in _parts(word)]


def _statements(text: str) -> Iterator[str]:
    """Lines, joined where a quotation goes on."""
    whole = ""
    for line in text.splitlines():
        whole = f"{whole}\n{line}" if whole else line.strip()
        try:
            _words(whole)
        except ValueError:
            continue
        yield whole
        whole = ""
    if whole:
        _words(whole)


def _parts(word: str) -> list[str]:
    """A word, or the words of a quotation with arguments in it."""
    return _words(word) if "--" in word and len(word.split()) > 1 else [word]


def _filled(text: str, known: Mapping[str, str]) -> str:
    """The text with values in place of variables, as far as they are known."""
    for _ in range(DEEP):
        filled = _PLACE.sub(lambda found: known.get(found[1] or found[3], found[2] or found[0]), text)
        filled = _SUM.sub(lambda found: _result(_NAME.sub(_known(known), found[1]), found[0]), filled)
        if filled == text:
            break
        text = filled
    return text


def _known(known: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    """What puts the value of a variable in place of its name."""
    return lambda found: known.get(found[0], found[0])


def _result(sum_: str, otherwise: str) -> str:
    """A sum or difference of products and quotients of whole numbers."""
    plain = re.sub(r"\s", "", sum_)
    if not re.fullmatch(r"\d+([*/+-]\d+)*", plain):
        return otherwise
    try:
        return str(sum(int(f"{sign}1") * _product(term) for sign, term in re.findall(r"([+-]?)([^+-]+)", plain)))
    except ZeroDivisionError:
        return otherwise


def _product(term: str) -> int:
    """Whole numbers multiplied and divided, from left to right."""
    first, *rest = re.findall(r"[*/]?\d+", term)
    value = int(first)
    for part in rest:
        value = value * int(part[1:]) if part[0] == "*" else value // int(part[1:])
    return value


def _words(line: str) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars="();&|")
    reader.whitespace_split = True
    reader.commenters = "#"
    try:
        return list(reader)
    except ValueError as error:
        raise ValueError(f"{line[:60]}: {error}") from None


def arguments(words: Iterable[str]) -> Arguments:
    """Return names and the values that follow them, up to the next name; of one that is there twice the last counts.

    >>> arguments(script_words('TP=2\\nA=(--tensor-model-parallel-size $TP --bf16)'))
    {'tensor-model-parallel-size': '2', 'bf16': 'true'}
    """
    found, name = Arguments(), ""
    for word in words:
        if re.match(r"--[A-Za-z]", word):
            name, equals, value = word[2:].partition("=")
            name = name.replace("_", "-")
            found[name] = value if equals else "true"
        elif word and set(word) <= set("();&|"):
            name = ""
        elif name and word != "=" and "[@]" not in word and "[*]" not in word:
            found[name] = word if found[name] == "true" else f"{found[name]} {word}"
    return found
