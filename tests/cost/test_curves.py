"""Times from measured curves, where the truth is made up and known."""

from dataclasses import replace

import numpy as np
import pytest

import measured_kernels
from penstock.core.cluster import Cluster, Level
from penstock.core.curves import Curves
from penstock.core.device import device
from penstock.cost import bounds, kernels
from penstock.cost.collectives import collective_s, send_s
from penstock.cost.curves import (
    LENGTHS,
    OPERATOR_S,
    fitted,
    host_pace,
    lasting_share,
    link_curve,
    matmul_curve,
)
from penstock.cost.lasting import sustained

LEVEL, FLOOR_S = 0.62, 4e-6
RNG = np.random.default_rng(5)


def rippled(m, n, k):
    """What no bound knows: products with a long inner side do better, by up to a third."""
    return 1 + 0.15 * np.sin(np.log2(k) / 2) + 0.05 * np.log2(m / n) / 5


def true_s(chip, m, n, k):
    return bounds.matmul_bound_s(chip, "bf16", m, n, k) / LEVEL * rippled(m, n, k) + FLOOR_S


def shapes(count, low=7.0, high=14.0, rng=RNG):
    return 2 ** rng.uniform(low, high, (3, count)).round(1)


def with_products(chip, sizes, seconds, precision="bf16"):
    count = sizes.shape[1]
    columns = {"m": sizes[0], "n": sizes[1], "k": sizes[2], "seconds": seconds, "batch": np.ones(count)}
    table = {**columns, "precision": np.full(count, precision), "layout": np.full(count, "forward")}
    return replace(chip, curves=Curves("here", {}, {"matmul": table}))


@pytest.fixture(scope="module")
def chip():
    return device("h100")


@pytest.fixture(scope="module")
def here(chip):
    sizes = shapes(60)
    return with_products(chip, sizes, true_s(chip, *sizes))


def test_sixty_products_tell_all_others(chip, here):
    sizes = shapes(500)
    found = kernels.matmul(here, "bf16", *sizes)
    off = np.abs(found.seconds / true_s(chip, *sizes) - 1)
    assert off.mean() < 0.02
    assert np.abs(kernels.matmul(chip, "bf16", *sizes).seconds / true_s(chip, *sizes) - 1).mean() > 3 * off.mean()
    assert not found.guessed
    assert found.level_of == "h100-80gb-sxm measured"
    assert found.level == pytest.approx(LEVEL, rel=0.2)


def test_the_error_is_that_of_shapes_it_has_not_seen(chip):
    said, off = [], []
    for draw in range(5):
        rng = np.random.default_rng(draw)
        sizes = shapes(300, rng=rng)
        seconds = true_s(chip, *sizes) * np.exp(rng.normal(0, 0.1, 300))
        seen = with_products(chip, sizes[:, :80], seconds[:80])
        found = kernels.matmul(seen, "bf16", *sizes[:, 80:])
        said.append(found.error)
        off.append(np.abs(found.seconds / seconds[80:] - 1).mean())
    assert np.mean(off) == pytest.approx(np.mean(said), rel=0.15)
    assert 0.06 < np.mean(off) < 0.11  # nobody can know the noise, whose mean is 0.08


def test_far_from_what_was_measured_the_level_alone_counts(chip):
    sizes = shapes(40, 12, 14)
    seen = with_products(chip, sizes, true_s(chip, *sizes))
    curve, bound = matmul_curve(seen, "bf16")
    far = (16.0, 2.0**40, 16.0)
    bound_s = bound(seen, "bf16", *map(np.float64, far), np.float64(1))
    assert kernels.matmul(seen, "bf16", *far).seconds == pytest.approx(bound_s / curve.level + curve.floor_s, rel=1e-4)


def test_one_shape_and_many_at_once_are_the_same(here):
    sizes = shapes(9000)
    together = kernels.matmul(here, "bf16", *sizes).seconds
    for at in (0, 4000, 8999):
        assert kernels.matmul(here, "bf16", *sizes[:, at]).seconds == pytest.approx(together[at], rel=1e-9)
    assert kernels.matmul(here, "bf16", 512, [[256, 512]], 128).seconds.shape == (1, 2)


