"""Writes into README.md and docs/*.md what can be known by running: outputs of commands, and the tree of files.

python docs/refresh.py [--slow]
python docs/refresh.py --errors    # records the errors of predictions, in tests/golden/prediction_errors.json
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from blocks import NOT_RUN, ROOT, SLOW, Block, blocks, commands, pages, run, run_python, same, shown_below, tidy

from penstock.cost.origins import Constant, shown

SOURCE = ROOT / "src" / "penstock"
WITHOUT_COMMENT = {
    "src/penstock/view/page/head.html": "The head of every page.",
    "src/penstock/view/page/page.html": "The page of timelines.",
    "src/penstock/view/page/page.css": "How the page looks, in the light, in the dark and on paper.",
    "src/penstock/view/page/report.css": "What reports have beyond timelines: sentences, charts, trees.",
    "src/penstock/view/page/report.html": "The page that a report of a plan fills.",
    "src/penstock/view/page/viewer.html": "The part of a page that the scripts below draw timelines into.",
    "src/penstock/data/catalogue.json": "The configs of published models by name: what shapes them, and the source.",
    "src/penstock/data/families.json": "What transformers takes for keys that a config leaves out, by family.",
    "src/penstock/data/measured/README.md": "What the table holds, and its sources.",
    "src/penstock/data/measured/training_runs.csv": "Published training runs: how they are set up, what was measured.",
    "src/penstock/data/measured/run_recipes.csv": "Settings that recipes have and tables of their runs leave out.",
    "src/penstock/data/models/tiny-gpt2.json": "A small GPT-2: learned positions, tied embeddings.",
    "src/penstock/data/models/tiny-llama.json": "A small Llama, the model of the default run.",
    "src/penstock/data/models/tiny-mistral.json": "A small Mistral.",
    "src/penstock/data/models/tiny-qwen2.json": "A small Qwen 2.",
    "src/penstock/data/models/tiny-qwen3.json": "A small Qwen 3.",
}
"""One line for files that hold no comment."""


def main() -> None:
    """Rewrite the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", action="store_true", help="also run the commands that take seconds")
    parser.add_argument("--errors", action="store_true", help="record the errors of predictions, and nothing else")
    given = parser.parse_args()
    if given.errors:
        record_errors()
        return
    slow = given.slow
    for page in pages():
        with workplace():
            _replace(page, dict(_outputs(page, slow)))
    (ROOT / "docs" / "constants.md").write_text(constants_page(), encoding="utf-8")
    readme = ROOT / "README.md"
    _replace(readme, {tree_block(): tree()})


def record_errors() -> None:
    """Predict the shipped table of runs, all of it and every eighth row, and write the errors by source."""
    from penstock.calibrate.recorded import recorded_errors

    found = {f"every {every}": recorded_errors(every) for every in (1, 8)}
    (ROOT / "tests" / "golden" / "prediction_errors.json").write_text(json.dumps(found, indent=1) + "\n")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A working folder with nothing but the examples in it."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(ROOT / "examples", Path(name) / "examples")
        with contextlib.chdir(name):
            yield Path(name)


def tree_block() -> Block:
    """The block of the README that lists the files."""
    found = [block for block in blocks(ROOT / "README.md", "text") if "src/penstock/\n" in block.body]
    if len(found) != 1:
        raise ValueError("README.md needs one text block that begins with the line src/penstock/")
    return found[0]


def tree() -> str:
    """Every file under ``src/penstock`` with its own first sentence."""
    files = [path.relative_to(SOURCE) for path in source_files()]
    lines = ["src/penstock/"]
    shown: set[Path] = set()
    for file in sorted(files, key=lambda path: (len(path.parts) > 1, path.as_posix())):
        for folder in list(file.parents)[-2::-1]:
            if folder not in shown:
                shown.add(folder)
                lines.append(f"{'  ' * len(folder.parts)}{folder.name}/")
        name = "  " * len(file.parts) + file.name
        lines.append(f"{name:<26} {first_sentence(SOURCE / file)}")
    return "\n".join(lines) + "\n"


