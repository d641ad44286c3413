import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind, Op
from penstock.core.timeline import Timeline
from penstock.engine import simulate
from penstock.lower import add_sends, add_step
from penstock.lower.place import place
from penstock.schedules import build

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Make = Callable[..., Timeline]
Open = Callable[..., Any]


def _make(
    schedule: str = "1f1b",
    ranks: int = 2,
    micros: int = 3,
    chunks: int = 1,
    sends: bool = False,
    blocking: bool = False,
    link_s: float = 0.0,
    step_s: float = 0.0,
    slower: float = 1.0,
    label: str = "predicted",
) -> Timeline:
    """A simulated timeline with unit costs; ``slower`` stretches every op of stage 0."""
    plan = build(schedule, ranks=ranks, micros=micros, chunks=chunks)
    plan = add_sends(plan, "blocking" if blocking else "overlapped") if sends or blocking else plan
    plan = add_step(plan) if step_s else plan
    costs = Costs.uniform(plan.placement, link_s=link_s, boundary_bytes=0.25)
    seconds = costs.seconds.copy()
    seconds[Kind.STEP] = step_s
    seconds[:, 0] *= slower
    return simulate(plan, replace(costs, seconds=np.asarray(seconds)), label)


def _dressed(schedule: str = "dualpipev", ranks: int = 2, micros: int = 5, chunks: int = 2, **costs: float) -> Timeline:
    """As above, with blocks, weights gathered twice and reduced, and activations of one micro-batch on the host."""
    plan = build(schedule, ranks, micros, chunks)
    new = []
    for stage, rank in enumerate(plan.placement.rank_of):
        first, behind = 4 * int(plan.first[rank]), 4 * int(plan.first[rank + 1])
        new += [((Kind.UNSHARD, stage, -1), rank, first), ((Kind.REDUCE_GRAD, stage, -1), rank, behind)]
        new += [((Kind.RESHARD, stage, -1), rank, behind)]
        row = {plan.op(k): k for k in range(len(plan))}
        new += [((Kind.OFFLOAD, stage, 0), rank, 4 * row[Op(Kind.F, stage, 0)] + 3)]
        back = next(row[op] for kind in (Kind.B, Kind.I) if (op := Op(kind, stage, 0)) in row)
        new += [((Kind.FETCH, stage, 0), rank, 4 * back)]
    ops, ranks_of, places = zip(*new, strict=True)
    plan = add_sends(place(plan, np.array(ops), np.array(ranks_of), np.array(places)))
    other = dict.fromkeys((Kind.UNSHARD, Kind.REDUCE_GRAD), 1.0) | dict.fromkeys((Kind.OFFLOAD, Kind.FETCH), 0.5)
    priced = Costs.uniform(plan.placement, boundary_bytes=0.25, link_s=0.1, other_s=other, **costs)
    return simulate(plan, replace(priced, weight_bytes=np.full(plan.placement.stages, 0.5)), "predicted")


@pytest.fixture(scope="session")
def dressed() -> Make:
    return _dressed


@pytest.fixture(scope="session")
def make() -> Make:
    return _make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page from disk; at the end there must have been no error, no message and no request but for the file."""
    said: list[str] = []
    requests: list[str] = []
    opened: list[Any] = []

    def opener(text: str, width: int = 1200, height: int = 800, **context: Any) -> Any:
        file = tmp_path / f"{len(opened)}.html"
        file.write_text(text, "utf-8")
        tab = browser.new_page(viewport={"width": width, "height": height}, **context)
        tab.on("console", lambda message: "willReadFrequently" in message.text or said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_function("window.penstock")
        opened.append((tab, file.as_uri()))
        return tab

    yield opener
    assert said == []
    assert requests == [uri for _, uri in opened]
    for tab, _ in opened:
        tab.close()
