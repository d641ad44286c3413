import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.job import Job
from penstock.runtime.corpus import Corpus, read_corpus

SMALL = Job(seq_length=16, batch=4)


def rows(tokens: bytes, seq_length: int = 4, batch: int = 2, seed: int = 0) -> Corpus:
    train = np.frombuffer(tokens, dtype=np.uint8)
    return Corpus("rows", train, train, seq_length, batch, seed)


@pytest.fixture(scope="module")
def stdlib() -> Corpus:
    return read_corpus(Job())


def folder_of(where: Path, count: int = 60) -> Path:
    for i in range(count):
        path = where / f"part{i % 3}" / f"doc{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<{i}>" * (50 + i))
    return where


def documents(tokens: np.ndarray) -> set[bytes]:
    return set(bytes(tokens).split(b"\0")) - {b""}


def test_the_standard_library_is_large_enough() -> None:
    corpus = read_corpus(Job())
    assert len(corpus.train) > 4_000_000
    assert 0.01 < len(corpus.held_out_tokens) / len(corpus.train) < 0.10
    assert corpus.train.dtype == np.uint8
    assert b"def dataclass(" in bytes(corpus.train)


def test_batches_have_the_right_shape_and_shift(stdlib: Corpus) -> None:
    inputs, targets = stdlib.batch(3)
    assert inputs.shape == targets.shape == (8, 256)
    assert inputs.dtype == targets.dtype == np.int64
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    assert inputs.min() >= 0
    assert inputs.max() < 256


def test_a_second_reading_gives_the_same_batches(stdlib: Corpus) -> None:
    again = read_corpus(Job())
    assert again.fingerprint == stdlib.fingerprint
    for step in (0, 7, 5000):
        assert (again.batch(step)[0] == stdlib.batch(step)[0]).all()
    other = dataclasses.replace(stdlib, seed=1)
    assert (other.batch(0)[0] != stdlib.batch(0)[0]).any()
    assert (other.held_out(32)[1][0] == stdlib.held_out(32)[1][0]).all()


@given(st.integers(1, 9), st.integers(0, 60), st.integers(0, 2**63 - 1))
def test_every_epoch_takes_each_window_once(batch: int, first_epoch: int, seed: int) -> None:
    corpus = rows(bytes(range(1, 42)), seq_length=4, batch=batch, seed=seed)  # ten windows
    steps = range(first_epoch * 10, first_epoch * 10 + 10)  # exactly `batch` epochs of 10 windows
    starts = np.concatenate([corpus.batch(step)[0][:, 0] for step in steps]).reshape(batch, 10)
    assert (np.sort(starts, axis=1) == np.arange(1, 41, 4)).all()


def test_the_order_is_frozen() -> None:
    """A change here would give resumed runs other data: bump nothing, find the cause."""
    corpus = rows(bytes(range(1, 42)), batch=5, seed=7)
    assert corpus.batch(0)[0][:, 0].tolist() + corpus.batch(1)[0][:, 0].tolist() == [
        25,
        13,
        17,
        37,
        1,
        9,
        33,
        29,
        21,
        5,
    ]


def test_whole_documents_are_held_out_by_their_path(tmp_path: Path) -> None:
    corpus = read_corpus(dataclasses.replace(SMALL, data=str(folder_of(tmp_path / "a"))))
    held_out, train = documents(corpus.held_out_tokens), documents(corpus.train)
    assert held_out
    assert not held_out & train
    assert len(held_out | train) == 60
    folder_of(tmp_path / "b", 90)  # more documents, another folder: the first sixty stay where they were
    more = read_corpus(dataclasses.replace(SMALL, data=str(tmp_path / "b")))
    assert documents(more.train) >= train
    assert documents(more.held_out_tokens) >= held_out


def test_only_text_counts(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mixed")
    before = read_corpus(dataclasses.replace(SMALL, data=str(folder))).fingerprint
    (folder / "binary.npy").write_bytes(b"\x93NUMPY\0\0")
    (folder / ".hidden").write_text("secret")
    (folder / "empty.txt").touch()
    (folder / "dangling").symlink_to(folder / "nowhere")
    assert read_corpus(dataclasses.replace(SMALL, data=str(folder))).fingerprint == before
    (folder / "more.txt").write_text("more")
    assert read_corpus(dataclasses.replace(SMALL, data=str(folder))).fingerprint != before


def test_the_end_of_a_single_file_is_held_out(tmp_path: Path) -> None:
    text = bytes(i % 255 + 1 for i in range(10_000))
    (tmp_path / "one.txt").write_bytes(text)
    for data in (tmp_path, tmp_path / "one.txt"):
        corpus = read_corpus(dataclasses.replace(SMALL, data=str(data)))
        assert bytes(corpus.train) == text[:9500]
        assert bytes(corpus.held_out_tokens) == text[9500:]


def test_held_out_batches_are_full_and_rounded_up(stdlib: Corpus) -> None:
    batches = stdlib.held_out(44)
    assert [inputs.shape for inputs, _ in batches] == [(8, 256)] * 6
    assert (batches[0][0] == stdlib.held_out(16)[0][0]).all()
    assert stdlib.held_out(0) == []


@pytest.mark.parametrize(
    ("length", "says"),
    [
        (60, "has 57 tokens to train on; batch=4 x seq_length=16 needs 65; use batch=3 or more text"),
        (10, "use seq_length=9 and batch=1, or more text"),
        (2, "give more text"),
        (0, "is empty"),
    ],
)
def test_too_little_text_says_how_much_is_needed(tmp_path: Path, length: int, says: str) -> None:
    (tmp_path / "short.txt").write_text("a" * length)
    with pytest.raises(ValueError, match=re.escape(says)):
        read_corpus(dataclasses.replace(SMALL, data=str(tmp_path / "short.txt")))


def test_too_little_held_out_text_says_how_much_is_needed(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a" * 2000)
    corpus = read_corpus(dataclasses.replace(SMALL, data=str(tmp_path / "short.txt")))
    with pytest.raises(ValueError, match=r"has 100 tokens held out.* needs 129; use held_out_sequences=4 or more text"):
        corpus.held_out(8)
    assert len(corpus.held_out(4)) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("book.tx", r"book.tx' does not exist; did you mean '.*book.txt'\?"),
        ("zzzzzz", r"does not exist; use 'stdlib', a text file or a folder"),
        ("none", r"holds no text among 1 files"),
        ("packed.txt", r"packed.txt' holds the byte 0, so it is not text"),
    ],
)
def test_bad_data_is_named_with_the_fix(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "book.txt").write_text("text")
    (tmp_path / "packed.txt").write_bytes(b"\x1f\x8b\0\0")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "image.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(ValueError, match=says):
        read_corpus(dataclasses.replace(SMALL, data=str(tmp_path / name)))
