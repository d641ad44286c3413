"""Prefixes of units: ``"80GiB"`` to bytes, and bytes or seconds to text. Nothing else in Penstock knows prefixes."""

from __future__ import annotations

import re
from fractions import Fraction

HOUR_S, DAY_S = 3600.0, 86_400.0
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
}
_SECONDS = {"s": 1.0, "min": 60.0, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}
_COUNTS = {"": 1, "k": 1000, "m": 1000**2, "b": 1000**3, "g": 1000**3, "t": 1000**4}
_LENGTHS = {"": 1, "k": 1024, "m": 1024**2}
_BITS = re.compile(r"\s*([\d.]+\s*[kKMGTP])b(?:its?)?\s*", re.ASCII)
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_bytes(text: str) -> int:
    """Return the bytes that ``text`` names, rounded to a whole byte.

    Without a unit the number counts bytes. ``GB`` is 10**9 and ``GiB`` 2**30; upper and lower case matter, since
    ``Gb`` would be bits.

    Raises:
        ValueError: no number, a negative one, or an unknown unit.

    >>> parse_bytes("80GiB")
    85899345920
    >>> parse_bytes("1.5 MB")
    1500000
    """
    found = _AMOUNT.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not an amount of bytes; write it like 80GiB or 1.5 MB")
    number, unit = found.groups()
    if (unit or "B") not in _BYTES:
        meant = [known for known in _BYTES if known.lower() in (unit.lower(), f"{unit.lower()}b")]
        fix = f"did you mean {number}{meant[-1]}?" if meant else f"use one of {', '.join(_BYTES)}"
        raise ValueError(f"{text!r} has the unknown unit {unit!r}; {fix}")
    return round(Fraction(number) * _BYTES[unit or "B"])


def parse_count(text: str) -> float:
    """Return the number that ``text`` names, with ``k``, ``M``, ``B`` (or ``G``) or ``T`` behind it or none.

    Raises:
        ValueError: no number, or an unknown prefix.

    >>> parse_count("15T"), parse_count("300B"), parse_count("2e9")
    (15000000000000.0, 300000000000.0, 2000000000.0)
    """
    return _scaled(text, _COUNTS, "15T, 300B or 1.5e12")


def parse_length(text: str) -> int:
    """Return the tokens of a sequence that ``text`` names: in its lengths ``k`` is 1,024 and ``M`` 1,024 of these.

    Raises:
        ValueError: no whole number, or an unknown prefix.

    >>> parse_length("8192"), parse_length("8k"), parse_length("1M")
    (8192, 8192, 1048576)
    """
    length = _scaled(text, _LENGTHS, "8192, 8k or 1M")
    if not length.is_integer():
        raise ValueError(f"{text} is no whole number")
    return int(length)


def _scaled(text: str, scales: dict[str, int], example: str) -> float:
    number, prefix = text.strip(), ""
    if number[-1:].isalpha():
        number, prefix = number[:-1].rstrip(), number[-1].lower()
    try:
        return float(number) * scales[prefix]
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is no number; write it like {example}") from None


def parse_s(text: str) -> float:
    """Return the seconds that ``text`` names: a number and ``s``, ``min``, ``h``, ``d`` (days) or ``w`` (weeks).

    Raises:
        ValueError: no positive number, or no unit.

    >>> parse_s("30d"), parse_s("1.5 h")
    (2592000.0, 5400.0)
    """
    found = _AMOUNT.fullmatch(text)
    if not found or found[2] not in _SECONDS or float(found[1]) == 0:
        raise ValueError(f"{text!r} is no time above 0; write it like 30d, 12h or 90min ({', '.join(_SECONDS)})")
    return float(found[1]) * _SECONDS[found[2]]


def parse_rate(text: str) -> float:
    """Return the bytes per second that ``text`` names: of bytes as ``parse_bytes`` reads them, or of bits.

    Raises:
        ValueError: no rate, or an unknown unit.

    >>> parse_rate("10Gb/s"), parse_rate("100 Mbit/s"), parse_rate("25GB/s")
    (1250000000.0, 12500000.0, 25000000000.0)
    """
    amount, slash, second = text.strip().rpartition("/")
    bits = _BITS.fullmatch(amount)
    if not slash or second != "s":
        raise ValueError(f"{text!r} is no rate; write it like 10Gb/s (bits) or 1.25GB/s (bytes)")
    return parse_bytes(f"{bits[1]}B") / 8 if bits else float(parse_bytes(amount))


def human_rate(bytes_per_s: float) -> str:
    """Return a rate as text in bits, as networks are named, with three figures.

    >>> human_rate(1.25e9), human_rate(40e6 / 8)
    ('10 Gb/s', '40 Mb/s')
    """
    bits, unit = 8 * bytes_per_s, "b/s"
    for larger in ("kb/s", "Mb/s", "Gb/s", "Tb/s"):
        if bits < 999.5:
            break
        bits, unit = bits / 1000, larger
    return f"{_three_figures(bits)} {unit}"


def human_bytes(count: float) -> str:
    """Return ``count`` bytes as text with a binary prefix and three figures.

    >>> human_bytes(85899345920), human_bytes(1500), human_bytes(12)
    ('80 GiB', '1.46 KiB', '12 B')
    """
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(size) < 999.5:
            break
        size, unit = size / 1024, larger
    return f"{_three_figures(size)} {unit}"


def human_si(size: float, figures: int = 3) -> str:
    """Return a number as text with a decimal prefix, behind which its unit can stand.

    >>> human_si(989.4e12), human_si(989.4e12, figures=4), human_si(12)
    ('989 T', '989.4 T', '12 ')
    """
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= scale:
            return f"{size / scale:,.{figures}g} {prefix}"
    return f"{size:,.{figures}g} "


def human_s(seconds: float) -> str:
    """Return ``seconds`` as text: two units above a minute, three figures and a prefix below.

    >>> human_s(0.0123), human_s(1.5), human_s(125), human_s(7380)
    ('12.3 ms', '1.5 s', '2 min 05 s', '2 h 03 min')
    """
    size = abs(seconds)
    sign = "-" if seconds < 0 else ""
    if size >= 3599.5:
        minutes = round(size / 60)
        return f"{sign}{minutes // 60} h {minutes % 60:02d} min"
    if size >= 59.95:
        whole = round(size)
        return f"{sign}{whole // 60} min {whole % 60:02d} s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if size >= 0.9995 * scale or size == 0:
            return f"{sign}{_three_figures(size / scale)} {unit}"
    return f"{sign}{_three_figures(size / 1e-9)} ns"


def _three_figures(size: float) -> str:
    places = 0 if abs(size) >= 99.95 else 1 if abs(size) >= 9.995 else 2
    text = f"{size:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
