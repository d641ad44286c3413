"""``metrics.jsonl``: one JSON object for each step, whole lines only, each step once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType

from penstock.core.files import whole_file


class MetricsFile:
    """Appends one line per step to ``metrics.jsonl``; a line is on disk (of the kernel) when ``append`` returns.

    Opening it drops what stands after step ``after``: the steps a resumed run will do again, and a torn last line.

    Raises:
        ValueError: the file cannot be written (no space left, say), or a line of it is not JSON.
    """

    def __init__(self, path: Path, after: int) -> None:
        self.path = path
        truncate_after(path, after)
        self._file = path.open("ab", buffering=0)

    def append(self, step: int, values: dict[str, float | int | str | None]) -> None:
        """Write ``{"step": step, **values}`` as one line; a number that is not finite becomes ``null``."""
        row = {"step": step} | {key: _finite(value) for key, value in values.items()}
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            while line:  # a full disk takes a part, and says why when asked again
                line = line[self._file.write(line) :]
        except OSError as error:
            raise ValueError(f"cannot write step {step} to {self.path}: {error.strerror}; free some space") from None

    def close(self) -> None:
        """Close the file; nothing waits in a buffer."""
        self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float | int | str | None]]:
    """Return the rows of a metrics file in the order of their lines; a torn last line is left out.

    Raises:
        ValueError: a line other than the last is not a JSON object with a whole ``step``.
    """
    return [row for _, row in _rows(path)]


def truncate_after(path: Path, step: int) -> int:
    """Keep the whole lines up to and including ``step`` and return how many; a file that is missing has none.

    The new file replaces the old one at once, so a crash leaves one or the other.

    Raises:
        ValueError: a line other than the last is not a JSON object with a whole ``step``, or no space is left.
    """
    if not path.exists():
        return 0
    kept = [line for line, row in _rows(path) if int(row["step"] or 0) <= step]
    text = b"".join(line + b"\n" for line in kept)
    if text == path.read_bytes():
        return len(kept)
    try:
        with whole_file(path) as stand_in:
            stand_in.write_bytes(text)
    except OSError as error:
        raise ValueError(f"cannot shorten {path} to step {step}: {error.strerror}; free some space") from None
    return len(kept)


def _rows(path: Path) -> list[tuple[bytes, dict[str, float | int | str | None]]]:
    whole = path.read_bytes().split(b"\n")[:-1]  # what follows the last line's end is torn
    rows = []
    for number, line in enumerate(whole, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise ValueError(f"{path}: line {number} is not a step: {line[:60]!r}; remove the line or the file")
        rows.append((line, row))
    return rows


def _finite(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
