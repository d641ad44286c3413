"""What README.md and the pages show is what the program does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import COLUMNS, NOT_RUN, ROOT, SLOW, Block, blocks, commands, pages, run, run_python, same, shown_below
from refresh import constants_page, workplace

import penstock
from penstock.core.jobfile import make_spec

FIX = "if that is meant: python docs/refresh.py [--slow]"
CONSOLE = [block for page in pages() for block in blocks(page, "console")]
PYTHON_PAGES = [page for page in pages() if blocks(page, "python")]
LAUNCHERS = {"torchrun": "-m"}
"""Commands that start Penstock, and the option that names it."""


def parse_error(words: list[str]) -> str:
    """What the command line says to flags that it does not know; empty if it knows them."""
    from cyclopts import CycloptsError

    from penstock.cli.main import app

    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return f"penstock: {' '.join(str(error).split())}"
    return ""


def name(value: Block | Path) -> str:
    return value.name if isinstance(value, Block) else value.stem


@pytest.mark.parametrize("block", CONSOLE, ids=name)
def test_commands_are_understood(block: Block) -> None:
    for command in commands(block):
        words = command.words
        if words[0] in LAUNCHERS:
            words = words[words.index(LAUNCHERS[words[0]]) + 1 :]
        if words[0] == "penstock":
            assert parse_error(words[1:]) in command.output, command.line
        elif words[0] == "make":
            makefile = (ROOT / "Makefile").read_text()
            assert all(re.search(f"^{target}:", makefile, re.MULTILINE) for target in words[1:]), command.line
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), command.line
        else:
            assert words[0] in ("penstock", "source", "git", "cd"), command.line


@pytest.mark.parametrize("page", [p for p in pages() if any(b.page == p and b.mark == "" for b in CONSOLE)], ids=name)
def test_outputs_are_those_shown(page: Path) -> None:
    with workplace() as folder:
        run_python(page)  # commands may read files that the page's Python writes
        for block in blocks(page, "console"):
            for command in commands(block) if block.mark == "" else []:
                got = run(command, folder)
                assert same(command.output, got), f"$ {command.line}\n{got}\n{FIX}"


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_python_prints_what_is_shown(page: Path) -> None:
    with workplace():
        for block, got in run_python(page):
            assert same(shown_below(block).body, got), f"{block.body}\n{got}\n{FIX}"


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in CONSOLE if block.mark == SLOW], ids=name)
def test_slow_commands_and_the_files_they_leave(block: Block) -> None:
    described = (ROOT / "docs" / "results.md").read_text()
    with workplace() as folder:
        for command in commands(block):
            got = run(command, folder)
            assert same(command.output, got, slow=True), f"$ {command.line}\n{got}\n{FIX}"
        for path in folder.glob("*/result.json"):
            names = [entry.name for entry in path.parent.iterdir()]
            names += re.findall(r'"(\w+)":', path.read_text() + (path.parent / "metrics.jsonl").read_text())
            missing = {each for each in names if f"`{each}" not in described}
            assert not missing, f"docs/results.md does not describe {missing}"


def test_the_page_of_constants_holds_them() -> None:
    assert (ROOT / "docs" / "constants.md").read_text() == constants_page(), FIX


def test_marks_are_known() -> None:
    found = {block.mark for page in pages() for block in blocks(page)}
    assert found <= {"", NOT_RUN, SLOW}


@pytest.mark.parametrize(
    ("page", "language", "example"),
    [
        ("own_schedule", "python", "my_own_schedule.py"),
        ("own_schedule", "python", "uneven.py"),
        ("job", "toml", "zb_h1.toml"),
        ("commands", "json", "heavy_head.json"),
    ],
)
def test_examples_stand_in_the_pages(page: str, language: str, example: str) -> None:
    shown = [block.body for block in blocks(ROOT / "docs" / f"{page}.md", language)]
    assert (ROOT / "examples" / example).read_text() in shown


def test_every_public_name_has_its_place_in_the_api_page() -> None:
    listed = re.findall(r"^<!-- api: (.+) -->$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert not {*penstock.__all__} - {"__version__"} - {*" ".join(listed).split()}


def test_every_command_has_its_place_in_the_command_page() -> None:
    from penstock.cli.main import app

    page = (ROOT / "docs" / "commands.md").read_text()
    assert not [each for each in app if not each.startswith("-") and f"## `penstock {each}`\n" not in page]


@pytest.mark.parametrize("job", sorted((ROOT / "examples").glob("*.toml")), ids=name)
def test_job_files_of_the_examples_are_read(job: Path) -> None:
    from penstock.runtime.run import plan_of

    plan_of(make_spec(job, {}))


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": COLUMNS},
        check=True,
    )
    built = list(tmp_path.rglob("*.html"))
    assert len(built) > 10
    loads = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']((?:https?:)?//[^\"']+)")
    outside = {url for page in built for url in loads.findall(page.read_text())}
    outside |= {url for css in tmp_path.rglob("*.css") for url in re.findall(r"(?:url\(|@import )[\"']?(https?:[^\"')]+)", css.read_text())}  # fmt: skip  # noqa: E501
    assert not outside
