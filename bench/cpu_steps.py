"""Step times of runs on this machine's CPU beside those predicted from its calibration, and nothing else.

Calibrates, then trains the default run and variations of it, and predicts each with what was calibrated. Other programs
slow a run down, but count little in a calibration: the machine should have nothing else to do.

    python bench/cpu_steps.py [--seconds 90] [--steps 40] [--cluster mine.toml] [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from penstock import predict_step
from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.job import Job

WARM = 5
"""Steps left out."""
WIDER = {"hidden_size": 320, "intermediate_size": 896, "num_attention_heads": 10, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Case:
    """A run: its model's keys that differ from the default one's, and what differs in its job."""

    name: str
    keys: dict[str, int]
    seq: int = 256
    ranks: int = 2
    schedule: str = "1f1b"
    chunks: int = 1


CASES = (
    Case("the default run", {}),
    Case("wider", WIDER),
    Case("longer sequences", {"max_position_embeddings": 1024}, seq=512),
    Case("zb-h1", {}, schedule="zb-h1"),
    Case("one rank", {}, ranks=1),
    Case("interleaved", {}, schedule="interleaved", chunks=2),
)


def model_of(case: Case, folder: Path) -> str:
    """A file like that of the default model."""
    config = json.loads((files("penstock") / "data" / "models" / "tiny-llama.json").read_text())
    file = folder / f"{case.name.replace(' ', '-')}.json"
    file.write_text(json.dumps(config | case.keys))
    return str(file)


def measured_s(case: Case, model: str, folder: Path, steps: int) -> list[float]:
    """Seconds of the steps of a run, first ones left out."""
    out = folder / f"run-{case.name.replace(' ', '-')}"
    flags = {"--model": model, "--steps": steps, "--seq-length": case.seq, "--ranks": case.ranks, "--out": out}
    flags |= {"--schedule": case.schedule, "--chunks": case.chunks, "--held-out-sequences": 0, "--checkpoint-every": 0}
    command = [sys.executable, "-m", "penstock", "run", *(str(word) for pair in flags.items() for word in pair)]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["step_s"] for row in rows if "step_s" in row][WARM:]


def predicted(case: Case, model: str, cluster: Cluster) -> Any:
    """What is predicted of it."""
    return predict_step(
        read_architecture(model), cluster, "penstock", seq=case.seq, batch=Job().batch, pp=case.ranks, dp=1,
        schedule=case.schedule, chunks=case.chunks, precision="fp32",
    )  # fmt: skip


def calibrated(folder: Path, seconds: float) -> Path:
    """The cluster file of this machine."""
    file = folder / "here.toml"
    command = [sys.executable, "-m", "penstock", "calibrate", "--device", "cpu", "--out", str(file)]
    subprocess.run([*command, "--seconds", str(seconds)], check=True, capture_output=True)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="of the calibration")
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--cluster", type=Path, help="a file that penstock calibrate wrote here, instead")
    parser.add_argument("--only", choices=[case.name for case in CASES])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
        cluster = Cluster.read(arguments.cluster or calibrated(folder, arguments.seconds))
        print(f"{'':<18}{'predicted':>12}{'measured':>12}{'quickest':>12}{'predicted/measured':>21}", flush=True)
        for case in CASES if not arguments.only else [case for case in CASES if case.name == arguments.only]:
            model = model_of(case, folder)
            seconds, said = measured_s(case, model, folder, arguments.steps), predicted(case, model, cluster).seconds
            median, least = statistics.median(seconds), min(seconds)
            row = f"{said * 1e3:>9.0f} ms{median * 1e3:>9.0f} ms{least * 1e3:>9.0f} ms{said / median:>21.2f}"
            print(f"{case.name:<18}{row}", flush=True)


if __name__ == "__main__":
    main()
