"""What the docstring of a class says of its arguments."""

from __future__ import annotations

import inspect
import re


def arguments(owner: type) -> dict[str, str]:
    """Return what the docstring of a class says of each of its arguments, on one line.

    Those that share an entry share its text.
    """
    part = (inspect.getdoc(owner) or "").partition("Args:\n")[2].partition("\n\n")[0]
    lines = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", part, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for names, text in lines for name in names.split(", ")}
