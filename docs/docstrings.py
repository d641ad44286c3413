"""Lets the API pages show the examples of docstrings as code, with or without a heading above them."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Gives every docstring's examples the heading ``Examples:``, by which Griffe knows them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = with_heading(obj.docstring.value)


def with_heading(said: str) -> str:
    """A docstring whose examples stand below ``Examples:``.

    >>> with_heading("Add.\\n\\n>>> 1 + 1\\n2")
    'Add.\\n\\nExamples:\\n    >>> 1 + 1\\n    2'
    """
    said = re.sub(r"^Example:$", "Examples:", said, flags=re.MULTILINE)
    found = re.search(r"^>>>", said, flags=re.MULTILINE)
    if found is None:
        return said
    indented = "\n".join(f"    {line}".rstrip() for line in said[found.start() :].splitlines())
    return f"{said[: found.start()]}Examples:\n{indented}"
