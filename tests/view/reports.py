"""A small plan with all that a report holds, for the tests of its page."""

from __future__ import annotations

import contextlib
import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from penstock.cli.main import main
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.setup import Setup
from penstock.core.timeline import Timeline
from penstock.cost.stack import stack
from penstock.predict import predict

MODEL, CLUSTER = "gpt:L=8,h=2048,a=16,vocab=50304", "dgx-h100:2"
ASKED = ["plan", "--model", MODEL, "--cluster", CLUSTER, "--seq", "2048", "--batch", "64", "--top", "4"]
FIX = ["--fix", "pp=2..4,cp=1,tp=1..2,zero=1,micro=1..2", "--why", "tp=4,pp=2", "--tokens", "1e12"]


@cache
def made() -> tuple[dict[str, Any], str, str, str]:
    """The facts, and the report as a page and as text, and what the terminal shows."""
    with TemporaryDirectory() as name:
        files = [Path(name) / f"plan.{suffix}" for suffix in ("json", "html", "txt")]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main([*ASKED, *FIX, *(word for file in files for word in ("--report", str(file)))])
        facts, page, text = (file.read_text("utf-8") for file in files)
    return json.loads(facts), page, text, said.getvalue()


def timeline_of(choice: dict[str, Any]) -> Timeline:
    """The pipeline of a choice."""
    split = {name: tuple(value) if isinstance(value, list) else value for name, value in choice["setup"].items()}
    model: Architecture = model_of(MODEL)
    return predict(model, Cluster.read(CLUSTER), Setup(**split), stack("megatron-core")).timeline
