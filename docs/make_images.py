"""Draws the pictures of README.md and the pages anew.

    python docs/make_images.py [RESULTS_FOLDER]

Without a folder it first trains for 30 steps. The pictures of the report pages need Chromium and are left as they are
where there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blocks import ROOT

from penstock import Costs, Timeline, build, simulate
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict.explain import explain
from penstock.view import plot, roofline

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 300_000
LINK_S = 0.5


def main() -> None:
    """Write every picture."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else train(Path(scratch) / "run")
        draw_run(folder)
        draw_report(folder)
        draw_plan(Path(scratch))
    draw_roofline()
    draw_pair("zero-bubble", "1F1B and ZB-H1 on 4 ranks", ("1f1b", "zb-h1"), 0.0)
    own = f"{ROOT / 'examples' / 'my_own_schedule.py'}:early"
    draw_pair("own-schedule", f"A message takes {LINK_S}, F, I and W take 1 each", ("1f1b", own), LINK_S)
    for image in sorted(IMAGES.glob("*.png")):
        size = image.stat().st_size
        print(f"{image.relative_to(ROOT)}  {size:,} bytes{'' if size <= MOST_BYTES else ': too large'}")


def train(folder: Path) -> Path:
    """A run of 30 steps on two ranks; its results folder."""
    command = [sys.executable, "-m", "penstock", "run", "--steps", "30", "--out", str(folder)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    return folder


def draw_run(folder: Path) -> None:
    """The predicted and the measured timeline of a run."""
    found = [Timeline.from_json((folder / f"{name}.json").read_text()) for name in ("predicted", "measured")]
    plot.save(found, IMAGES / "run.png", "One training step on two processes", dpi=120)


def draw_roofline() -> None:
    """The operators of the step that docs/predict.md predicts."""
    setup = Setup(seq=8192, batch=512, tp=2, pp=4, dp=8, sp=True, zero=1, chunks=2, schedule="interleaved")
    found = explain(model_of("llama-3-8b"), Cluster.read("dgx-h100:8"), setup, stack("megatron-core"))
    roofline.save(found.roofline, IMAGES / "roofline.png", "Llama 3 8B on H100, one rank of tp=2 pp=4 dp=8")


def draw_pair(name: str, title: str, schedules: tuple[str, str], link_s: float) -> None:
    """Two schedules on four ranks at unit costs."""
    found = []
    for schedule in schedules:
        plan = build(schedule, ranks=4, micros=8)
        costs = Costs.uniform(plan.placement, link_s=link_s)
        found.append(replace(simulate(plan, costs), label="simulated"))
    plot.save(found, IMAGES / f"{name}.png", title, unit="", dpi=120)


def draw_report(folder: Path) -> None:
    """The report page of a run as a browser shows it."""
    _draw_page(folder / "report.html", "report", 1500)


def draw_plan(folder: Path) -> None:
    """The report of the plan that docs/plan.md asks for, likewise."""
    asked = "--model llama-3-70b --cluster dgx-h100:64 --seq 8192 --batch 1024 --tokens 15e12 --report"
    command = [sys.executable, "-m", "penstock", "plan", *asked.split(), str(folder / "plan.html")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    _draw_page(folder / "plan.html", "plan", 1740)


def _draw_page(page: Path, name: str, high: int) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print(f"no Chromium here: docs/images/{name}.png stays as it is")
        return
    _shorten(lambda shot: _shoot(browser, page, shot, high), IMAGES / f"{name}.png")


def _shoot(browser: str, page: Path, shot: Path, high: int) -> None:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size=1200,{high}", "--virtual-time-budget=5000", f"--screenshot={shot}"]
    command += [page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def _shorten(make: Callable[[Path], None], image: Path) -> None:
    """Keep a picture without the blank rows at its foot and in 256 colours."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        make(shot)
        with Image.open(shot) as picture:
            pixels = np.asarray(picture.convert("RGB"))
            used = np.flatnonzero((pixels != pixels[-1, 0]).any(axis=(1, 2)))
            cut = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, int(used[-1]) + 24)))
            cut.quantize(256).save(image, optimize=True)


if __name__ == "__main__":
    main()
