"""From measured rows to a file that predicts what was measured."""

import json
from dataclasses import replace

import pytest
from gpu_rows import FLOOR_S, LEVEL, RATE, rows

from penstock.calibrate.cluster_file import cluster_file, summary
from penstock.cli.main import main
from penstock.core.cluster import Cluster
from penstock.core.device import device
from penstock.cost.bounds import matmul_bound_s
from penstock.cost.curves import host_pace
from penstock.cost.kernels import matmul, memory_bound


@pytest.fixture
def read(tmp_path):
    def give(found, name="my box"):
        file = tmp_path / f"{name}.toml"
        file.write_text(cluster_file(found, name))
        return Cluster.read(file)

    return give


def test_a_known_gpu_keeps_its_datasheet_and_predicts_what_was_measured(read):
    cluster = read(rows())
    here = cluster.device_of(0)
    assert here.matrix_flops == device("h100").matrix_flops
    assert here.memory_bytes == 85_000_000_000
    assert here.source == "measured 2026-11-26 04:00 UTC by penstock calibrate"
    assert cluster.name == "my box"
    found = matmul(here, "bf16", 3000, 5000, 7000)
    assert found.seconds == pytest.approx(matmul_bound_s(here, "bf16", 3000, 5000, 7000) / LEVEL + FLOOR_S, rel=0.02)
    assert not found.guessed
    assert memory_bound(here, 1e9).seconds == pytest.approx(1e9 / RATE, rel=0.03)
    node = cluster.node_of(0)
    assert (node.devices, node.links, node.nics, node.power_w) == (1, (), 1, 10200 / 8)
    assert node.host_link.latency_s == pytest.approx(1e-5 + 65536 / 5e10, rel=1e-3)
    assert node.host_link.bytes_per_s == pytest.approx(5e10, rel=0.02)
    assert here.curves.failed == ("attention precision=bf16 seq=4096: OutOfMemoryError: CUDA",)
    assert here.curves.about["torch"] == "2.11.0+cu130"


def test_an_unknown_gpu_has_the_peaks_that_were_measured(read):
    here = read(rows("NVIDIA X9000")).device_of(0)
    best = max(2 * r["m"] * r["n"] * r["k"] / r["seconds"] for r in rows() if r["part"] == "matmul")
    assert here.matrix_flops == {"bf16": pytest.approx(best, rel=1e-6)}
    assert here.memory_bytes_per_s == pytest.approx(RATE, rel=0.01)
    assert (here.architecture, here.units, here.clock_hz) == ("hopper", 132, 1.98e9)
    assert "matrix_flops" in here.derived


def test_what_was_not_measured_of_a_node_is_said(read):
    several = [{**row, "ranks": 4} if row["part"] == "facts" else row for row in rows("NVIDIA X9000")]
    assert read(several).node_of(0).derived.keys() == {"nics", "nic", "disk_bytes_per_s", "links"}
    several.append({"part": "disk", "bytes": 1 << 28, "seconds": 0.1})
    several.append({"part": "collective", "kind": "send", "ranks": 2, "bytes": 1 << 20, "seconds": 1e-3})
    assert read(several).node_of(0).derived.keys() == {"nics", "nic"}
    assert read(rows()).node_of(0).derived == {}


def test_measured_disks_have_one_rate_whatever_those_of_the_usual_node_have(read):
    node = read([*rows(), {"part": "disk", "bytes": 1 << 28, "seconds": 0.25}]).node_of(0)
    assert node.disk_rates == (pytest.approx(2**30), pytest.approx(2**30))
    assert node.disk_bytes == 0  # how much is free was not asked


def test_ranks_have_a_link_with_what_was_measured_between_them(read):
    found = [{**row, "ranks": 4} if row["part"] == "facts" else row for row in rows("NVIDIA X9000")]
    found += [
        {"part": "collective", "kind": "send", "ranks": 2, "bytes": size, "seconds": 1e-5 + size / 3e9}
        for size in (1 << 10, 1 << 20, 1 << 24)
    ]
    cluster = read(found)
    (link,) = cluster.node_of(0).links
    assert (link.devices, link.kind) == (4, "memory")
    assert link.bytes_per_s == pytest.approx(3e9, rel=0.01)
    assert link.latency_s == pytest.approx(1e-5, rel=0.05)
    assert cluster.path(4)[0].curves.rows("collective")["bytes"].tolist() == [1 << 10, 1 << 20, 1 << 24]
    assert replace(link, curves=None) == link.__class__(
        kind="memory", devices=4, bytes_per_s=link.bytes_per_s, latency_s=link.latency_s
    )


def test_measured_clusters_come_with_the_package():
    for name, device_name in (("measured-h100", "h100-80gb-sxm"), ("Measured H200", "h200-141gb-sxm")):
        here = Cluster.read(name).device_of(0)
        assert here.matrix_flops == device(device_name).matrix_flops
        assert set(here.curves.tables) == {"matmul", "attention", "memory", "launch", "sustained"}
        assert here.curves.failed == ()
        assert matmul(here, "bf16", 4096, 4096, 4096).error < 0.08


def test_the_pace_of_hosts_is_over_that_of_the_measured_h100():
    assert host_pace(Cluster.read("measured-h100").device_of(0)) == pytest.approx(1, abs=0.01)


def test_what_cannot_be_written_is_said():
    with pytest.raises(ValueError, match="do not say which machine"):
        cluster_file(rows()[1:], "x")
    only = [row for row in rows("NVIDIA X9000") if row["part"] in ("facts", "transfer")]
    with pytest.raises(ValueError, match="neither products nor memory were measured"):
        cluster_file(only, "x")


def test_a_summary_has_a_line_for_each_part():
    lines = summary(rows()).splitlines()
    assert [line.split()[0] for line in lines] == ["matmul", "attention", "memory", "transfer"]
    assert "TFLOP/s in bf16" in lines[0]
    assert lines[1].endswith("0 measured; 1 not")


def test_rows_of_another_machine_become_a_file(tmp_path, capsys):
    lines = [json.dumps(row) + "\n" for row in rows()]
    (tmp_path / "measured.jsonl").write_text("".join(lines) + '{"part": "mat')  # the last one was cut off
    main(["calibrate", "--rows", str(tmp_path / "measured.jsonl"), "--out", str(tmp_path / "h100.toml")])
    assert "wrote" in capsys.readouterr().out
    assert Cluster.read(tmp_path / "h100.toml").device_of(0).curves.rows("memory", kind="copy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "nothing.jsonl"], "--rows nothing.jsonl: there is no such file"),
        (["--out", "x.json"], "the suffix must be .toml"),
        (["--seconds", "0"], "seconds=0 must be above 0"),
        (["--parts", "matmull"], "part 'matmull' is unknown; did you mean 'matmul'?"),
        (["--threads", "0"], "threads=0: use at least 1"),
    ],
)
def test_wrong_words_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["calibrate", *words])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
