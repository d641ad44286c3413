"""Errors of predictions may shrink, but not grow: those of the shipped table are recorded."""

import json
from pathlib import Path

import pytest

from penstock.calibrate.recorded import recorded_errors, worse

GOLDEN = Path(__file__).parent.parent / "golden" / "prediction_errors.json"
FIX = "if that is meant: python docs/refresh.py --errors"


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_errors_do_not_grow(every):
    found = worse(recorded_errors(every), json.loads(GOLDEN.read_text())[f"every {every}"])
    assert not found, "\n".join([*found, FIX])


def test_what_is_worse_is_told():
    before = {"a": {"time_n": 9, "time_median": 0.1, "spearman": 0.9, "judged_right": None}, "b": {"time_n": 3}}
    assert worse(before, before) == []
    assert worse({**before, "c": {"time_n": 1}}, before) == []
    assert worse({"a": {"time_n": 10, "time_median": 0.05, "spearman": 1.0}, "b": {"time_n": 4}}, before) == []
    assert worse({"a": {"time_n": 8, "time_median": 0.11, "spearman": 0.8}}, before) == [
        "a: time_n 8, recorded 9",
        "a: time_median 0.11, recorded 0.1",
        "a: spearman 0.8, recorded 0.9",
        "b: time_n None, recorded 3",
    ]
    assert worse({"a": {"time_n": 9, "time_median": 0.101, "spearman": 0.8995}, "b": {"time_n": 3}}, before) == []
