"""Least squares that bend, against closed forms, and work on all cores."""

import numpy as np
import pytest

from penstock.calibrate.least import NOISE, Target, again, least
from penstock.core.side_by_side import side_by_side


def line(rows=200, wild=0.0):
    """Errors of a line y = 1 + 2 t with a share of wild rows, as a function of offset and slope; and derivatives."""
    lots = np.random.default_rng(0)
    t = np.linspace(0, 1, rows)
    y = 1 + 2 * t + 0.01 * lots.standard_normal(rows)
    y[: int(wild * rows)] += 5
    design = np.stack([np.ones(rows), t], axis=1)
    return (lambda x: design @ x - y), (lambda x, errors: design)


def target(rows=200, usual=(0.0, 0.0), give=100.0, low=-9.0, high=9.0):
    both = np.ones(2)
    return Target(np.ones(rows), np.array(usual), give * both, low * both, high * both)


def test_a_line_is_found_and_wild_rows_move_it_little():
    assert least(target(), np.zeros(2), *line()).x == pytest.approx([1, 2], abs=0.01)
    assert least(target(), np.zeros(2), *line(wild=0.1), turns=40).x == pytest.approx([1, 2], abs=0.1)


def test_bounds_hold():
    found = least(target(high=1.5), np.zeros(2), *line(), turns=40).x
    assert found[1] == 1.5
    assert found[0] == pytest.approx(1.25, abs=0.03)


def test_what_rows_say_nothing_about_is_usual():
    errors_at, _ = line()
    idle = least(
        target(usual=(3.0, 0.0), give=0.5), np.zeros(2), lambda x: 0 * errors_at(x), lambda x, e: np.zeros((200, 2))
    )
    assert idle.x == pytest.approx([3, 0], abs=1e-3)


def test_standard_errors_are_those_of_a_mean():
    """The mean of n rows of the noise that is taken for granted is known to NOISE / sqrt(n)."""
    one = Target(np.ones(100), np.zeros(1), np.full(1, 1e3), np.full(1, -9.0), np.full(1, 9.0))
    deviations = one.deviations(np.zeros(1), np.zeros(100), np.ones((100, 1)))
    assert deviations == pytest.approx([NOISE / 10], rel=1e-6)


def test_again_finds_another_minimum_with_old_derivatives():
    errors_at, jacobian_at = line()
    found = least(target(), np.zeros(2), errors_at, jacobian_at)
    weight = np.ones(200)
    weight[100:] = 0
    other = Target(weight, *(getattr(target(), name) for name in ("usual", "give", "low", "high")))
    calls = []

    def counted(x):
        calls.append(x)
        return errors_at(x)

    assert again(other, found, counted) == pytest.approx(least(other, np.zeros(2), errors_at, jacobian_at).x, abs=2e-3)
    assert len(calls) <= 9


def test_work_is_done_in_the_order_of_its_items():
    assert side_by_side(lambda number: number * number, [*range(7)], processes=3) == [n * n for n in range(7)]
    assert side_by_side(str, [], processes=3) == []


def test_a_process_that_fails_is_an_error(capfd):
    def fails(number):
        if number == 2:
            raise KeyError(number)

    with pytest.raises(RuntimeError, match="a process that worked beside this one failed"):
        side_by_side(fails, [1, 2], processes=2)
    assert "KeyError" in capfd.readouterr().err


def test_a_variable_is_drawn_to_its_kin():
    """Two variables, of which the data tell the first alone: the other follows it, not what is usual."""
    target = Target(np.ones(40), np.zeros(2), np.full(2, 0.5), np.full(2, -9.0), np.full(2, 9.0), np.array([-1, 0]))
    jacobian = np.zeros((40, 2))
    jacobian[:, 0] = 1.0
    found = least(target, np.zeros(2), lambda x: x[0] - 2.0 + np.zeros(40), lambda x, errors: jacobian, turns=40)
    assert found.x[0] == pytest.approx(2.0, abs=0.02)
    assert found.x[1] == pytest.approx(found.x[0], abs=0.02)
    assert target.deviations(found.x, found.errors, jacobian)[1] == pytest.approx(0.5, rel=0.05)
