"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; what was written takes the place of ``path`` when the block ends without an error.

    The stand-in lies in the same folder and has the same suffix, so a full disk or a crash leaves the old file as it
    was. Devices and pipes (``/dev/stdout``) are written to, never replaced.

    Raises:
        ValueError: ``path`` is a folder, or its folder does not exist.
        OSError: writing failed, for example for lack of space.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "a.txt") as file:
        ...     _ = file.write_text("hello")
        >>> [(file.name, file.read_text()) for file in folder.iterdir()]
        [('a.txt', 'hello')]
    """
    target = writable(path)
    special = target.exists() and not target.is_file()
    folder = Path(tempfile.gettempdir()) if special else target.parent
    stand_in = folder / f".{target.stem}.{os.getpid()}.tmp{target.suffix}"
    try:
        yield stand_in
        if special:
            with stand_in.open("rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        else:
            _to_disk(stand_in)
            stand_in.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        stand_in.unlink(missing_ok=True)


def writable(path: str | os.PathLike[str], suffix: str = "") -> Path:
    """The path behind links, if a file can stand there.

    Args:
        path: may be a device or a pipe too.
        suffix: what the name of a file must end with.

    Raises:
        ValueError: it is a folder, it has another suffix, or its folder does not exist; the message names the nearest
            folder that does.
    """
    target = Path(path).resolve() if Path(path).is_symlink() and Path(path).is_file() else Path(path)
    if target.is_dir():
        raise ValueError(f"{path} is a folder; give a file name in it, for example {target / 'out'}")
    if not target.parent.is_dir():
        found = next(folder for folder in target.absolute().parents if folder.is_dir())
        raise ValueError(f"{path}: the folder {target.parent} does not exist ({found} does); make it first")
    device = Path(path).is_relative_to("/dev") or (target.exists() and not target.is_file())
    if suffix and target.suffix != suffix and not device:
        raise ValueError(f"{path}: the suffix must be {suffix}; use {target.with_suffix(suffix)}")
    return target


def read_text(path: Path | Traversable) -> str:
    """Return the text of a file, without the mark that some editors put before it.

    Raises:
        ValueError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all (see ``whole_file``)."""
    with whole_file(path) as stand_in:
        stand_in.write_text(text, encoding="utf-8")


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
