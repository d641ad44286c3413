"""The text a run trains on: files to byte tokens, whole documents held out, and batches by the number of the step.

A token is a byte, so the vocabulary is 256. Documents follow one another with the byte 0 behind each, and the long
row of tokens is cut into windows of ``seq_length + 1``, each starting on the last token of the one before: a window's
inputs are all its tokens but the last, its targets all but the first.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.core.job import Job
from penstock.core.words import nearest

Tokens = npt.NDArray[np.uint8]
Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

HELD_OUT_SHARE = 0.04  # of the documents of a folder
HELD_OUT_TAIL = 0.05  # of the bytes of a single file
_PROBE_BYTES = 1 << 16
_NOT_LANGUAGE = {  # folders of the standard library
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",  # tables of characters
    "pydoc_data",  # generated
}


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Tokens to train on and tokens held out, with the order in which steps take them.

    ``train`` and ``held_out_tokens`` are uint8 rows; both may lie on disk. The same files, ``seed`` and sizes give
    the same batches on every machine, with every version of numpy.

    Raises:
        ValueError: the training tokens do not fill one batch.
    """

    name: str
    train: Tokens = field(repr=False)
    held_out_tokens: Tokens = field(repr=False)
    seq_length: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.windows < self.batch_size:
            raise ValueError(
                f"data={self.name!r} has {len(self.train):,} tokens to train on; batch={self.batch_size} x "
                f"seq_length={self.seq_length} needs {self.batch_size * self.seq_length + 1:,}; "
                f"{_smaller(self.windows, len(self.train))}"
            )

    @property
    def windows(self) -> int:
        """Sequences to train on: the steps of one epoch times the batch."""
        return _windows(self.train, self.seq_length)

    @property
    def held_out_windows(self) -> int:
        """Sequences that are held out."""
        return _windows(self.held_out_tokens, self.seq_length)

    def batch(self, step: int) -> Batch:
        """Return the inputs and targets of a step, each int64 of shape ``(batch_size, seq_length)``.

        A pure function of ``step``, the number of steps before it. Every epoch goes through all windows once, in
        an order of its own; a batch may lie on the border of two.
        """
        first = step * self.batch_size
        places = np.arange(first, first + self.batch_size)
        epochs, within = np.divmod(places, self.windows)
        windows = [_order(self.windows, self.seed, int(e))[w] for e, w in zip(epochs, within, strict=True)]
        return _gather(self.train, np.array(windows, dtype=np.int64), self.seq_length)

    def held_out(self, sequences: int) -> list[Batch]:
        """Return batches of held-out text, as many as ``sequences`` needs; the last is full as well.

        The same for every seed and number of steps, so that losses compare.

        Raises:
            ValueError: the held-out text is too short for so many.
        """
        batches = -(-sequences // self.batch_size)
        if batches * self.batch_size > self.held_out_windows:
            needs = batches * self.batch_size * self.seq_length + 1
            fits = self.held_out_windows // self.batch_size * self.batch_size
            raise ValueError(
                f"data={self.name!r} has {len(self.held_out_tokens):,} tokens held out; "
                f"held_out_sequences={sequences} in batches of {self.batch_size} x seq_length={self.seq_length} needs "
                f"{needs:,}; use held_out_sequences={fits} or more text"
            )
        order = _order(self.held_out_windows, 0, 0)[: batches * self.batch_size].reshape(batches, self.batch_size)
        return [_gather(self.held_out_tokens, windows, self.seq_length) for windows in order]

    @property
    def fingerprint(self) -> str:
        """A short mark of the tokens: their number and a sample of 65,536 of them.

        A resumed run compares it, since other text would silently change what the steps see.
        """
        marks = []
        for tokens in (self.train, self.held_out_tokens):
            picked = np.linspace(0, max(len(tokens) - 1, 0), min(len(tokens), _PROBE_BYTES)).astype(np.int64)
            marks.append(f"{len(tokens)}-{zlib.crc32(tokens[picked].tobytes()):08x}")
        return "/".join(marks)


def read_corpus(job: Job) -> Corpus:
    """Return the corpus that ``job.data`` names: ``"stdlib"``, a text file or a folder of text files.

    Of a folder about 4 % of the files are held out, picked by a hash of their relative path; of a single file the
    last 5 %. Hidden files and files with a byte 0 (so, not text) are left out.

    Raises:
        ValueError: nothing there, no text in it, or too little of it.
    """
    if job.data == "stdlib":
        train, held_out = _stdlib_tokens()
    else:
        train, held_out = _user_tokens(Path(job.data).expanduser(), job.data)
    return Corpus(job.data, train, held_out, job.seq_length, job.batch, job.seed)


def _stdlib_tokens() -> tuple[Tokens, Tokens]:
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in _walk(folder, _NOT_LANGUAGE) if path.endswith(".py")]
    built = ("config-", "_sysconfigdata_")  # settings of this one build of Python
    return _folder_tokens(folder, [path for path in paths if not path.startswith(built)])


