"""What a person at a terminal sees while an answer takes long."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable

import pytest

from penstock.cli import progress
from penstock.cli.main import main

ASKED = ["plan", "--model", "llama-3-8b", "--seq", "4096", "--batch", "64", "--fix", "tp=8,pp=1,cp=1,zero=1"]
CLEARED = "\r\033[K"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give a function that runs a command and returns what a terminal shows beside the answer, from the beginning."""

    def shown(*words: str) -> str:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with contextlib.suppress(SystemExit):
            main([*ASKED, *words])
        return capsys.readouterr().err

    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    monkeypatch.setattr(progress, "BETWEEN_S", 0.0)
    return shown


def test_a_search_says_how_far_it_is(terminal: Callable[..., str]) -> None:
    said = terminal("--cluster", "dgx-h100:1")
    assert said.startswith("first answer: tp=8")
    assert " strategies, best " in said
    assert said.endswith(CLEARED)


def test_clusters_that_are_looked_at_are_said(terminal: Callable[..., str]) -> None:
    said = terminal("--clusters", "dgx-h100:1,dgx-a100:1")
    assert [f"looking at {name}" in said for name in ("dgx-h100:1", "dgx-a100:1")] == [True, True]
    assert said.endswith(CLEARED)


def test_a_line_goes_before_an_error_is_said(terminal: Callable[..., str]) -> None:
    said = terminal("--cluster", "dgx-h100:1", "--nodes", "1", "--tokens", "1e15", "--deadline", "1d")
    _, _, last = said.rpartition(CLEARED)
    assert "nodes 1" in said
    assert last.startswith("penstock: ")


def test_nothing_is_said_where_nobody_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    main([*ASKED, "--cluster", "dgx-h100:1"])
    assert capsys.readouterr().err == ""


def test_the_first_ctrl_c_ends_a_search_and_the_second_the_program() -> None:
    before = signal.getsignal(signal.SIGINT)
    with progress.watching() as watch:
        assert watch(0, None)
        signal.raise_signal(signal.SIGINT)
        assert not watch(1, None)
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before
