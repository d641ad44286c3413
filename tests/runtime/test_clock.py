"""Clocks of several ranks."""

from unittest import mock

import pytest
import torch
from ranks import on_ranks

from penstock.runtime import clock


def _offset(rank: int) -> tuple[float, float]:
    """This rank's offset as told and as asked for; rank 1's clock is 5 s behind."""
    cpu, now = torch.device("cpu"), clock.perf_counter_ns
    told = clock.offset_s(rank, 2, cpu)
    with mock.patch.object(clock, "perf_counter_ns", side_effect=lambda: now() - 5_000_000_000 * rank):
        return told, clock.ask_offset_s(rank, 2, cpu, rounds=16)


def test_a_clock_that_is_behind_is_found() -> None:
    (told, asked), (told_1, asked_1) = on_ranks(2, _offset)
    assert told == told_1 == 0.0
    assert asked == 0.0
    assert asked_1 == pytest.approx(5.0, abs=0.05)
