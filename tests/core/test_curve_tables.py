"""Tables of what was measured: how cluster files carry them, and what is wrong with them."""

import json
import re
from pathlib import Path

import pytest

from penstock.core.cluster import Cluster
from penstock.core.curves import Curves

PAGE = Path(__file__).parents[2] / "docs" / "machines.md"
CHIP = """
[devices.chip]
like = "a100"
[nodes.board]
like = "dgx-a100"
device = "chip"
[[groups]]
node = "board"
"""
DISK = """
[curves.board]
about = { date = "2026-11-26", torch = "2.13" }
failed = ["collective kind=send: no gloo"]
[curves.board.collective]
columns = ["kind", "ranks", "bytes", "seconds"]
rows = [["send", 2, 1024, 5e-5], ["send", 2, 65536, 6e-5], ["all_reduce", 4, 1024, 2e-4]]
"""


@pytest.fixture
def read(tmp_path):
    def give(text):
        (tmp_path / "mine.toml").write_text(text)
        return Cluster.read(tmp_path / "mine.toml")

    return give


def test_curves_of_a_node_reach_its_links_and_those_that_a_group_crosses(read):
    cluster = read(CHIP + DISK)
    (level,) = cluster.path(4)
    assert level.curves is cluster.node_of(0).links[0].curves
    assert level.curves.about["torch"] == "2.13"
    assert level.curves.failed == ("collective kind=send: no gloo",)
    assert level.curves.rows("collective", kind="send")["bytes"].tolist() == [1024, 65536]
    assert level.curves.rows("collective", kind="all_to_all") == {}
    assert cluster.device_of(0).curves is None
    assert read(CHIP).path(4)[0].curves is None


def test_the_example_of_the_page(read):
    _, text = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    curves = read(CHIP.replace("chip", "mine-device") + text).device_of(0).curves
    assert curves.rows("memory")["seconds"].tolist() == [5.5e-6, 0.0051]


def test_curves_of_a_device(read):
    rows = 'columns = ["what", "seconds"]\nrows = [["operator", 2e-6], ["backward", 3e-6]]\n'
    cluster = read(CHIP + "[curves.chip.launch]\n" + rows)
    assert cluster.device_of(0).curves.launches == {"operator": 2e-6, "backward": 3e-6}
    assert cluster.device_of(0) != read(CHIP).device_of(0)
    assert cluster.uniform
    assert hash(cluster.device_of(0)) == hash(read(CHIP).device_of(0))
    assert Curves("none", {}, {}).launches == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[curves.board]", "[curves.bord]", "[curves.bord] is of nothing in this file; did you mean 'board'?"),
        ("[curves.board.collective]", "[curves.board.colective]", "unknown key 'colective'"),
        ('"bytes", "seconds"]', '"bytes", "second"]', "must be ['kind', 'ranks', 'bytes', 'seconds']"),
        ("1024, 5e-5]", "1024]", "row 1 is ['send', 2, 1024]; give 4 values"),
        ("65536, 6e-5]", "65536, 0.0]", "row 2 has seconds=0.0; give a number above 0"),
        ("65536, 6e-5]", "65536, nan]", "row 2 has seconds=nan"),
        ("65536, 6e-5]", "true, 6e-5]", "row 2 has bytes=True"),
        ('["send", 2, 1024', "[7, 2, 1024", "row 1 has kind=7; give text"),
        ("rows = [[", "rows = [[]] # [[", "row 1 is []; give 4 values"),
        ("about = {", 'about = "today" # {', "about must be a table"),
        ('device = "chip"\n', 'device = "chip"\ncurves = 3\n', "write what was measured in [curves.board]"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(read, old, new, message):
    assert old in CHIP + DISK
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read((CHIP + DISK).replace(old, new, 1))
    assert "mine.toml" in str(caught.value)


def test_machines_json_leaves_the_tables_out(tmp_path, capsys):
    from penstock.cli.main import main

    (tmp_path / "mine.toml").write_text(CHIP + DISK)
    main(["machines", str(tmp_path / "mine.toml"), "--json", str(tmp_path / "facts.json")])
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert "curves" not in json.dumps(facts)
    assert "measured     2026-11-26" in capsys.readouterr().out
