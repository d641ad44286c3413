"""Histograms of lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.core.lengths import Lengths


def test_the_published_sets_are_as_their_paper_says() -> None:
    """Krell et al. 2021 (arXiv:2107.02027): half of what BERT reads of Wikipedia in 512 tokens is padding."""
    wikipedia, squad = Lengths.read("wikipedia"), Lengths.read("squad")
    assert wikipedia.longest == 512
    assert 1 - wikipedia.mean / 512 == pytest.approx(0.5, abs=0.01)
    assert (int(squad.counts.sum()), squad.longest) == (88_641, 384)
    assert "2107.02027" in wikipedia.source


def test_batches_are_drawn_as_often_as_lengths_are() -> None:
    found = Lengths.of([10] * 3 + [100])
    drawn = found.draw(20_000)
    assert (drawn == 100).mean() == pytest.approx(0.25, abs=0.01)
    assert np.array_equal(drawn, found.draw(20_000))
    assert not np.array_equal(drawn, found.draw(20_000, 1))


def test_longer_ones_are_cut() -> None:
    cut, share = Lengths.of([4, 6, 8, 8]).cut(6)
    assert (cut.tokens.tolist(), cut.counts.tolist(), share) == ([4, 6], [1, 3], 0.5)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("# from somewhere\nlength,count\n20,1\n10,3\n20,2\n5,0\n")
    found = Lengths.read(path)
    assert (found.tokens.tolist(), found.counts.tolist(), found.source) == ([10, 20], [3, 3], "from somewhere")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the first line is missing; write length,count"),
        ("tokens,count\n1,2\n", "the first line is tokens,count; write length,count"),
        ("length,count\n1,many\n", "'1,many' is no length and count; write whole numbers, as 2048,17"),
        ("length,count\n12\n", "'12' is no length and count"),
        ("length,count\n0,5\n", "length 0, count 5: a sequence has 1 token or more"),
        ("length,count\n8,-5\n", "length 8, count -5"),
        ("length,count\n", "there are no sequences"),
    ],
)
def test_files_that_cannot_be_read(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        Lengths.read(path)


def test_names_that_are_not_known() -> None:
    with pytest.raises(ValueError, match="did you mean 'wikipedia'"):
        Lengths.read("wikipedi")
