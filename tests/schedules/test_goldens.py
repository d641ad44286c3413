"""Plans as text in tests/golden, before and after lowering; a refactor leaves them untouched.

To write them anew after a meant change: ``pytest tests/schedules/test_goldens.py --update-goldens``; then read what
changed.
"""

import pytest

from penstock.core.plan import Plan
from penstock.lower import add_sends, add_step
from penstock.schedules import SCHEDULES, build

SIZES = {
    "interleaved": [(2, 2, 2), (2, 4, 2), (4, 4, 3), (2, 5, 2)],
    "breadth-first": [(2, 3, 2), (4, 4, 3)],
    "modular": [(2, 3, 2), (4, 4, 3)],
    "uniform": [(2, 3, 2), (3, 3, 2)],
    "gis": [(2, 4, 2), (4, 6, 2)],
    "gis-h": [(4, 4, 2), (4, 8, 3)],
    "hanayo": [(2, 3, 2), (4, 4, 2), (2, 4, 4)],
    "chimera": [(2, 4, 1), (4, 4, 1), (4, 8, 1)],
    "bitpipe": [(2, 4, 2), (4, 4, 2)],
    "mixpipe": [(2, 4, 1), (4, 6, 1), (4, 8, 1)],
    "dualpipe": [(2, 4, 1), (4, 8, 1), (6, 12, 1)],
    "dualpipev": [(1, 2, 2), (2, 4, 2), (3, 7, 2)],
    "zeropp": [(2, 7, 1), (2, 6, 2)],
    "seq1f1b-i": [(2, 2, 2), (2, 3, 1), (4, 4, 3)],
    "zb-v-auto": [(2, 2, 2), (2, 4, 2), (4, 8, 2)],
    "zb-v": [(2, 2, 2), (2, 4, 2), (4, 8, 2)],
    "1f1b-v": [(2, 3, 2), (4, 6, 2)],
    "v-half": [(2, 3, 2), (4, 6, 2)],
    "v-min": [(3, 3, 2), (4, 6, 2)],
    "v-auto": [(2, 3, 2), (4, 6, 2)],
    "interleaved-zb": [(2, 3, 1), (2, 4, 2), (4, 4, 3)],
}
USUAL = [(2, 3, 1), (4, 4, 1), (4, 2, 1)]


def stepped(plan):
    return add_step(plan) if plan.weights == "synced" else plan


LOWERINGS = {
    "plain": lambda plan: plan,
    "overlapped": lambda plan: stepped(add_sends(plan)),
    "blocking": lambda plan: add_sends(plan, sends="blocking"),
}
CASES = [(name, *size) for name in SCHEDULES for size in SIZES.get(name, USUAL)]


@pytest.mark.parametrize(("name", "ranks", "micros", "chunks"), CASES)
def test_plans_are_the_golden_ones(golden, name, ranks, micros, chunks):
    plan = build(name, ranks, micros, chunks)
    texts = [f"# {title}\n{lowering(plan).to_text()}" for title, lowering in LOWERINGS.items()]
    golden(f"{name}-p{ranks}-m{micros}-v{chunks}", "\n".join(texts))


def test_golden_text_reads_back(golden):
    plan = build("1f1b", 2, 3)
    assert Plan.from_text(plan.to_text()) == plan