def test_what_was_not_measured_is_as_before(chip, here):
    assert kernels.matmul(here, "fp8", 1024, 1024, 1024) == kernels.matmul(chip, "fp8", 1024, 1024, 1024)
    assert kernels.attention(here, "bf16", 1, 8, 1024, 128) == kernels.attention(chip, "bf16", 1, 8, 1024, 128)
    assert kernels.memory_bound(here, 1e8) == kernels.memory_bound(chip, 1e8)
    fp16, bf16 = (kernels.matmul(here, name, 1024, 1024, 1024).seconds for name in ("fp16", "bf16"))
    assert fp16 == bf16
    with pytest.raises(ValueError, match="m=0 is not a size"):
        kernels.matmul(here, "bf16", 0, 8, 8)


def test_where_nothing_works_in_tiles_the_roofline_does_better(chip):
    sizes = shapes(60, 4, 12)
    seconds = bounds.roofline_s(chip, "bf16", *sizes, np.ones(60)) / 0.7 + 2e-7
    curve, bound = matmul_curve(with_products(chip, sizes, seconds), "bf16")
    assert bound is bounds.roofline_s
    assert curve.error < 0.01


def test_attention_both_ways(chip):
    count = 40
    heads, seq = RNG.integers(4, 64, count), 2.0 ** RNG.integers(8, 15, count)
    head = RNG.choice([64.0, 128.0], count)
    arguments = (np.ones(count), heads.astype(float), seq, head, head, heads.astype(float))
    bound_s = bounds.attention_bound_s(chip, "bf16", *arguments, causal=True, window=None)
    columns = {
        **{"precision": np.full(2 * count, "bf16"), "backend": np.full(2 * count, "chosen")},
        **{"causal": np.ones(2 * count, bool), "gradient": np.repeat([False, True], count)},
        **{"batch": np.ones(2 * count), "heads": np.tile(heads, 2), "kv_heads": np.tile(heads, 2)},
        **{"seq": np.tile(seq, 2), "head": np.tile(head, 2)},
        "seconds": np.concatenate([bound_s / 0.5, 3 * bound_s / 0.5]),
    }
    here = replace(chip, curves=Curves("here", {}, {"attention": columns}))
    forward = kernels.attention(here, "bf16", 2, 16, 3000, 128)
    expected = bounds.attention_bound_s(
        chip, "bf16", *map(np.float64, (2, 16, 3000, 128, 128, 16)), causal=True, window=None
    )
    assert forward.seconds == pytest.approx(expected / 0.5, rel=0.01)
    assert kernels.attention(here, "bf16", 2, 16, 3000, 128, backward=True).seconds == pytest.approx(
        3 * forward.seconds, rel=0.01
    )


def test_memory_bound_work_has_a_rate_and_a_floor(chip):
    moved = 2.0 ** np.arange(16, 33)
    columns = {"moved_bytes": moved, "kernels": np.ones(17), "seconds": moved / 2e12 + 3e-6}
    columns |= {"kind": np.full(17, "copy"), "precision": np.full(17, "bf16")}
    several = {name: np.concatenate([values, values[:3]]) for name, values in columns.items()}
    several["kind"][-3:], several["seconds"][-3:] = "loss", 1.0  # what is no single kernel does not count
    here = replace(chip, curves=Curves("here", {}, {"memory": several}))
    assert kernels.memory_bound(here, 3e9).seconds == pytest.approx(3e9 / 2e12, rel=0.02)
    assert kernels.memory_bound(here, 0).seconds == pytest.approx(3e-6, rel=0.1)
    assert kernels.memory_bound(here, 2e6, kernels=4).seconds == pytest.approx(4 * (5e5 / 2e12 + 3e-6), rel=0.05)


def test_what_lasts_of_the_rate_of_products_is_that_of_a_long_row_of_them(chip):
    rows = {"after_s": np.array([0.0, 1.0, 3.0, 4.0]), "seconds": np.array([1.5e-3, 1.6e-3, 2e-3, 2e-3])}
    here = replace(chip, curves=Curves("here", {}, {"sustained": rows}))
    assert sustained(here, "fp8", "bf16")[:2].tolist() == [0.75, 0.75]
    assert sustained(here, "fp8", "bf16")[2:].tolist() == sustained(chip, "fp8", "bf16")[2:].tolist()
    faster = {**rows, "seconds": np.array([2e-3, 1.9e-3, 1.8e-3, 1.8e-3])}
    assert lasting_share(replace(chip, curves=Curves("here", {}, {"sustained": faster}))) == 1.0
    assert lasting_share(chip) is None


