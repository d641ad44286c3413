"""Passes on the command line: figures are those of the plan behind them, bounds stay true, mistakes are named."""

import json

import pytest

from penstock import api
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.engine import check, simulate
from penstock.engine.passes import PASSES, SELECTIVE, apply_passes
from penstock.lower import recompute
from penstock.schedules import SCHEDULES, build


@pytest.fixture
def figures(penstock, tmp_path):
    def run(line):
        file = tmp_path / "figures.json"
        code, out, err = penstock(f"{line} --json {file}")
        assert (code, err) == (0, "")
        return json.loads(file.read_text()), out

    return run


def test_figures_are_those_of_the_plan_behind_the_passes(figures):
    bare, _ = figures("schedule 1f1b -p 4 -m 8")
    full, out = figures("schedule 1f1b -p 4 -m 8 --pass recompute")
    # per micro-batch one forward more on the rank that bounds the period, and in the way back of the last rank
    assert (bare["makespan"], full["makespan"]) == (33, 41)
    assert (bare["peak_over_p"], full["peak_over_p"]) == (1, 0.25)
    assert full["passes"] == ["recompute"]
    assert "R0" in out
    assert "bounds within any" in out


def test_selective_keeps_more_and_takes_less(figures):
    kept, time = SELECTIVE
    found, _ = figures("schedule gpipe -p 2 -m 4 --pass recompute=selective")
    assert found["peak_over_p"] == pytest.approx((3 * kept + 1) / 2)
    assert found["makespan"] == pytest.approx(
        15 + 4 * time
    )  # those of the last rank; the first makes its own while it waits
    said, _ = figures("schedule gpipe -p 2 -m 4 --pass recompute=selective,kept=0.5,time=0.25")
    assert (said["peak_over_p"], said["makespan"]) == (pytest.approx(2.5 / 2), pytest.approx(16))


def test_offload_moves_a_share_without_making_anything_later(figures):
    bare, _ = figures("schedule gis-h -p 8 -m 16 -v 2")
    whole, _ = figures("schedule gis-h -p 8 -m 16 -v 2 --pass offload")
    half, _ = figures("schedule gis-h -p 8 -m 16 -v 2 --pass offload=0.5")
    assert bare["makespan"] == whole["makespan"] == half["makespan"]
    assert whole["peak_over_p"] < half["peak_over_p"] < bare["peak_over_p"]
    slow, _ = figures("schedule gis-h -p 8 -m 16 -v 2 --pass offload=1,time=4")
    assert whole["peak_over_p"] < slow["peak_over_p"]
    assert bare["makespan"] == slow["makespan"]


def test_passes_go_in_order(figures):
    apart, _ = figures("schedule 1f1b -p 4 -m 8 --pass split --pass merge")
    same, _ = figures("schedule 1f1b -p 4 -m 8")
    late, _ = figures("schedule 1f1b -p 4 -m 8 --pass 2bp")
    assert apart["makespan"] == same["makespan"] > late["makespan"]
    assert apart["passes"] == ["split", "merge"]
    fewer, _ = figures("schedule 1f1b -p 4 -m 8 --pass recompute=keep=1 --pass offload=1,time=0.1")
    assert fewer["peak_over_p"] < 1


def test_recompute_to_fit_takes_only_what_the_limit_asks(figures):
    found, out = figures("schedule 1f1b -p 4 -m 8 --pass recompute=memory=0.75 --memory 0.75")
    assert found["peak_over_p"] == 0.75
    first = next(line for line in out.splitlines() if line.startswith("rank 0"))
    assert "R" in first
    assert all("R" not in line for line in out.splitlines() if line.startswith(("rank 1", "rank 2", "rank 3")))


def test_the_limit_is_judged_behind_the_passes(penstock, figures):
    code, _, err = penstock("schedule 1f1b -p 4 -m 8 --memory 0.5")
    assert code == 2
    assert "peaks at 1 of 1F1B's memory" in err
    found, _ = figures("schedule 1f1b -p 4 -m 8 --memory 0.5 --pass recompute")
    assert found["peak_over_p"] <= 0.5
    code, _, err = penstock("schedule 1f1b -p 4 -m 8 --memory 0.5 --pass split")
    assert code == 2
    assert "peaks at 1 of 1F1B's memory" in err


def test_an_order_that_reads_costs_keeps_the_limit_only_if_the_passes_do_not(figures):
    loose, _ = figures("schedule zb-1p -p 4 -m 8 --memory 0.5 --w-share 0 --pass offload=1,time=0.1")
    tight, _ = figures("schedule zb-1p -p 4 -m 8 --memory 0.5 --w-share 0 --pass split")
    assert loose["peak_over_p"] <= 0.5
    assert tight["peak_over_p"] <= 0.5
    assert loose["makespan"] < tight["makespan"]


def test_all_ranks_behind_the_passes(figures):
    found, out = figures("schedule all -p 2 -m 4 --memory 0.6 --pass recompute")
    names = {row["name"] for row in found}
    assert {"1f1b", "dualpipe"} <= names
    assert "not seq1f1b: recompute: plan 'seq1f1b' has" in out
    assert all(row["peak_over_p"] <= 0.6 for row in found)


