"""Start-up: how long the command line and ``import penstock`` take, beside bare Python and ``import torch``.

Each line is a fresh process; the lines take turns, the table shows medians and the ratio to bare Python.

    python bench/startup.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LINES = {
    "python -c pass": ["-c", "pass"],
    "import penstock": ["-c", "import penstock"],
    "penstock schedule zb-h1 --ranks 8 --micros 32": [
        *("-m", "penstock", "schedule", "zb-h1", "--ranks", "8", "--micros", "32"),
    ],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    took: dict[str, list[float]] = {name: [] for name in LINES}
    for _ in range(rounds):
        for name, line in LINES.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *line], check=True, stdout=subprocess.DEVNULL)
            took[name].append(time.perf_counter() - begun)
    bare = took["python -c pass"]
    print(f"{'':48}{'median s':>10}{'x bare Python':>15}")
    for name, seconds in took.items():
        ratio = statistics.median(s / b for s, b in zip(seconds, bare, strict=True))
        print(f"{name:48}{statistics.median(seconds):10.3f}{ratio:15.1f}")


if __name__ == "__main__":
    main()
