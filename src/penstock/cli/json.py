"""``--json``: figures as one JSON object, in place of the text or in a file beside it."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable
from pathlib import Path
from typing import Any


def json_file(json: list[Path] | None) -> Path | None:
    """Return the file that ``--json`` names, if any, which can be written.

    Raises:
        ValueError: there are several.
        OSError: the folder is missing, or not writable.
    """
    from penstock.core.files import writable

    if json is not None and len(json) > 1:
        raise ValueError(f"--json {' '.join(map(str, json))}: name one file, or none for the standard output")
    for path in json or ():
        writable(path)
    return json[0] if json else None


def write_facts(facts: dict[str, Any], json: list[Path] | None, show: Callable[[], None]) -> None:
    """Print figures as JSON if ``--json`` names no file; else write them to the one that it names, if any, and show
    them as text."""
    from penstock.core.files import write_whole

    text = json_format.dumps(facts, indent=1) + "\n"
    if (out := json_file(json)) is not None:
        write_whole(out, text)
    print(text, end="") if json == [] else show()
