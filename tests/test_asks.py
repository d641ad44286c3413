"""Questions of ``penstock plan`` beyond the fastest strategy."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main

ASKED = ["plan", "--model", "llama-3-8b", "--seq", "4096", "--batch", "64", "--fix", "zero=1,cp=1,sp=1,recompute=none"]
TRAINING = [*ASKED, "--tokens", "1e11", "--fix", "tp=2,schedule=1f1b"]
DAY_S = 86400


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_fewest_nodes_for_a_deadline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "sizes.json"
    main([*TRAINING, "--cluster", "dgx-h100", "--nodes", "1..8", "--deadline", "5d", "--json", str(out)])
    text, found = capsys.readouterr().out, json.loads(out.read_text())
    best, rows = found["answer"], {row["nodes"]: row for row in found["rows"]}
    assert best["choice"]["training_seconds"] <= 5 * DAY_S
    assert best["cluster"] == f"dgx-h100:{best['nodes']}"
    smaller = [row for nodes, row in rows.items() if nodes < best["nodes"]]
    assert smaller
    for row in smaller:
        assert not row["within"]
        assert row["least_seconds"] is None or row["least_seconds"] * 1e11 / (4096 * 64) >= 5 * DAY_S
    assert "too late" in text
    assert f"the fewest nodes for 100 B tokens in 5 days: {best['nodes']} nodes (dgx-h100:{best['nodes']})" in text
    assert best["choice"]["predict"] in text
    main([*shlex.split(best["choice"]["predict"])[1:], "--json"])
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(best["choice"]["seconds"], rel=1e-12)


def test_the_fastest_for_a_budget_and_the_least_cost(capsys: pytest.CaptureFixture[str]) -> None:
    where = [*TRAINING, "--cluster", "dgx-h100:8", "--usd-per-hour", "20"]
    whole = facts(capsys, *where, "--nodes", "1..8")
    usd = {row["nodes"]: row["choice"]["training_usd"] for row in whole["rows"] if row["choice"]}
    seconds = {row["nodes"]: row["choice"]["seconds"] for row in whole["rows"] if row["choice"]}
    assert whole["answer"]["nodes"] == min(seconds, key=lambda nodes: seconds[nodes])
    assert whole["cheapest"]["nodes"] == min(usd, key=lambda nodes: usd[nodes])
    assert all(row["proven"] for row in whole["rows"])
    assert set(whole["without"]) == {*range(1, 9)} - {*usd}
    middle = sorted(usd.values())[len(usd) // 2]
    found = facts(capsys, *where, "--budget", str(middle))
    wanted = min((nodes for nodes in usd if usd[nodes] <= middle), key=lambda nodes: seconds[nodes])
    assert found["answer"]["nodes"] == wanted
    assert found["cheapest"]["choice"]["training_usd"] == pytest.approx(min(usd.values()))


def test_clusters_are_ranked_by_cost(capsys: pytest.CaptureFixture[str]) -> None:
    names = "dgx-h100:1,dgx-a100-80gb:1,a10:4"
    found = facts(capsys, *TRAINING, "--clusters", names)
    assert [row["cluster"] for row in found["rows"]][-1] == "a10:4"
    assert "too much with 5% of headroom" in found["rows"][-1]["why"]
    usd = [row["choice"]["training_usd"] for row in found["rows"][:2]]
    assert usd == sorted(usd)
    assert found["fastest"] == "dgx-h100:1"
    rents = ["--usd-per-hour", "100", "--usd-per-hour", "1", "--usd-per-hour", "1"]
    main([*ASKED, "--cluster", "dgx-h100:1", "--cluster", "dgx-a100-80gb:1", "--clusters", "a10:4", *rents])
    text = capsys.readouterr().out
    assert "the cheapest: 1 node (dgx-a100-80gb:1)" in text
    assert "$ per 1e9 tokens" in text
    assert "\na10:4: " in text


def test_each_cluster_has_its_own_number_of_nodes_for_a_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, *TRAINING, "--clusters", "dgx-h100:8,dgx-a100-80gb:1", "--deadline", "6d")
    first, last = found["rows"]
    assert first["choice"]["training_seconds"] <= 6 * DAY_S
    assert first["nodes"] < 8
    assert re.search(r"at the earliest; --nodes 1\.\.\d+ looks further$", last["why"])


def test_the_longest_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "llama-3-8b", "--cluster", "dgx-h100:1", "--seq", "8192", "--batch", "128", "--top", "1"]
    fix = ["--fix", "tp=8,zero=1,recompute=full,schedule=1f1b"]
    main(["plan", *words, *fix, "--longest"])
    text = capsys.readouterr().out
    found = facts(capsys, "plan", *words, *fix, "--longest")
    assert found["seq"] % 1024 == 0
    assert found["choices"][0]["headroom"] >= 0.05 > found["next"]["headroom"]
    assert found["next"]["setup"]["seq"] == found["seq"] + 1024
    assert f"the longest sequence: {found['seq']:,} tokens" in text
    assert "what limits it: memory" in text


def test_the_largest_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--cluster", "dgx-h100:1", "--seq", "4096", "--batch", "64", "--fix", "zero=1,cp=1,recompute=full"]
    out = tmp_path / "model.json"
    main(["plan", "--model", "llama-2", *words, "--top", "2", "--largest", "--json", str(out)])
    text, found = capsys.readouterr().out, json.loads(out.read_text())
    assert [one["fits"] for one in found["models"]] == [False, True]
    assert found["models"][-1]["model"] == "llama-2-13b"
    assert found["smaller"] == ["llama-2-7b"]
    assert "--model llama-2-13b" in found["choices"][0]["predict"]
    assert "too large: llama-2-70b" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--deadline", "30"], "'30' is no time above 0; write it like 30d"),
        (["--deadline", "1h"], "on 1 to 2 nodes the training ends after"),
        (["--budget", "1"], "on 1 to 2 nodes the training costs $ "),
        (["--budget", "-1"], "give US dollars"),
        (["--nodes", "2..1"], "is no number of nodes"),
        (["--longest", "--largest"], "ask one at a time"),
        (["--longest", "--deadline", "1d"], "ask one at a time"),
        (["--largest", "--cluster", "a10:1"], "ask one at a time"),
        (["--nodes", "1..2", "--why", "tp=8"], "--why"),
        (["--cluster", "dgx-h100:2"], "name one or several different clusters"),
        (["--usd-per-hour", "1", "--usd-per-hour", "2"], "give one, or one each"),
        (["--cluster", "dgx-h10:1"], "did you mean"),
        (["--longest", "--pareto"], "--pareto is of the plan of one cluster"),
        (["--largest", "--top", "0"], "top=0, headroom=0.05: give 1 or more"),
        (["--longest", "--headroom", "2"], "headroom=2.0: give 1 or more, and a share from 0 to below 1"),
        (["--nodes", "1..2", "--top", "0"], "top=0, headroom=0.05: give 1 or more"),
        (["--clusters", "p4d:2+p5:1", "--nodes", "1"], ""),
    ],
)
def test_wrong_questions_are_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not says:
        assert (
            facts(capsys, *TRAINING, "--cluster", "dgx-h100:2", *words)["rows"][-1]["why"].count("several kinds") == 1
        )
        return
    with pytest.raises(SystemExit):
        main([*TRAINING, "--cluster", "dgx-h100:2", *words])
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*ASKED, "--cluster", "dgx-h100:2", "--deadline", "1d"])
    assert "--tokens is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "--model", "llama-3-8b", "--batch", "64", "--cluster", "dgx-h100:2", "--longest"])
    assert "--seq is missing" in capsys.readouterr().err


def test_batches_of_a_range_are_tried_and_the_one_with_most_tokens_per_second_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    words = [
        "plan",
        "--model",
        "llama-3-8b",
        "--cluster",
        "dgx-h100:3",
        "--seq",
        "4096",
        "--top",
        "1",
        "--json",
        str(out),
    ]
    main([*words, "--batch", "64..160", "--fix", "zero=1,cp=1,recompute=none,sp=1,tp=1..2"])
    text, found = capsys.readouterr().out, json.loads(out.read_text())
    tried = found["batches"]
    assert [row["batch"] for row in tried] == [159, 156, 144]
    best = max(tried, key=lambda row: row["tokens_per_s_per_device"])
    assert best["taken"]
    assert sum(row["taken"] for row in tried) == 1
    assert found["asked"]["batch"] == found["choices"][0]["setup"]["batch"] == best["batch"]
    assert text.startswith(f"batch {best['batch']} of 64..160: the most tokens per second\n")
    main([*words, "--batch", "64..96", "--fix", "zero=1,cp=1,recompute=none,sp=1,tp=2,pp=1"])
    assert capsys.readouterr().out.startswith("batch 96 of 64..96: what suits 24 devices\n")


def test_numbers_of_nodes_have_the_batch_that_a_law_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", "llama-3-8b", "--cluster", "dgx-h100:2", "--seq", "4096", "--tokens", "4e12"]
    words += ["--fix", "zero=1,cp=1,recompute=none,sp=1,tp=2", "--nodes", "1..2"]
    main(words)
    text = capsys.readouterr().out
    assert text.startswith("no --batch: ")
    assert "(DeepSeek-AI 2024, arXiv:2401.02954)" in text
    found = facts(capsys, *words)
    assert found["suggested"]["law"] == "deepseek"
    assert found["answer"]["tokens_per_step"] == found["answer"]["batch"] * 4096
    assert [row["batch"] for row in found["rows"]] == [row["choice"]["setup"]["batch"] for row in found["rows"]]


def test_a_batch_beyond_the_critical_one_says_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", "llama-3-8b", "--cluster", "dgx-h100:1", "--seq", "4096", "--tokens", "1e11"]
    main([*words, "--fix", "zero=1,cp=1,recompute=none,sp=1,tp=2", "--nodes", "1", "--batch", "2048..4096"])
    assert "the same loss takes about" in capsys.readouterr().out
    found = facts(capsys, *words, "--fix", "zero=1,cp=1,sp=1,tp=2", "--nodes", "1", "--batch", "128/256")
    assert found["beyond"] == ""
    assert found["answer"]["batch"] in (128, 256)


def test_each_kind_of_a_mixed_cluster_is_asked_and_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*ASKED, "--cluster", "p5:1+p4d:1", "--tokens", "1e9"]
    main([*words, "--deadline", "30d"])
    text = capsys.readouterr().out
    assert "p5:1+p4d:1: all devices do the same work, so they keep the pace of the a100-40gb-sxm" in text
    rows = {row["cluster"]: row for row in facts(capsys, *words, "--deadline", "30d")["rows"]}
    assert [*sorted(rows)] == ["p4d:1", "p5:1", "p5:1+p4d:1"]
    assert rows["p5:1+p4d:1"]["devices"] == 16
    alone = facts(capsys, *words, "--nodes", "1")["rows"]
    assert {row["cluster"] for row in alone} == {"p5:1", "p4d:1"}


def test_one_batch_where_only_one_can_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["plan", "--model", "llama-3-8b", "--cluster", "dgx-h100:2", "--seq", "4096", "--batch", "64..128"]
    with pytest.raises(SystemExit):
        main([*words, "--tune", "full"])
    assert "--batch 64..128: --tune is for one; give one number, as --batch 128" in capsys.readouterr().err
    config = tmp_path / "train.toml"
    config.write_text("[training]\nlocal_batch_size = 1\n")
    with pytest.raises(SystemExit):
        main([*words, "--from", str(config)])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
