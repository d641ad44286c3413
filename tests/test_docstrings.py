"""Every example in the docstrings of the planning side runs and gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import penstock

PLANNING = (
    *("units", "core", "schedules", "lower", "cost", "engine", "predict", "search"),
    *("view", "calibrate", "export", "api"),
)


def modules():
    for found in pkgutil.walk_packages(penstock.__path__, "penstock."):
        top = found.name.split(".")[1]
        if top in PLANNING or top.startswith("cli"):
            yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples_hold(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", sorted({*penstock.__all__} - {"__version__", "SCHEDULES", "Kind"}))
def test_public_names_have_an_example(name):
    """In its own docstring or in one of its methods'."""
    found = doctest.DocTestFinder().find(getattr(penstock, name), module=False)
    assert any(test.examples for test in found)
