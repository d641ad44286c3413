"""What MkDocs builds from the code: the tables, the commands' help, the styles of code.

A line ``<!-- generate: NAME -->`` in a page gives way to what ``generated`` makes, ``<!-- api: NAMES -->`` to the
docstrings of these names. So no fact stands twice.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from generated import MARK, generated
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

CODE_CSS = "code.css"
HOMES = {"SCHEDULES": "penstock.schedules.table.SCHEDULES"}
"""Where names that do not know it themselves are defined."""
_API = re.compile(r"^<!-- api: (.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page."""
    markdown = _API.sub(lambda match: "\n\n".join(map(_documented, match[1].split())), markdown)
    return MARK.sub(lambda match: generated(match[1]), markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the styles of code, for the light and the dark."""
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

    light = HtmlFormatter(style="tango").get_style_defs(".highlight")
    dark = HtmlFormatter(style="nord").get_style_defs("[data-bs-theme=dark] .highlight")
    files.append(File.generated(config, CODE_CSS, content=f"{light}\n{dark}\n"))
    return files


def _documented(name: str) -> str:
    """The directive that documents a public name, by the place where it is defined."""
    module, _, last = (name if "." in name else f"penstock.{name}").rpartition(".")
    found = getattr(importlib.import_module(module), last)
    home = f"{found.__module__}.{found.__qualname__}" if hasattr(found, "__qualname__") else HOMES[name]
    return f"::: {home}\n    options:\n      heading: {last}"
