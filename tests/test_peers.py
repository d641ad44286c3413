"""penstock peers: our schedules are no worse than published figures and other schedulers' orders, in their memory."""

import csv
import json
from collections import Counter

import pytest

from penstock.cli.peer_rows import PEERS, Row, compare, rows_of, shipped
from penstock.schedules import SCHEDULES
from penstock.schedules.task import reads_costs

ROWS = rows_of(shipped())
HAVE = [row for row in ROWS if row.ours.name in SCHEDULES]


def reads(row):
    return reads_costs(SCHEDULES[row.ours.name].lane)


def is_fast(row):
    """Small; those that search for an order are tried on fewer sizes."""
    size = row.p * row.m
    if row.source == "zb_table_5" and not reads(row):
        return True
    return size <= (4 * 8 if row.peer == "v-auto" else 4 * 12 if reads(row) else 8 * 24)


FAST = [row for row in HAVE if is_fast(row)]


def described(row):
    return f"{row.source}-{row.peer}-{row.cost}-{row.p}-{row.m}-{row.limit}"


def no_worse(row):
    found = compare(row)
    assert found
    for one in found:
        assert one.verdict in ("equal", "beaten"), one
        if row.source == "zb_table_5" and not reads(row):
            assert one.verdict == "equal", f"not to the printed digit: {one}"


@pytest.mark.parametrize("row", FAST, ids=described)
def test_small_rows_are_met(row):
    no_worse(row)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", [row for row in HAVE if row not in FAST], ids=described)
def test_large_rows_are_met(row):
    no_worse(row)


def test_the_files_are_whole():
    assert Counter(row.source for row in ROWS) == {"schedulers": 367, "zb_table_5": 60}
    assert {row.peer for row in ROWS} == {*PEERS, "zb"}
    assert {row.peer for row in HAVE} >= {"1f1b", "vpp2", "gis2", "zb-h1", "zb-h2"}
    assert all(file.read_text().startswith("# ") for file in shipped())


def test_limits_are_the_peer_s_own_else_what_it_used():
    limits = {(row.peer, row.p, row.m, row.cost): row.limit for row in ROWS if row.source == "schedulers"}
    assert limits["v-half", 8, 24, "6.2B"] == pytest.approx(0.6255)
    assert {row.limit for row in ROWS if row.peer == "zb"} == {1.0, 1.5, 2.0}
    assert {row.ours.name for row in ROWS if row.peer == "zb" and row.limit == 1.5} == {"zb-2p"}
    assert {row.limit for row in ROWS if row.peer == "zb-h2"} == {None}


def row_of(printed, limit=1.0, peer="1f1b"):
    return Row("a", peer, "1,1,1,0", 1.0, 4, 8, limit, {"makespan": printed})


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (row_of("33.00"), "equal"),
        (row_of("33.004"), "beaten"),
        (row_of("32.99"), "worse"),
        (row_of("33"), "equal"),
        (row_of("33.4"), "beaten"),
        (row_of("33", limit=0.999), "worse"),
        (row_of("33", limit=None), "equal"),
    ],
)
def test_a_verdict_is_to_the_last_digit_printed_and_within_the_memory(row, verdict):
    (found,) = compare(row)
    assert (found.objective, found.found, found.verdict) == ("sync", 33.0, verdict)
    assert found.too_large == (row.limit == 0.999)


def test_what_is_not_there_is_skipped_with_a_word(monkeypatch):
    monkeypatch.delitem(SCHEDULES, "1f1b")
    (found,) = compare(row_of("33"))
    assert (found.verdict, str(found)) == ("skipped", "no schedule 1f1b")


HEAD = "w_share,cost,p,m,peer,limit_over_p,bubble_span_pct,bubble_sync_pct,peak_over_p\n"


def test_the_command_writes_every_comparison_and_fails_if_any_is_worse(penstock, tmp_path):
    file, table, figures = tmp_path / "mine.csv", tmp_path / "out.csv", tmp_path / "out.json"
    file.write_text(f"# mine\n{HEAD}1,uniform,4,8,1f1b,0,27.27,27.27,1.000\n0.94,6.2B,4,12,zb-h1,0,60,,\n")
    code, out, err = penstock(["peers", file, "--csv", table, "--json", figures])
    assert (code, err) == (0, "")
    assert "zb-h1  zb-h1  1        0      1       0" in out
    found = json.loads(figures.read_text())
    assert [(one["peer"], one["objective"], one["verdict"]) for one in found] == [
        ("1f1b", "span", "equal"),
        ("1f1b", "sync", "equal"),
        ("zb-h1", "span", "beaten"),
    ]
    with table.open() as rows:
        assert [row["verdict"] for row in csv.DictReader(rows)] == ["equal", "equal", "beaten"]
    file.write_text(f"{HEAD}1,uniform,4,8,1f1b,0,27.26,27.27,\n")
    code, out, _ = penstock(["peers", file])
    assert code == 1
    assert "+0.01 pp uniform 4x8 span" in out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "lacks the column w_share"),
        (f"{HEAD}1,uniform,4,8,1f2b,0,1,1,1\n", "row 2: unknown peer '1f2b'; did you mean '1f1b'?"),
        (f"{HEAD}1,uniform,four,8,1f1b,0,1,1,1\n", "row 2: invalid literal for int"),
        (f"{HEAD}1,uniform,4,8,1f1b,0,fast,1,1\n", "row 2: could not convert string to float: 'fast'"),
        (f"{HEAD}1,unifrom,4,8,1f1b,0,1,1,1\n", "--costs unifrom: no such profile or file; did you mean 'uniform'?"),
    ],
)
def test_files_that_cannot_be_read_are_named(penstock, tmp_path, text, says):
    file = tmp_path / "peers.csv"
    file.write_text(text)
    code, _, err = penstock(["peers", file])
    assert (code, err.count("\n")) == (2, 1)
    assert says in err


def test_only_some_peers(penstock):
    code, out, _ = penstock("peers --only zb-h2 --only gis2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if " 0 " in line] == ["gis2", "zb-h2"]
