"""What the pages have from the code can be made, and every part of it has its place."""

import re

import pytest
from blocks import ROOT
from generated import GENERATORS, MARK, generated

from penstock.core.op import NEEDS, Hop

MARKS = [mark for page in sorted((ROOT / "docs").glob("*.md")) for mark in MARK.findall(page.read_text())]


@pytest.mark.parametrize("mark", MARKS)
def test_marks_give_way_to_what_the_code_makes(mark: str) -> None:
    made = generated(mark)
    assert made.startswith(("|", "```", "#", "-", "Families", "Of ")), made[:80]
    for part in made.split("\n\n"):
        rows = [line for line in part.splitlines() if line.startswith("| ")]
        assert len({row.count("|") for row in rows}) <= 1


def test_every_part_has_its_place() -> None:
    assert sorted(mark for mark in MARKS if not mark.startswith("help")) == sorted(GENERATORS)


def test_rates_of_failures_are_those_of_one_device() -> None:
    made = generated("failure rates")
    assert f"| `llama-3-405b` | {16_384 * 54 * 24 / 419:,.0f} | 419 in 54 days on 16,384 h100-80gb-sxm | Llama" in made
    assert f"| `nebius` | {3000 * 56.6:,.0f} | every 56.6 hours on 3,000 devices | Nebius" in made


def test_kinds_say_where_what_they_need_is_made() -> None:
    assert {need.at for rule in NEEDS.values() for need in rule} == set(Hop)
    rows = dict(re.findall(r"^\| `(\w+)` \|.* \| (.*) \|$", generated("kinds"), re.MULTILINE))
    assert rows["RECV_F"] == "`SEND_F` of the stage before"
    assert rows["BCAST_H"] == "`F` of the last stage, if that is on its rank"
    assert rows["STEP"] == "every other op of every rank"
    first, earlier, weights, embedded = rows["F"].split("; ")
    assert first == "`F` of the stage before (through `RECV_F` if that is on another rank)"
    assert (earlier, weights) == ("`F` of the slice before", "the last `UNSHARD`, if there is one")
    assert embedded == "`REDUCE_E` of its rank, for the first stage, if there is one"