def source_files() -> list[Path]:
    """The files under ``src/penstock`` that git tracks, or would if they were added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "src/penstock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in sorted(set(listed.stdout.split("\0"))) if name and (path := ROOT / name).exists()]


def first_sentence(file: Path) -> str:
    """What a file says of itself: of the docstring or of the first comment, the first sentence.

    Raises:
        ValueError: it says nothing.
    """
    name = file.relative_to(ROOT).as_posix()
    if name in WITHOUT_COMMENT:
        return WITHOUT_COMMENT[name]
    text = file.read_text(encoding="utf-8")
    mark = "# " if file.suffix in (".csv", ".toml") else "//"
    if file.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = " ".join(line[2:].strip() for line in text.partition("\n\n")[0].splitlines() if line.startswith(mark))
    if not said:
        raise ValueError(f"{name} begins with no docstring or comment; write one, or a line in docs/refresh.py")
    whole = re.sub(r" \([^()]* et al\.[^()]*\)", "", " ".join(said.partition("\n\n")[0].split()))
    return re.split(r"(?<=[.;])\s", whole)[0].replace("`", "").rstrip(".;") + "."


CONSTANTS = """# Constants

Every number of [predictions](predict.md) that is no fact of a model or of a datasheet. `penstock explain` says which of
them a figure was made with. This page is written by `docs/refresh.py` from `data/constants.toml` and
`data/frameworks.toml`; none belongs to a row or a source of measured runs.

*Range*: within which a fit looks for the constant, or what it can be. *Error*: mean relative error on shapes that were
not fitted, or an estimate of it. What nobody measured says so: an estimate, a guess, not measured.
"""
HEAD_OF_CONSTANTS = ("constant", "value", "range", "error", "meaning", "source")


def constants_page() -> str:
    """The page of all constants, of hardware and of frameworks."""
    from penstock.cost.constants import table
    from penstock.cost.origins import constant, level, of_frameworks, parts

    pieces = [CONSTANTS, "## Hardware: structure of kernels and messages\n"]
    pieces.append(_constants(constant(part, name) for part in parts() for name in table()[part]))
    pieces.append("## Hardware: levels\n")
    pieces += [
        f"### `{part}`\n\nThe {about['meaning']}; {about['range']}.\n\n"
        + _constants((level(part, key) for key in table()["levels"][part]), but=("range", "meaning"))
        for part, about in table()["about"].items()
    ]
    frameworks: dict[str, list[Constant]] = {}
    for one in of_frameworks():
        frameworks.setdefault(one.name.partition(".")[0], []).append(one)
    pieces += ["## Frameworks: defaults\n", _constants(frameworks.pop("default")), "## Frameworks: what each sets\n"]
    pieces += [_framework(name, own) for name, own in frameworks.items()]
    return "\n".join(pieces)


def _framework(name: str, own: Iterable[Constant]) -> str:
    """What one framework sets, and on whose fields."""
    from penstock.cost.stack import tables

    table = tables()[name]
    like = f"Like `{table['like']}`, but for these. " if "like" in table else ""
    kernels = ", ".join(f"`{key}` {shown(value)}" for key, value in table.get("kernels", {}).items())
    said = f"{like}Source: {table.get('source', 'not said')}.{f' Kernels: {kernels}.' if kernels else ''}"
    return f"### `{name}`\n\n{said}\n\n{_constants(own, but=('error', 'meaning', 'source'))}"


def _constants(some: Iterable[Constant], but: Collection[str] = ()) -> str:
    """A table of constants, without some of its columns."""
    head = [name for name in HEAD_OF_CONSTANTS if name not in but]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in some:
        error = "" if one.error is None else f"{one.error:.1%}"
        cells = (f"`{one.name}`", shown(one.value), one.range, error, one.meaning.rstrip("."), one.source)
        named = dict(zip(HEAD_OF_CONSTANTS, cells, strict=True))
        lines.append(f"| {' | '.join(named[name].replace('|', '/').replace('``', '`') for name in head)} |")
    return "\n".join(lines) + "\n"


def _outputs(page: Path, slow: bool) -> Iterator[tuple[Block, str]]:
    for block, got in run_python(page):
        shown = shown_below(block)
        if not same(shown.body, got):
            yield shown, got
    for block in blocks(page, "console"):
        if block.mark != NOT_RUN and (slow or block.mark != SLOW):
            yield block, _run_again(block, slow)


def _run_again(block: Block, slow: bool) -> str:
    parts = []
    for command in commands(block):
        got = run(command, Path.cwd())
        keep = same(command.output, got) and not (slow and block.mark == SLOW)
        parts.append(f"$ {command.line}\n{tidy(command.output) if keep else got}")
    return "".join(parts)


def _replace(page: Path, bodies: dict[Block, str]) -> None:
    text = page.read_text(encoding="utf-8")
    for block in sorted(bodies, key=lambda block: -block.start):
        text = text[: block.start] + bodies[block] + text[block.end :]
    if text != page.read_text(encoding="utf-8"):
        page.write_text(text, encoding="utf-8")
        print(f"{page.relative_to(ROOT)} changed")


if __name__ == "__main__":
    main()