def test_the_pace_of_the_host_is_that_of_an_operator(chip):
    rows = {"what": np.array(["operator", "forward"]), "seconds": np.array([9e-6, OPERATOR_S / 2])}
    assert host_pace(replace(chip, curves=Curves("here", {}, {"launch": rows}))) == 0.5
    assert host_pace(chip) == 1.0


def test_messages_follow_what_was_measured_on_one_level_of_links():
    bare = Level(2, 1e9, 5e-5, "memory")
    size = 2.0 ** np.arange(10, 27)
    rows = {"kind": [], "ranks": [], "bytes": [], "seconds": []}
    for kind, ranks, factor in (("send", 2, 2.0), ("all_reduce", 2, 3.0), ("all_reduce", 4, 3.0)):
        level = replace(bare, ranks=ranks)
        seconds = send_s(size, [level]) if kind == "send" else collective_s(kind, size, [level])
        for name, values in (
            ("kind", [kind] * 17),
            ("ranks", [ranks] * 17),
            ("bytes", size),
            ("seconds", factor * seconds),
        ):
            rows[name] = np.concatenate([rows[name], values]) if len(rows[name]) else np.array(values)
    here = replace(bare, curves=Curves("here", {}, {"collective": rows}))
    between = 3e5
    assert send_s(between, [here]) == pytest.approx(2 * send_s(between, [bare]), rel=0.02)
    for ranks in (2, 3, 4):
        mine, theirs = replace(here, ranks=ranks), replace(bare, ranks=ranks)
        assert collective_s("all_reduce", between, [mine]) == pytest.approx(
            3 * collective_s("all_reduce", between, [theirs]), rel=0.02
        )
    assert collective_s("all_gather", between, [here]) == collective_s("all_gather", between, [bare])
    assert collective_s("all_reduce", between, [here], algorithm="ring") == collective_s(
        "all_reduce", between, [bare], algorithm="ring"
    )
    two = Level(2, 1e8, 1e-4, "ethernet")
    assert collective_s("all_reduce", between, [here, two]) == collective_s("all_reduce", between, [bare, two])
    assert np.isfinite(send_s([0.0, 1.0], [here])).all()
    assert link_curve("all_gather", here, lambda *_: 1) is None


@pytest.mark.parametrize("name", measured_kernels.rows("matmul", "bf16"))
def test_two_dozen_real_products_tell_the_others(name):
    """On tables that were measured on GPUs: near to what was seen, and where neighbours tell little, no harm done."""
    m, n, k, seconds = measured_kernels.rows("matmul", "bf16")[name]
    bound_s, off, level = bounds.matmul_bound_s(device(name), "bf16", m, n, k), [], []
    for draw in range(5):
        seen = np.random.default_rng(draw).permutation(len(m)) < 26
        curve = fitted(name, seconds[seen], bound_s[seen], [m[seen], n[seen], k[seen]])
        found = curve.at(bound_s[~seen], m[~seen], n[~seen], k[~seen]).seconds
        off.append(np.abs(found / seconds[~seen] - 1).mean())
        level.append(np.abs((bound_s[~seen] / curve.level + curve.floor_s) / seconds[~seen] - 1).mean())
        assert curve.length in LENGTHS
    assert np.mean(off) < 0.1
    assert np.mean(off) < np.mean(level) + 0.01


def test_a_cluster_file_predicts(tmp_path):
    text = """
[devices.chip]
like = "h100"
[nodes.board]
like = "dgx-h100"
device = "chip"
[[groups]]
node = "board"
[curves.chip.memory]
columns = ["kind", "precision", "moved_bytes", "kernels", "seconds"]
rows = [["copy", "bf16", 1000000, 1, 1e-5], ["copy", "bf16", 100000000, 1, 1e-3]]
"""
    (tmp_path / "mine.toml").write_text(text)
    found = kernels.memory_bound(Cluster.read(tmp_path / "mine.toml").device_of(0), 1e7)
    assert found.seconds == pytest.approx(1e-4, rel=0.05)
    assert (found.guessed, found.level_of) == (False, "chip measured")
