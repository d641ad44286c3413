"""Cluster files: devices and nodes of one's own, tiers, measured rates, and what is wrong with them."""

import re
from pathlib import Path

import pytest

from penstock.core.cluster import Cluster

PAGE = Path(__file__).parents[2] / "docs" / "machines.md"
ONE = '[[groups]]\nnode = "dgx-h100"\n'


@pytest.fixture
def write(tmp_path):
    def give(text, name="my.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return give


def test_the_example_of_the_page(write):
    text, _ = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    cluster = Cluster.read(write(text))
    assert (cluster.name, cluster.nodes, cluster.devices, cluster.uniform) == ("two kinds of nodes", 4, 32, False)
    assert cluster.device_of(0).name == "a100-80gb-sxm"
    slow = cluster.device_of(16)
    assert (slow.name, slow.power_w, slow.peak_flops("bf16"), slow.aliases) == ("h100-slow", 500, 989.4e12, ())
    assert slow.source.endswith("my.toml")
    assert cluster.node_of(31).usd_per_hour == 20
    assert [(level.ranks, level.bytes_per_s) for level in cluster.path(4, 8)] == [(2, 6.25e9), (2, 3.125e9)]
    assert [level.bytes_per_s for level in cluster.path(2, 8, first=16)] == [50e9]


def test_a_whole_device_and_node(write):
    text = """
measured = [[0, 2e9], [2e9, 0]]
[devices.chip]
vendor = "me"
architecture = "one"
memory_bytes = "8 GiB"
memory_bytes_per_s = 1e11
matrix_flops = { bf16 = 1e13 }
vector_flops = 1e12
units = 4
clock_hz = 1e9
l2_bytes = 1000000
[nodes.board]
device = "chip"
devices = 2
links = [{ kind = "pcie", devices = 2, bytes_per_s = 8e9, latency_s = 5e-6 }]
host_link = { kind = "pcie", bytes_per_s = 8e9 }
host_bytes = "16 GiB"
host_bytes_per_s = 2e10
disk_bytes_per_s = 1e9
nics = 1
nic = { kind = "ethernet", bytes_per_s = 1.25e9 }
[[groups]]
node = "board"
nodes = 2
"""
    cluster = Cluster.read(str(write(text)))
    assert (cluster.name, cluster.devices, cluster.power_w) == ("my", 4, None)
    assert cluster.device_of(3).memory_bytes == 8 * 2**30
    assert [(level.bytes_per_s, level.latency_s) for level in cluster.path(4)] == [(8e9, 5e-6), (1e9, 5e-6)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"there are no \[\[groups\]\]; write one"),
        ("groups = 3 =", "is not TOML"),
        ("groups = 3", r"groups=3 must be a list of tables; write \[\[groups\]\]"),
        ("groups = [1]", r"\[\[groups\]\] is 1; it must be a table of node, nodes"),
        (f"tiers = [1]\n{ONE}", r"\[\[tiers\]\] is 1; it must be a table of nodes"),
        (f"devices = 3\n{ONE}", r"devices=3 must hold tables; write \[devices.NAME\]"),
        (f"{ONE}[nodes]\nx = 3", r"nodes=\{'x': 3\} must hold tables; write \[nodes.NAME\]"),
        (f"{ONE}[nodes.x]\nlike = 'dgx-h100'\nnic = 3", "node x: nic=3 must be a table; write { kind = NAME"),
        (f"{ONE}[nodes.x]\nlike = 'dgx-h100'\nlinks = 3", "node x: links=3: Input should be"),
        (f"{ONE}nodez = 2", r"\[\[groups\]\] has the unknown key 'nodez'; did you mean 'node"),
        ('[[groups]]\nnode = "dgx-h10"', "node='dgx-h10' is unknown; did you mean 'dgx-h100'"),
        ("[[groups]]\nnodes = 2", r"\[\[groups\]\] lacks node"),
        (f"{ONE}nodes = 0", "nodes=0 must be a whole number above 0"),
        (f"{ONE}nodes = true", "nodes=True must be a whole number"),
        (f"{ONE}usd_per_hour = 'much'", "usd_per_hour='much' must be a number"),
        (f"{ONE}usd_per_hour = -1", "usd_per_hour=-1.0 must be a number above 0"),
        (f"tier = 1\n{ONE}", "unknown key 'tier'; did you mean 'tiers'"),
        (f"measured = [[1.0, 2.0]]\n{ONE}", r"measured has 1 rows of \[2\] numbers; give 1 x 1"),
        (f"measured = [[0, nan], [1, 0]]\n{ONE}nodes = 2", "measured has .* no number: nan from 0 to 1"),
        (f"{ONE}[[tiers]]\nnodes = 2\noversubscription = nan", "oversubscription=nan.* must be 1 or more"),
        (f"{ONE}[devices.x]\nlike = 'h100'\naliases = 3", "device x: aliases=3: Input should be"),
        (f"measured = [['a']]\n{ONE}", "measured=.* valid number"),
        (f"{ONE}[[tiers]]\nnode = 2", r"\[\[tiers\]\] has the unknown key 'node'; did you mean 'nodes'"),
        (f"{ONE}[devices.x]\nlike = 'h1000'", "like='h1000' is unknown; did you mean 'h100"),
        (f"{ONE}[devices.x]\nlike = 'x'", "x is like itself: x -> x"),
        (f"{ONE}[devices.x]\nvendor = 'me'", "device x lacks architecture, memory_bytes, .*like = NAME"),
        (
            f"{ONE}[devices.x]\nlike = 'h100-80gb-sxm'\npower = 3",
            "device x has the unknown key 'power'; .*'power_w'",
        ),
        (
            f"{ONE}[devices.x]\nlike = 'h100-80gb-sxm'\nmemory_bytes = '80Gb'",
            "'80Gb' has the unknown unit",
        ),
        (f"{ONE}[devices.x]\nlike = 'h100-80gb-sxm'\nunits = 1.5", "units=1.5: Input should be a valid integer"),
        (f"{ONE}[nodes.x]\nlike = 'dgx-h100'\ndevice = 'h10'", "device='h10' is unknown; did you mean 'h100"),
        (
            f"{ONE}[nodes.x]\nlike = 'dgx-h100'\nnic = {{ kind = 'infinband' }}",
            "kind='infinband' .* mean 'infiniband'",
        ),
        (f"{ONE}[nodes.x]\nlike = 'dgx-h100'\nnic = {{ kind = 'pcie' }}", "node x: nic lacks bytes_per_s"),
        (f"{ONE}[nodes.x]\nlike = 'dgx-h100'\ndevices = 4", r"links join \[8\] devices; .* and 4 last"),
    ],
)
def test_what_is_wrong_is_named(write, text, says):
    file = write(text)
    with pytest.raises(ValueError, match=says) as error:
        Cluster.read(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_a_file_that_is_not_there_is_named_with_the_nearest(write):
    file = write(ONE)
    with pytest.raises(ValueError, match=r"mi.toml does not exist; did you mean .*my.toml"):
        Cluster.read(file.with_name("mi.toml"))
    with pytest.raises(ValueError, match="is a folder"):
        Cluster.read(file.parent)
