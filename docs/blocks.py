"""The fenced blocks of a page: what stands in them, what running them gives, and the page with that written into it.

A ``console`` block holds commands behind ``$`` and what they print. A ``python`` block is run; what it prints stands in
the ``text`` block below it. A comment on the line above a fence changes that: ``<!-- not run -->`` (commands are only
parsed) or ``<!-- slow -->`` (numbers may differ).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = "92"
NOT_RUN, SLOW = "not run", "slow"
_FENCE = re.compile(r"^(?:<!-- (?P<mark>[a-z ]+) -->\n)?```(?P<lang>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_CLOCK = re.compile(r"simulated in [\d.]+ s")
_NUMBER = re.compile(r"\d[\d.,]*")
_WAITING = re.compile(r"step \d+/\d+: .* left\n")


@dataclass(frozen=True)
class Block:
    """One fenced block; ``start`` and ``end`` bound its body in the page's text."""

    page: Path
    lang: str
    mark: str
    body: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """Page and first line, for the names of tests."""
        return f"{self.page.name}: {self.body.splitlines()[0] if self.body else ''}"


@dataclass(frozen=True)
class Command:
    """One command of a console block, and what the page says it prints."""

    line: str
    output: str

    @property
    def words(self) -> list[str]:
        """As a shell splits it."""
        return shlex.split(self.line)


def pages() -> list[Path]:
    """The README and every page of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, lang: str = "") -> list[Block]:
    """The fenced blocks of a page, in order; all languages if none is given."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, match["lang"], match["mark"] or "", match["body"], *match.span("body"))
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if lang in ("", block.lang)]


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    parts = re.split(r"^\$ ", block.body, flags=re.MULTILINE)
    if parts[0]:
        raise ValueError(f"{block.name}: a console block begins with a command behind '$ '")
    return [Command(*part.partition("\n")[::2]) for part in parts[1:]]


def run(command: Command, folder: Path) -> str:
    """What a command of Penstock prints, on both streams, in a folder."""
    words = command.words
    if words[0] != "penstock":
        raise ValueError(f"{command.line}: only penstock is run; mark the block <!-- {NOT_RUN} -->")
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"COLUMNS": COLUMNS, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 2):
        raise ValueError(f"{command.line} ends with exit code {done.returncode}: {done.stdout}")
    return tidy(done.stdout)


def run_python(page: Path) -> list[tuple[Block, str]]:
    """Run the python blocks of a page one after the other; each that prints, with what it printed.

    Names live on from block to block, and files are written to the working folder.
    """
    names: dict[str, object] = {"__name__": "page"}
    printed = []
    for block in blocks(page, "python"):
        if block.mark == NOT_RUN:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block.body, str(page), "exec"), names)
        if out.getvalue():
            printed.append((block, tidy(out.getvalue())))
    return printed


def shown_below(block: Block) -> Block:
    """The text block that stands below a python block and holds its output."""
    later = [other for other in blocks(block.page) if other.start > block.start]
    if not later or later[0].lang != "text":
        raise ValueError(f"{block.name}: prints, but no text block stands below it")
    return later[0]


def tidy(text: str) -> str:
    """Output without colours, blanks at line ends and empty lines around it."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "\n".join(line.rstrip() for line in plain.strip("\n").splitlines()).rstrip() + "\n" if plain.strip() else ""


def same(shown: str, got: str, slow: bool = False) -> bool:
    """Whether two outputs are equal but for times; for slow commands, but for all numbers."""
    return _plain(shown, slow) == _plain(got, slow)


def _plain(text: str, slow: bool) -> str:
    text = _CLOCK.sub("simulated in # s", tidy(text))
    if slow:
        text = " ".join(_NUMBER.sub("#", _WAITING.sub("", text)).split())
    return text
