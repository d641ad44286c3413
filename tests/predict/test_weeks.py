"""Shares of time over weeks, beside a simulation of the events; intervals beside Young's and Daly's; energy."""

from dataclasses import replace
from heapq import heappop, heappush
from math import exp

import numpy as np
import pytest

from penstock import predict_step
from penstock.core.cluster import Cluster
from penstock.cost.constants import constants
from penstock.predict.energy import joules, rated_w, training_w
from penstock.predict.failures import Failures, default, published_mtbf_s, table
from penstock.predict.goodput import best_interval_s, blocked, daly_s, goodput, goodput_of, young_s

HOUR_S = 3600.0
MACHINES = Cluster.read("dgx-h100:64")
BYTES = 10.0 * 512 * default("write_mb_per_s") * 1e6
"""Of a checkpoint that takes ten seconds."""
PLAIN = {"restart_s": 0.0, "load_s": 0.0, "write_s": 0.0, "node_share": 0.0}


def simulated(seed, turns, found, failures):
    """What time goes to, event by event: trainings that fall back to the last checkpoint that counts."""
    rng = np.random.default_rng(seed)
    turn_s, late_s = found.every_s + found.stop_s, found.write_s - found.stop_s
    back_s = found.load_s + failures.warm_up_s
    spent = dict.fromkeys(("up", "restarts", "waiting for nodes"), 0.0)
    at_s, safe, clock, broken = 0.0, 0, 0.0, []

    def fail():
        nonlocal clock
        if rng.random() < failures.node_share:
            heappush(broken, clock + rng.exponential(failures.repair_s))
        while broken and broken[0] <= clock:
            heappop(broken)
        if len(broken) > found.spares:
            spent["waiting for nodes"] += broken[0] - clock
            clock = heappop(broken)
        spent["restarts"] += failures.restart_s
        clock += failures.restart_s

    while True:
        runs_s = rng.exponential(found.mtbf_s)
        if at_s + runs_s >= turns * turn_s:
            spent["up"] += turns * turn_s - at_s
            break
        at_s, clock = at_s + runs_s, clock + runs_s
        spent["up"] += runs_s
        safe = max(safe, int((at_s - late_s) // turn_s))
        fail()
        while (alive_s := rng.exponential(found.mtbf_s)) < back_s:
            clock += alive_s
            spent["restarts"] += alive_s
            fail()
        clock += back_s
        spent["restarts"] += back_s
        at_s = safe * turn_s
    whole_s = sum(spent.values())
    steps_s = turns * found.every_s
    return {
        "steps": steps_s / whole_s,
        "checkpoints": turns * found.stop_s / whole_s,
        "work done again": (spent["up"] - turns * turn_s) / whole_s,
        "restarts": spent["restarts"] / whole_s,
        "waiting for nodes": spent["waiting for nodes"] / whole_s,
    }


@pytest.mark.parametrize(
    ("job_mtbf_h", "given"),
    [
        (24.0, {"write_s": 60.0, "spares": 0}),
        (3.0, {"write_s": 120.0, "restart_s": 900.0, "warm_up_s": 120.0, "spares": 1}),
        (1.0, {"write_s": 300.0, "stop_s": 20.0, "restart_s": 300.0, "spares": 3, "repair_s": 2 * HOUR_S}),
        (0.5, {"write_s": 60.0, "load_s": 240.0, "restart_s": 600.0, "node_share": 0.0}),
        (6.0, {"write_s": 30.0, "repair_s": 12 * HOUR_S, "node_share": 0.5, "spares": 0}),
        (6.0, {"write_s": 30.0, "every_s": 4 * HOUR_S, "spares": 2}),
    ],
)
def test_the_formula_is_what_events_come_to(job_mtbf_h, given):
    failures = Failures(mtbf_s=job_mtbf_h * HOUR_S * 512, **given)
    found = goodput_of(5.0, BYTES, 512, MACHINES, failures)
    assert sum(found.parts.values()) == pytest.approx(1)
    assert found.parts["steps"] == found.share
    turns = int(20_000 * found.mtbf_s / found.every_s)
    events = simulated(7, turns, found, failures)
    waiting = events.pop("waiting for nodes")
    assert waiting - 0.005 < found.parts["waiting for nodes"] < 1.2 * waiting + 0.005  # repairs go on in restarts too
    for name, share in events.items():
        assert found.parts[name] == pytest.approx(share, abs=0.005), name
    assert found.share == pytest.approx(events["steps"], abs=0.008)


def test_events_say_that_the_interval_is_the_best():
    def share(times):
        failures = Failures(
            mtbf_s=3 * HOUR_S * 512, write_s=120.0, node_share=0.0, every_s=times * best_interval_s(120.0, 3 * HOUR_S)
        )
        found = goodput_of(1.0, 0.0, 512, MACHINES, failures)
        return simulated(3, int(15_000 * found.mtbf_s / found.every_s), found, failures)["steps"]

    best = share(1.0)
    assert best > share(0.6)
    assert best > share(1.6)


@pytest.mark.parametrize("stop_s", [0.1, 10.0, 300.0, 3600.0])
def test_the_best_interval_is_that_of_young_and_daly(stop_s):
    mtbf_s = 6 * HOUR_S
    best_s = best_interval_s(stop_s, mtbf_s)

    def per_work(every_s):
        return (exp((every_s + stop_s) / mtbf_s) - 1) / every_s

    assert per_work(best_s) < min(per_work(0.99 * best_s), per_work(1.01 * best_s))
    assert daly_s(stop_s, mtbf_s) == pytest.approx(best_s, rel=0.003)
    assert young_s(stop_s, mtbf_s) == pytest.approx(best_s, rel=0.6 * (stop_s / mtbf_s) ** 0.5)
    assert daly_s(3 * mtbf_s, mtbf_s) == mtbf_s


def test_what_costs_nothing_loses_nothing():
    found = goodput_of(2.0, BYTES, 512, MACHINES, Failures(mtbf_s=1e15, **PLAIN))
    assert found.share == pytest.approx(1)
    stop = goodput_of(2.0, BYTES, 512, MACHINES, Failures(mtbf_s=1e15, every_s=100.0, restart_s=0.0, node_share=0.0))
    assert (stop.every_steps, stop.share) == (50, pytest.approx(100 / 110))


def test_checkpoints_take_what_storage_takes():
    found = goodput_of(2.0, BYTES, 512, MACHINES, Failures(write_bytes_per_s=1e9, load_bytes_per_s=4e9))
    assert (found.write_s, found.stop_s, found.load_s) == pytest.approx((0.794, 0.794, 0.1985))


def test_stragglers_slow_everybody():
    found = goodput_of(2.0, 0.0, 512, MACHINES, Failures(mtbf_s=1e15, slow_share=0.01, slow_by=0.2, **PLAIN))
    slowed = 1 + 0.2 * (1 - 0.99**64)
    assert found.step_s == pytest.approx(2.0 * slowed)
    assert found.share == pytest.approx(1 / slowed)
    assert found.parts["stragglers"] == pytest.approx(1 - 1 / slowed)


def test_spare_nodes_wait_so_that_nobody_else_does():
    shares = [goodput_of(5.0, BYTES, 512, MACHINES, Failures(spares=spares)) for spares in range(4)]
    waiting = [each.parts["waiting for nodes"] for each in shares]
    assert waiting == sorted(waiting, reverse=True)
    assert [each.share for each in shares] == sorted(each.share for each in shares)
    assert blocked(3, 2.0) == pytest.approx((8 / 6) / (1 + 2 + 2 + 8 / 6))


@pytest.mark.parametrize(("devices", "repair_s"), [(64, HOUR_S), (512, 2 * HOUR_S), (512, 96 * HOUR_S)])
def test_spare_nodes_are_as_many_as_make_a_training_cheapest(devices, repair_s):
    chosen = goodput_of(5.0, BYTES, devices, MACHINES, Failures(repair_s=repair_s))
    of = [goodput_of(5.0, BYTES, devices, MACHINES, Failures(repair_s=repair_s, spares=n)) for n in range(20)]
    assert chosen == min(of, key=lambda each: (each.nodes + each.spares) / each.share)


def test_larger_jobs_fail_more_often_and_checkpoint_more_often():
    few, many = (goodput_of(5.0, BYTES, n, MACHINES, Failures(node_share=0.0)) for n in (64, 512))
    assert few.mtbf_s == pytest.approx(8 * many.mtbf_s)
    assert few.best_s > many.best_s
    assert few.share > many.share


def test_the_run_that_the_default_rate_is_of_trained_nine_tenths_of_the_time():
    """Llama Team 2024, arXiv:2407.21783: more than 90 % of 54 days on 16,384 devices; all else by default."""
    found = goodput_of(7.0, 14.0 * 405e9, 16_384, Cluster.read("dgx-h100:2048"), Failures())
    assert 0.9 < found.share < 0.96
    assert found.failures_per_s * 54 * 24 * HOUR_S == pytest.approx(419, rel=0.1)


def test_published_rates():
    assert published_mtbf_s("meta-rsc-1") == pytest.approx(1.8 * 16_384 * HOUR_S)
    assert all(20_000 < published_mtbf_s(name) / HOUR_S < 200_000 for name in table()["rates"])
    assert all(facts["source"] for part in table().values() for facts in part.values())
    with pytest.raises(ValueError, match="did you mean 'llama-3-405b'"):
        published_mtbf_s("llama-405b")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mtbf_s": 0.0}, "mtbf_s=0 must be above 0"),
        ({"spares": -1}, "spares=-1 must be 0 or more"),
        ({"restart_s": float("nan")}, "restart_s=nan must be"),
        ({"node_share": 1.1}, "node_share=1.1 is no share; use 0 to 1"),
        ({"slow_share": 0.1}, "say which share of nodes is slow"),
        ({"stop_s": 11.0}, "stop_s=11 is longer than writing takes, 10 s"),
        ({"stop_s": 1.0, "every_s": 5.0}, "every_s=5 is less than the 9 s in which .*; give as much or more"),
        ({"mtbf_s": 512 * 1.0}, "interrupted every 1 s, and a checkpoint is reached after"),
    ],
)
def test_what_cannot_be_is_said(given, says):
    with pytest.raises(ValueError, match=says):
        goodput_of(5.0, BYTES, 512, MACHINES, Failures(**given))


def test_energy_is_power_times_time():
    assert rated_w(MACHINES, 256) == pytest.approx(32 * 10_200)
    assert training_w(MACHINES, 256) == pytest.approx(constants("power")["active_share"] * 32 * 10_200)
    assert joules(MACHINES, 256, 7.0) == pytest.approx(training_w(MACHINES, 256) * 7.0)
    nodes = tuple((replace(node, power_w=None), count) for node, count in MACHINES.groups)
    assert joules(replace(MACHINES, groups=nodes), 256, 7.0) is None


def test_a_prediction_over_weeks_and_what_its_hardware_does():
    plain, again = (
        predict_step("llama-3-8b", "dgx-h100:1", seq=4096, batch=64, tp=4, recompute=how) for how in ("none", "full")
    )
    assert plain.hfu == plain.mfu
    assert again.hfu == pytest.approx((again.model_flops + again.again_flops) / again.seconds / again.peak_flops)
    assert 1.25 < again.hfu / again.mfu < 4 / 3
    one = Cluster.read("dgx-h100:1")
    assert goodput(plain, one) == goodput_of(plain.seconds, plain.checkpoint_bytes, 8, one, Failures())
