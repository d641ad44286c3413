"""When loops are compiled."""

import subprocess
import sys

from penstock.core import compiled
from penstock.core.compiled import COMPILE_FROM_OPS, warmed

FIRST_USE = """
import sys
from penstock.core.compiled import _asked
from penstock.schedules import SCHEDULES, build
for name, found in SCHEDULES.items():
    build(name, 8, 24, found.least_chunks(8, 24))
    assert "numba" not in sys.modules, name
    _asked.cache_clear()
"""


def test_a_loop_is_compiled_once_enough_was_asked_of_it(monkeypatch):
    def loop():
        return 1

    monkeypatch.setattr(compiled, "native", lambda plain: "compiled")
    assert [warmed(loop, 40, most=100) for _ in range(3)] == [loop, loop, "compiled"]
    assert warmed(lambda: 2, COMPILE_FROM_OPS - 1)() == 2
    assert warmed(lambda: 2, COMPILE_FROM_OPS) == "compiled"


def test_the_first_build_of_any_schedule_waits_for_no_compiler():
    """At p=8, m=24 and equal times, each as if it were the first of its process."""
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
