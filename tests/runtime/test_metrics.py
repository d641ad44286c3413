import json
import math
import os
import resource
import signal
from pathlib import Path

import pytest

from penstock.runtime.metrics import MetricsFile, read_metrics, truncate_after


def steps(path: Path) -> list[object]:
    return [row["step"] for row in read_metrics(path)]


def filled(path: Path, count: int) -> Path:
    with MetricsFile(path, after=0) as metrics:
        for step in range(1, count + 1):
            metrics.append(step, {"loss": 5.0 / step, "rank": None})
    return path


def test_a_line_can_be_read_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, after=0) as metrics:
        metrics.append(1, {"loss": 5.5})
        assert path.read_text() == '{"step": 1, "loss": 5.5}\n'
        metrics.append(2, {"loss": math.nan, "norm": math.inf})
    assert json.loads(path.read_text().splitlines()[1]) == {"step": 2, "loss": None, "norm": None}


def test_after_a_resume_each_step_stands_once(tmp_path: Path) -> None:
    path = filled(tmp_path / "metrics.jsonl", 7)
    with MetricsFile(path, after=5) as metrics:
        for step in (6, 7, 8):
            metrics.append(step, {"loss": 1.0})
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("torn", ["{", '{"step": 4, "lo', '{"step": 4, "loss": 1.0}'])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = filled(tmp_path / "metrics.jsonl", 3)
    with path.open("a") as file:
        file.write(torn)
    assert steps(path) == [1, 2, 3]
    assert truncate_after(path, 10) == 3
    assert path.read_text().endswith("}\n")
    assert steps(path) == [1, 2, 3]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_nothing_to_keep_or_nothing_there(tmp_path: Path) -> None:
    assert truncate_after(tmp_path / "none.jsonl", 3) == 0
    assert not (tmp_path / "none.jsonl").exists()
    path = filled(tmp_path / "metrics.jsonl", 3)
    assert truncate_after(path, 0) == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", ["oops", "[1]", '{"loss": 1}', '{"step": "3"}'])
def test_a_broken_line_inside_is_named_and_kept(tmp_path: Path, line: str) -> None:
    path = filled(tmp_path / "metrics.jsonl", 2)
    broken = path.read_text() + line + "\n" + '{"step": 4}\n'
    path.write_text(broken)
    with pytest.raises(ValueError, match=r"metrics.jsonl: line 3 is not a step: .*remove the line or the file"):
        truncate_after(path, 1)
    assert path.read_text() == broken


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    path = filled(tmp_path / "metrics.jsonl", 20)
    size = path.stat().st_size
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))
        try:
            with MetricsFile(path, after=20) as metrics:
                metrics.append(21, {"loss": 1.0})
        except ValueError as error:
            os._exit(0 if "cannot write step 21" in str(error) and "\n" not in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert steps(path) == list(range(1, 21))
    assert truncate_after(path, 99) == 20
