"""The command ``penstock machines``."""

import json

import pytest


def test_the_list_names_every_device_and_node(penstock, tmp_path):
    from penstock.core.catalogue import catalogue

    code, out, err = penstock(["machines", "--json", tmp_path / "all.json"])
    assert (code, err) == (0, "")
    first = {line.split()[0] for line in out.splitlines() if line}
    assert first == {"device", "node", *catalogue().devices, *catalogue().nodes}
    facts = json.loads((tmp_path / "all.json").read_text())
    assert [one["name"] for one in facts["devices"]] == list(catalogue().devices)
    assert {one["device"] for one in facts["nodes"]} <= {*catalogue().devices}


def test_one_device(penstock, tmp_path):
    code, out, _ = penstock(["machines", "MI300X", "--json", tmp_path / "one.json"])
    assert code == 0
    assert "memory       192 GiB at 5.3 TB/s\n" in out
    facts = json.loads((tmp_path / "one.json").read_text())
    assert (facts["name"], facts["matrix_flops"]["bf16"]) == ("mi300x", 1307.4e12)


def test_one_node(penstock, tmp_path):
    code, out, _ = penstock(["machines", "dgx-a100", "--json", tmp_path / "one.json"])
    assert code == 0
    assert "network      8 infiniband of 25 GB/s\n" in out
    assert json.loads((tmp_path / "one.json").read_text())["links"][0]["bytes_per_s"] == 300e9


def test_a_cluster_with_a_price_by_hand(penstock, tmp_path):
    code, out, _ = penstock(["machines", "dgx-h100:4", "--usd-per-hour", "20", "--json", tmp_path / "one.json"])
    assert code == 0
    assert "$ 20.00 per hour (given by hand)\n" in out
    assert "price        $ 80.00 per hour\n" in out
    facts = json.loads((tmp_path / "one.json").read_text())
    assert (facts["devices"], facts["usd_per_hour"]) == (32, 80)
    everything = next(path for path in facts["paths"] if path["size"] == 32)
    assert [(level["ranks"], level["bytes_per_s"]) for level in everything["levels"]] == [(8, 450e9), (4, 50e9)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("dgx-h10", "'dgx-h10' is no node or device; did you mean 'dgx-h100'?"),
        ("--usd-per-hour 3", "--usd-per-hour 3: name the node or cluster that it is for"),
        ("p5 --usd-per-hour -3", "--usd-per-hour -3: use a price above 0"),
        ("nothere.toml", "nothere.toml does not exist"),
        ("p5 --json /nowhere/a.json", "the folder /nowhere does not exist"),
    ],
)
def test_errors_are_one_line(penstock, words, says):
    code, _, err = penstock(f"machines {words}")
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
