"""The README is true: its tree, its links, its pictures, its commands."""

from __future__ import annotations

import csv
import re
import shutil

import pytest
from blocks import ROOT, blocks
from refresh import tree, tree_block

README = ROOT / "README.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")
MOST_BYTES = 300_000


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs the repository")
def test_the_tree_is_that_of_the_files() -> None:
    assert tree_block().body == tree(), "run python docs/refresh.py"


def test_links_and_pictures_exist() -> None:
    for page in (README, *(ROOT / "docs").glob("*.md")):
        targets = [link.partition("#")[0] for link in LINK.findall(page.read_text())]
        for target in targets:
            if target and "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target} does not exist"


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < MOST_BYTES, picture.name


def test_commands_of_the_text_exist() -> None:
    text = README.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert re.search(f"^{target}:", makefile, re.MULTILINE), f"make {target}"
    from penstock.cli.main import app

    for command in re.findall(r"`penstock ([a-z]+)", text):
        assert command in app, f"penstock {command}"


def test_the_status_counts_what_there_is() -> None:
    from penstock.calibrate.shipped import runs_file
    from penstock.core.catalogue import catalogue
    from penstock.schedules.table import SCHEDULES

    text, known = README.read_text(), catalogue()
    assert f"{len(known.devices)} devices and {len(known.nodes)} kinds of nodes" in text
    assert f"{len(SCHEDULES)} schedules" in text
    with runs_file().open(newline="") as file:
        assert f"{sum(1 for _ in csv.DictReader(file)):,} published runs" in text


def test_the_output_of_make_run_has_its_place() -> None:
    section = README.read_text().partition("## What `make run` prints\n")[2].partition("\n## ")[0]
    assert any(block.body in section for block in blocks(README, "console"))