def test_simulate_takes_passes_and_sends(figures, tmp_path):
    plan = tmp_path / "plan.json"
    api.show(api.build("1f1b", 2, 4), plan)
    found, out = figures(f"simulate {plan} --pass recompute --sends overlapped --costs 1,1,1,0.25")
    assert "R0" in out
    assert found["peak_over_p"] == 0.5
    again = tmp_path / "again.json"
    api.show(recompute(api.build("1f1b", 2, 4)), again)
    assert figures(f"simulate {again} --sends overlapped --costs 1,1,1,0.25")[0]["makespan"] == found["makespan"]


@pytest.mark.parametrize("text", ["recompute", "recompute=selective", "offload=1,time=0.3", "2bp", "shard", "reduce"])
@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved", "chimera", "dualpipe", "v-half"])
def test_bounds_stay_below_whatever_passes_do(figures, name, text):
    found, _ = figures(f"schedule {name} -p 4 -m 8 --costs 2,2.5,1,0.3 --pass {text}")
    assert 0 < found["lower_bound_span"] <= found["span"] * (1 + 1e-9)
    assert 0 < found["lower_bound_makespan"] <= found["makespan"] * (1 + 1e-9)
    assert (found["bound_memory"] is None) == text.startswith(("recompute", "offload"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recomptue", "unknown pass 'recomptue'; did you mean 'recompute'?"),
        ("recompute=slective", "recompute: what=slective is unknown; did you mean 'selective'?"),
        ("recompute=full,stagse=1", "recompute has no option 'stagse'; did you mean 'stages'?"),
        ("recompute=full,full", "recompute has no option 'full'"),
        ("recompute=what=full,what=full", "what is given twice"),
        ("recompute=keep=1.5", "recompute: keep=1.5: give a whole number"),
        ("recompute=stages=0,1", "recompute has no option '1'"),
        ("recompute=stages=0+x", "stages=0+x: give whole numbers joined by +, for example 0+2"),
        ("recompute=stages=7", "recompute: stage 7: stages count from 0 to 3"),
        ("recompute=memory=0.1", "recompute: rank 3 holds 1 bytes with all it can recompute"),
        ("recompute=memory=0.5,keep=1", "memory chooses what is made again by itself; leave out stages and keep"),
        ("recompute=kept=1.5", "kept_share=1.5"),
        ("offload=half", "offload: share=half: give a number"),
        ("offload=1.5", "share=1.5 of the activations; give more than 0, at most 1"),
        ("offload=time=-1", "time=-1; give a finite number, not negative"),
        ("shard=0", "the window holds 0; widen it"),
        ("reduce=maybe", "reduce: eager=maybe is unknown; did you mean 'yes'?"),
        ("split=3", "split has no option '3'; it has none"),
    ],
)
def test_mistakes_are_named(penstock, text, message):
    code, _, err = penstock(f"schedule 1f1b -p 4 -m 8 --pass {text}")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_files_that_cannot_hold_a_pass_say_so(penstock, tmp_path):
    code, _, err = penstock(f"schedule 1f1b -p 2 -m 4 --pass recompute --csv {tmp_path / 'a.csv'}")
    assert code == 2
    assert "R0" in err
    assert not (tmp_path / "a.csv").exists()


def test_what_costs_know_of_recompute_and_copies_holds():
    plan = build("gpipe", 2, 4)
    known = Costs.uniform(plan.placement, other_s={Kind.R: 0.7, Kind.OFFLOAD: 0.1, Kind.FETCH: 0.2})
    known = Costs(**{**vars(known), "kept_share": known.kept_share + 0.3})
    _, costs = apply_passes(plan, known, ["recompute=selective", "offload"])
    assert costs.seconds[[Kind.R, Kind.OFFLOAD, Kind.FETCH], 0].tolist() == [0.7, 0.1, 0.2]
    assert costs.kept_share.tolist() == [0.3, 0.3]
    _, costs = apply_passes(plan, known, ["recompute=selective,time=0.5", "offload=1,time=2"])
    assert costs.seconds[Kind.R, 0] == 0.5
    assert costs.seconds[Kind.OFFLOAD, 0] == pytest.approx(2 * SELECTIVE[0])  # there is only what recompute keeps


def test_every_pass_leaves_every_schedule_that_it_takes_runnable():
    for name in SCHEDULES:
        bare = build(name, 4, 8, 2 if SCHEDULES[name].chunks else 1)
        costs = Costs.uniform(bare.placement).sliced(bare.slices)
        for text in PASSES:
            late = bare.weights == "synced" and not (bare.ops[:, 0] == Kind.REDUCE_GRAD).any()
            if (bare.slices > 1 and text == "recompute") or (text == "2bp" and not late):
                continue
            plan, priced = apply_passes(bare, costs, [text])
            check(plan)
            assert simulate(plan, priced).makespan_s > 0
