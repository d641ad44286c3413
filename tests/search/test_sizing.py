"""Numbers of nodes, sequences and models against every strategy of every one of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from penstock.core.cluster import Cluster, Tier
from penstock.core.config import gpt
from penstock.core.config.members import family, is_scaled, members, scaled
from penstock.predict import scores
from penstock.predict.floor import work_s
from penstock.predict.score import ranks_of
from penstock.search.finals import predicted_of
from penstock.search.fleet import Fleet, fleet_of
from penstock.search.largest import largest
from penstock.search.longest import at, longest
from penstock.search.nodes import counted, grown
from penstock.search.planner import best_of
from penstock.search.sizing import Limits, cheapest, fewest, least, near, rent_of, sized
from penstock.search.space import Space, space_of

DENSE = gpt(layers=8, hidden=2048, heads=16, vocab=50304, positions=2048)
EXPERTS = gpt(layers=8, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048)
FIX = "cp=1,zero=1,sp=1,micro=1,recompute=none/full,tp=1..4,schedule=1f1b,stage_layers=even,shards=0"
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    tiers = (Tier(nodes=2, oversubscription=2.0), Tier(nodes=4, oversubscription=2.0, extra_s=1e-6))
    cluster = replace(Cluster.read("dgx-h100:8"), tiers=tiers)
    return Fleet(space_of(DENSE, cluster, seq=2048, batch=24, fix=FIX), COUNTS, 0.05)


@pytest.fixture(scope="module")
def brute(fleet: Fleet) -> dict[int, float]:
    """Seconds of the fastest strategy on exactly so many nodes."""
    found = {}
    for nodes in COUNTS:
        space = replace(fleet.space, cluster=grown(fleet.space.cluster, nodes))
        if space.splits():
            found[nodes] = best_of(space, top=1, headroom=0.05).best.seconds
    return found


def new(fleet: Fleet) -> Fleet:
    """The same, with nothing known yet."""
    return Fleet(fleet.space, fleet.counts, fleet.headroom)


def test_times_are_those_of_clusters_of_exactly_so_many_nodes(fleet: Fleet, brute: dict[int, float]) -> None:
    assert len(brute) >= 6
    assert {nodes: fleet.best(nodes).seconds for nodes in brute} == pytest.approx(brute, rel=1e-12)
    assert all(fleet.best(nodes).proven for nodes in brute)
    assert all(new(fleet).floor_s(nodes) < brute[nodes] for nodes in brute)


def test_times_do_not_fall_with_every_node(brute: dict[int, float]) -> None:
    times = [brute[nodes] for nodes in sorted(brute)]
    assert any(later > earlier for earlier, later in pairwise(times))


def test_the_fewest_nodes_are_the_fewest_of_all(fleet: Fleet, brute: dict[int, float]) -> None:
    for limit_s in [*sorted(brute.values())[1::3], min(brute.values()) * 0.999, max(brute.values()) * 2]:
        found = fewest(new(fleet), lambda nodes, limit_s=limit_s: limit_s)
        wanted = [nodes for nodes, seconds in brute.items() if seconds <= limit_s * (1 + 1e-12)]
        assert (found.nodes if found else None) == min(wanted, default=None)


def test_the_fastest_and_the_cheapest_are_so_of_all(fleet: Fleet, brute: dict[int, float]) -> None:
    fastest, low = least(new(fleet), lambda nodes: 1.0), cheapest(new(fleet))
    assert fastest is not None
    assert low is not None
    assert fastest.seconds == pytest.approx(min(brute.values()), rel=1e-12)
    assert low.nodes * low.seconds == pytest.approx(min(n * s for n, s in brute.items()), rel=1e-12)
    for most in sorted(nodes * seconds * 1.0001 for nodes, seconds in brute.items())[::4]:
        limits = Limits(steps=1000.0, most_usd=most * 1000 * rent_of(fleet) / 3600)
        wanted = min(seconds for nodes, seconds in brute.items() if nodes * seconds <= most)
        assert sized(new(fleet), limits).seconds == pytest.approx(wanted, rel=1e-12)


def test_what_cannot_be_says_what_can(fleet: Fleet, brute: dict[int, float]) -> None:
    first = min(brute.values())
    days = first * 1000 / 86400
    with pytest.raises(ValueError, match=f"on 1 to 8 nodes the training ends after {days:,.4g} days, on "):
        sized(fleet, Limits(steps=1000.0, most_s=first * 999))
    with pytest.raises(ValueError, match=r"the training costs \$ [\d,]+ at least, after"):
        sized(fleet, Limits(steps=1e6, most_usd=1.0))
    unknown = replace(fleet.space.cluster.groups[0][0], usd_per_hour=None)
    space = replace(fleet.space, cluster=replace(fleet.space.cluster, groups=((unknown, 8),)))
    with pytest.raises(ValueError, match="--usd-per-hour"):
        sized(Fleet(space, COUNTS, 0.05), Limits(steps=1.0, most_usd=1.0))
    none = Fleet(space_of("llama-3-70b", "dgx-h100:2", seq=2048, batch=8, fix="tp=8,pp=1"), (1, 2), 0.05)
    with pytest.raises(ValueError, match=r"no strategy fits on 1 to 2 nodes; tp=8 .* needs least on 2 nodes, "):
        sized(none, Limits(steps=1.0, most_s=1.0))


def test_a_search_that_found_nothing_does_not_say_that_nothing_fits(fleet: Fleet, monkeypatch: Any) -> None:
    monkeypatch.setattr(Fleet, "_found", lambda self, nodes, most_s: replace(self.known(nodes), proven=False))
    said = r"on 1 to 2 nodes no strategy was found within the limits; tp=\S+ .* fits, and ends after [\d.]+ days, on 2$"
    with pytest.raises(ValueError, match=said):
        sized(Fleet(fleet.space, (1, 2), 0.05), Limits(steps=1000.0, most_s=1.0))


def test_neighbours_are_the_next_that_have_strategies(fleet: Fleet, brute: dict[int, float]) -> None:
    known = sorted(brute)
    found = [one.nodes for one in near(fleet, 4, each=1)]
    place = known.index(4)
    assert found == sorted({2, 8, *known[place - 1 : place + 2]} & set(known))


def test_memory_that_stays_free_is_a_share() -> None:
    space = space_of(DENSE, "dgx-h100:1", seq=2048, batch=8)
    questions = (
        lambda headroom: fleet_of(lambda cluster: space, space.cluster, headroom=headroom),
        lambda headroom: longest(space, top=1, headroom=headroom),
        lambda headroom: largest(space, [DENSE], top=1, headroom=headroom),
    )
    for ask in questions:
        with pytest.raises(ValueError, match=r"headroom=-0.1: give 1 or more, and a share from 0 to below 1"):
            ask(-0.1)


def test_numbers_are_read() -> None:
    assert counted("4..6/9/5") == [4, 5, 6, 9]
    for text in ("0", "8..4", "few", "-1", "1..", ""):
        with pytest.raises(ValueError, match="is no number of nodes"):
            counted(text)
    with pytest.raises(ValueError, match="several kinds"):
        grown(Cluster.read("p4d:1+p5:1"), 4)


@pytest.mark.parametrize(
    ("model", "framework", "fix"),
    [(DENSE, "torchtitan", "cp=1..2,micro=1"), (EXPERTS, "megatron-core", "cp=1,zero=1,micro=1,pp=1..4,tp=1..2")],
    ids=["dense", "experts"],
)
def test_no_step_takes_less_than_its_work(model: Any, framework: str, fix: str) -> None:
    space = space_of(model, "dgx-h100:2", framework, seq=2048, batch=32, fix=fix)
    checked = 0
    for share in space.shares():
        grid = space.grid(share)
        made, of = ranks_of(space.model, space.cluster, grid, space.stack, once=True)
        floor_s = work_s(grid, made, of) / space.devices
        for row in np.flatnonzero(np.isfinite(floor_s))[::31].tolist():
            if (one := predicted_of(space, grid.setup(row))) is not None:
                assert floor_s[row] <= one.seconds
                checked += 1
    assert checked >= 8


def test_scores_below_a_limit_are_the_same_and_none_above_it() -> None:
    space = space_of(DENSE, "dgx-h100:1", seq=2048, batch=32, fix="tp=1..2,cp=1")
    grid = space.grid(space.splits())
    whole = scores(space.model, space.cluster, grid, space.stack)
    most_s = float(np.median(whole.seconds[np.isfinite(whole.seconds)]))
    some = scores(space.model, space.cluster, grid, space.stack, most_s=most_s)
    soon = whole.seconds <= most_s
    assert 0 < soon.sum() < len(grid)
    assert np.array_equal(some.seconds[soon], whole.seconds[soon])
    assert np.isinf(some.seconds[~soon]).all()


def test_layers_that_are_fixed_unevenly_have_their_margin_of_memory() -> None:
    model = gpt(layers=16, hidden=2048, heads=16, vocab=50304, gated=True)
    fix = "tp=1,cp=1,pp=4,micro=1,zero=1,recompute=none,chunks=2,schedule=interleaved,optimizer_offload=0"
    space = space_of(model, "dgx-h100:1", seq=4096, batch=32, fix=f"{fix},stage_layers=4*0+4*4")
    grid = space.grid(space.splits())
    one = predicted_of(space, grid.setup(0))
    assert one is not None
    assert scores(space.model, space.cluster, grid, space.stack).needed_bytes[0] > 1.1 * one.needed_bytes
    assert best_of(space, top=1, headroom=one.headroom).best.setup == one.setup
    found = fewest(Fleet(space, (1,), one.headroom), lambda nodes: 1.01 * one.seconds)
    assert found is not None
    assert found.choice is not None
    assert found.choice.setup == one.setup


def fits(space: Space, seq: int) -> bool:
    here = at(space, seq)
    grids = [here.grid(share) for share in here.shares()]
    found = (predicted_of(here, grid.setup(row)) for grid in grids for row in range(len(grid)))
    return any(one is not None and one.headroom >= 0.05 for one in found)


@pytest.mark.parametrize(
    ("cluster", "layers", "hidden", "batch", "fix"),
    [
        pytest.param("a10:2", 24, 2048, 8, "sp=1", id="powers of two", marks=pytest.mark.slow),
        pytest.param("a10:6", 48, 2560, 24, "tp=1", id="six devices"),
    ],
)
def test_the_longest_sequence_is_the_longest_of_all(
    cluster: str, layers: int, hidden: int, batch: int, fix: str
) -> None:
    model = gpt(layers=layers, hidden=hidden, heads=hidden // 128, vocab=50304, gated=True)
    fix += ",zero=1,recompute=full,schedule=1f1b"
    space = space_of(model, cluster, seq=8192, batch=batch, fix=fix)
    found = longest(space, top=1, headroom=0.05)
    assert found is not None
    longer = range(found.seq + 1024, 8192 * batch + 1, 1024)
    assert fits(space, found.seq)
    assert not any(fits(space, seq) for seq in longer if seq <= 2 * found.seq or seq % 32768 == 0)
    assert found.next_seq == found.seq + 1024
    assert found.next_choice is not None
    assert found.next_choice.headroom < 0.05
    assert found.planned.best.setup.seq == found.seq


def test_a_step_keeps_its_tokens() -> None:
    space = space_of(DENSE, "dgx-h100:1", seq=2048, batch=24)
    assert [at(space, seq).base.batch for seq in (1024, 2048, 3072, 4096, 5120, 49152)] == [24, 24, 12, 12, 8, 1]
    found = longest(space_of(DENSE, "dgx-h100:1", seq=1024, batch=8), top=1, headroom=0.05)
    assert found is not None
    assert (found.seq, found.batch, found.next_seq) == (2048, 4, None)


def test_the_largest_model_is_the_largest_that_fits() -> None:
    space = space_of(DENSE, "a10:4", seq=2048, batch=16, fix="cp=1,zero=1,micro=1,recompute=full,schedule=1f1b")
    models = [*scaled("gpt:", 24e9, 2048)]
    tried = largest(space, models, top=1, headroom=0.05)
    fitting = [m for m in models if best_of(replace(space, model=m), top=1, headroom=0.05).choices]
    assert tried[-1].model == fitting[0]
    assert [one.model for one in tried] == models[: models.index(fitting[0]) + 1]
    assert tried[-2].nearest is not None
    assert tried[-2].nearest.headroom < 0.05
    with pytest.raises(ValueError, match="longer than any model"):
        largest(replace(space, base=replace(space.base, seq=4096)), models[-1:], top=1, headroom=0.05)


def test_families_are_names_that_begin_alike_or_sizes_without_a_depth() -> None:
    sizes = [one.parameters for one in members("qwen3-8b")]
    assert sizes == sorted(sizes, reverse=True)
    assert [one.name for one in members("gpt3")] == [one.name for one in members("gpt3-13b")]
    assert {one.name for one in members("deepseek-v3")} == {"deepseek-v3", "deepseek-v3.2"}
    with pytest.raises(ValueError, match="begins no name of the catalogue; did you mean"):
        members("lama-3-8b")
    with pytest.raises(ValueError, match="such as llama-3, or gpt:"):
        members("/x/config.json")
    with pytest.raises(ValueError, match="leave layers out"):
        family("gpt:L=4", 1e12, 2048)
    assert is_scaled("gpt:kv=8,vocab=128256")
    wide = next(scaled("gpt:h=4096,gated=1,vocab=32000", 20e9, 4096))
    assert (wide.hidden, wide.vocab, wide.positions, wide.layers % 8) == (4096, 32000, 4096, 0)
    assert wide.parameters <= 20e9
