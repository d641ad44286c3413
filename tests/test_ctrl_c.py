"""Ctrl-C in each question of ``penstock plan``: what is known by then is the answer, and it says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import progress
from penstock.cli.main import main

JOB = "plan --model llama-3-8b --seq 4096 --batch 64 --fix tp=8,cp=1,zero=1,micro=1"
LATE = {
    "nodes": f"{JOB} --cluster dgx-h100:4 --nodes 1..4",
    "budget": f"{JOB} --cluster dgx-h100:8 --tokens 1e11 --budget 1e6",
    "clusters": f"{JOB} --clusters dgx-h100:1,dgx-a100:1",
    "batches": "plan --model llama-3-8b --seq 4096 --batch 32/64/128 --cluster dgx-h100:1 --fix tp=8,cp=1,zero=1",
    "longest": f"{JOB} --cluster dgx-h100:1 --longest",
    "report": f"{JOB} --cluster dgx-h100:2 --pareto",
    "tune": f"{JOB} --cluster dgx-h100:1 --tune lora,qlora",
    "sites": f"{JOB} --cluster dgx-h100:2 --sites 2 --between 10Gb/s",
    "lengths": "plan --model gpt2-xl --cluster h100:4 --seq 512 --batch 64 --fix tp=1,zero=1 --lengths wikipedia",
}
EARLY = {
    "plan": (f"{JOB} --cluster dgx-h100:1", ""),
    "deadline": (f"{JOB} --cluster dgx-h100:8 --tokens 1e12 --deadline 30d", "stopped before any number of nodes was"),
    "longest": (f"{JOB} --cluster dgx-h100:1 --longest", "stopped before a sequence was found that fits"),
    "largest": (
        "plan --model llama-2 --seq 4096 --batch 64 --cluster dgx-h100:1 --largest",
        "stopped before a model was found that fits",
    ),
    "tune": (LATE["tune"], "stopped before a way to fine-tune was planned; nothing is known yet"),
    "sites": (LATE["sites"], ""),
    "lengths": (LATE["lengths"], "stopped before a way to put sequences on ranks was tried; nothing is known yet"),
}


def pressed(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """Press Ctrl-C when a command tells for the so manyth time what it looks at; return what it tells."""
    tell, told = progress.Watcher.tell, list[str]()

    def pressing(self: progress.Watcher, words: str) -> bool:
        told.append(words)
        if len(told) == at:
            signal.raise_signal(signal.SIGINT)
        return tell(self, words)

    monkeypatch.setattr(progress.Watcher, "tell", pressing)
    return told


@pytest.mark.parametrize("name", LATE)
def test_the_best_so_far_is_the_answer(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*LATE[name].split(), "--json"]
    told = pressed(monkeypatch, 0)
    main(asked)
    whole, count = json.loads(capsys.readouterr().out), len(told)
    told = pressed(monkeypatch, count - 1)
    main(asked)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (whole["stopped"], found["stopped"]) == (False, True)
    assert any(found.get(name) for name in ("answer", "rows", "choices", "tunings", "strategies", "ways"))
    assert len(told) <= count


@pytest.mark.parametrize("name", EARLY)
def test_where_nothing_is_known_yet_that_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, said = EARLY[name]
    pressed(monkeypatch, 1)
    if said:
        with pytest.raises(SystemExit):
            main(asked.split())
        assert capsys.readouterr().err.startswith(f"penstock: {said}")
    else:
        main(asked.split())
        assert "stopped early, others may be faster" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", LATE)
def test_a_signal_from_outside_leaves_no_traceback(name: str, tmp_path: Path) -> None:
    """The program says that it has begun by a file, so that it is watching when the signal comes."""
    begun = tmp_path / "begun"
    code = (
        "import pathlib, sys\nfrom penstock.cli import progress\ntell = progress.Watcher.tell\n"
        "def telling(self, words):\n    pathlib.Path(sys.argv[1]).touch()\n    return tell(self, words)\n"
        "progress.Watcher.tell = telling\nfrom penstock.cli.main import main\nmain(sys.argv[2:])\n"
    )
    command = [sys.executable, "-c", code, str(begun), *LATE[name].split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not begun.exists() and running.poll() is None:
            os.sched_yield()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    assert running.returncode in (0, 2)
    assert "Traceback" not in err
    assert "stopped" in out + err
