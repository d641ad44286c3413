import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.units import human_bytes, human_s, parse_bytes, parse_count, parse_length


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("80GiB", 80 * 2**30),
        ("80GB", 80 * 10**9),
        ("1.5 MB", 1_500_000),
        (" 0.5 KiB ", 512),
        ("7", 7),
        ("12 B", 12),
        ("0.1GB", 100_000_000),
        (".5kB", 500),
        ("3.PiB", 3 * 2**50),
    ],
)
def test_text_becomes_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not an amount of bytes; write it like 80GiB"),
        ("-1 GB", "not an amount"),
        ("GiB", "not an amount"),
        ("1e3 GB", "not an amount"),
        ("80 Gb", "unknown unit 'Gb'; did you mean 80GB?"),
        ("80G", "did you mean 80GB?"),
        ("80 gib", "did you mean 80GiB?"),
        ("80 parsec", "use one of B, kB"),
    ],
)
def test_bad_amounts_name_the_fix(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1536, "1.5 KiB"), (80 * 2**30, "80 GiB"), (2**70, "1048576 PiB")],
)
def test_bytes_become_text(count: int, text: str) -> None:
    assert human_bytes(count) == text


@given(st.integers(min_value=0, max_value=2**60))
def test_text_of_bytes_is_within_one_percent(count: int) -> None:
    assert abs(parse_bytes(human_bytes(count)) - count) <= 0.01 * count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3e-9, "3 ns"),
        (2.5e-5, "25 us"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (-0.5, "-500 ms"),
    ],
)
def test_seconds_become_text(seconds: float, text: str) -> None:
    assert human_s(seconds) == text


@pytest.mark.parametrize("text", ["", "k", "8x", "nan", "inf", "8kk", "1..2", "1.5"])
def test_no_length_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(text)}.* is no "):
        parse_length(text)


@given(number=st.integers(1, 999), prefix=st.sampled_from(["", "k", "K", "M"]))
def test_lengths_are_powers_of_two_and_counts_of_ten(number: int, prefix: str) -> None:
    power = ["", "k", "m"].index(prefix.lower())
    assert parse_length(f"{number}{prefix}") == number * 1024**power
    assert parse_count(f"{number} {prefix}") == number * 1000**power
