"""Every example runs and prints what stands in ``examples/output``; ``--update-goldens`` writes that anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["building_block", "compare_schedules", "my_schedule"])
def test_it_prints_what_is_stored(name, request):
    run = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "100"},
    )
    stored = EXAMPLES / "output" / f"{name}.txt"
    if request.config.getoption("--update-goldens"):
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(run.stdout)
    assert run.stdout == stored.read_text()
    assert run.stderr == ""