def _user_tokens(path: Path, data: str) -> tuple[Tokens, Tokens]:
    if path.is_dir():
        return _folder_tokens(path, _walk(path, set()))
    if path.is_file():
        return _file_tokens(path)
    alike = nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else [])
    fix = f"did you mean '{path.parent / alike}'?" if alike else "use 'stdlib', a text file or a folder of text files"
    raise ValueError(f"data={data!r} does not exist; {fix}")


def _file_tokens(path: Path) -> tuple[Tokens, Tokens]:
    """Return the first 95 % and the last 5 % of a file, left on disk until read."""
    if not path.stat().st_size:
        raise ValueError(f"data='{path}' is empty; give a text file")
    tokens: Tokens = np.memmap(path, dtype=np.uint8, mode="r")
    if not tokens[:_PROBE_BYTES].all():
        raise ValueError(f"data='{path}' holds the byte 0, so it is not text; unpack it or save it as UTF-8")
    border = len(tokens) - round(len(tokens) * HELD_OUT_TAIL)
    return tokens[:border], tokens[border:]


def _folder_tokens(folder: Path, files: list[str]) -> tuple[Tokens, Tokens]:
    paths = [path for path in files if _is_text(folder / path)]
    if not paths:
        raise ValueError(f"data='{folder}' holds no text among {len(files)} files; give a text file or another folder")
    if len(paths) == 1:
        return _file_tokens(folder / paths[0])
    marks = {path: _mark(path) for path in paths}
    border = max(HELD_OUT_SHARE, min(marks.values()))  # one document at the least
    held_out = [path for path in paths if marks[path] <= border]
    return _read_all(folder, [path for path in paths if marks[path] > border]), _read_all(folder, held_out)


def _walk(folder: Path, skipped: set[str]) -> list[str]:
    """Return the relative paths of all files, sorted, with ``/`` on every system; hidden ones left out."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name not in skipped]
        inside = Path(where).relative_to(folder)
        found += [(inside / name).as_posix() for name in files if name[0] != "."]
    return sorted(found)


def _is_text(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_PROBE_BYTES)
    return bool(head) and b"\0" not in head


def _mark(path: str) -> float:
    """Return a number in [0, 1) that depends on the relative path alone."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=6).digest()) / 2**48


def _read_all(folder: Path, paths: list[str]) -> Tokens:
    """Return the bytes of all files with a 0 behind each, read straight into one array."""
    sizes = [(folder / path).stat().st_size for path in paths]
    tokens: Tokens = np.zeros(sum(sizes) + len(sizes), dtype=np.uint8)
    at = 0
    for path, size in zip(paths, sizes, strict=True):
        with (folder / path).open("rb") as file:
            got = file.readinto(tokens[at : at + size].data)
        if got != size:
            raise ValueError(f"{folder / path} changed while it was read: {got} of {size} bytes; start again")
        at += size + 1
    return tokens


def _windows(tokens: Tokens, seq_length: int) -> int:
    return max(0, (len(tokens) - 1) // seq_length)


def _smaller(windows: int, tokens: int) -> str:
    if windows:
        return f"use batch={windows} or more text"
    return f"use seq_length={max(2, tokens - 1)} and batch=1, or more text" if tokens > 2 else "give more text"


@lru_cache(maxsize=3)
def _order(windows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order in which an epoch takes the windows.

    numpy promises the raw numbers of a bit generator for all versions, but not what ``permutation`` makes of them.
    """
    raw = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(windows)
    return np.argsort(raw, kind="stable")


def _gather(tokens: Tokens, windows: npt.NDArray[np.int64], seq_length: int) -> Batch:
    places = windows[:, None] * seq_length + np.arange(seq_length + 1)
    taken = tokens[places].astype(np.int64)
    return taken[:, :-1].copy(), taken[:, 1:].copy()
