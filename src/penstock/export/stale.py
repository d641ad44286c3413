"""What an earlier export for torchtitan left in a folder."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

from penstock.core.files import read_text
from penstock.export.torchtitan import FILE
from penstock.export.torchtitan_python import FILE as PYTHON
from penstock.export.torchtitan_python import MARK

ORDER = re.compile(r'^pipeline_parallel_schedule_csv = ".*/([^/"]+\.csv)"$', re.MULTILINE)
"""The file with the order of passes that a table names."""


def stale(folder: Path, written: Container[str]) -> Iterator[Path]:
    """Give the files of an earlier export that a new one, of files by name, would leave as they are: the module for 0.3
    if it is one of ours, and the order of passes that the table names."""
    module, table = folder / PYTHON, folder / FILE
    if PYTHON not in written and module.is_file() and MARK in read_text(module):
        yield module
    for name in ORDER.findall(read_text(table)) if table.is_file() else ():
        if name not in written and (folder / name).is_file():
            yield folder / name
