"""Jobs of a special kind from the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from penstock.cli.main import main

ASKED = ["plan", "--model", "llama-3-8b", "--cluster", "h100:2", "--seq", "2048", "--batch", "16"]
FIX = ["--fix", "cp=1,pp=1,recompute=full"]


def test_ways_to_fine_tune_are_set_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "tune.json"
    main([*ASKED, *FIX, "--tune", "all", "--tokens", "1e9", "--json", str(out)])
    text = capsys.readouterr().out
    facts = json.loads(out.read_text())
    full, lora, qlora = facts["tunings"]
    assert [one["name"] for one in facts["tunings"]] == ["full", "lora", "qlora"]
    assert full["fewest_devices"] == 2
    assert (lora["fewest_devices"], qlora["fewest_devices"]) == (1, 1)
    needed = [one["choices"][0]["memory_bytes"]["needed"] for one in facts["tunings"]]
    assert needed == sorted(needed, reverse=True)
    assert lora["trained_parameters"] < 0.01 * lora["parameters"]
    assert qlora["choices"][0]["setup"]["frozen_bytes"] < 0.8
    predict = qlora["choices"][0]["predict"]
    assert predict in text
    main([*shlex.split(predict)[1:], "--json"])
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(qlora["choices"][0]["seconds"])


def test_sites_are_marked_where_they_are_not_gradient_equal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "sites.json"
    asked = ["plan", "--model", "gpt2-xl", "--cluster", "h100:2+h100:2", "--seq", "1024", "--batch", "16"]
    asked += ["--fix", "cp=1,tp=1,zero=1,micro=1,recompute=none", "--sites", "groups", "--between", "1Gb/s"]
    main([*asked, "--json", str(out)])
    text = capsys.readouterr().out
    facts = json.loads(out.read_text())
    assert facts["bytes_per_s"] == 1.25e8
    assert [site["batch"] for site in facts["sites"]] == [8, 8]
    equal = {one["name"]: one["gradient_equal"] for one in facts["strategies"]}
    assert equal == {
        "diloco": False, "streaming-diloco": False, "co2": False, "data parallel over sites": True,
        "pipeline over sites": True, "site 1 alone": True,
    }  # fmt: skip
    assert "not gradient-equal" in text
    inside = next(one for one in facts["strategies"] if one["name"] == "diloco")
    assert inside["predict"][0] in text
    main([*shlex.split(inside["predict"][0])[1:], "--json"])
    inner_s = json.loads(capsys.readouterr().out)["seconds"]
    assert inside["seconds"] == pytest.approx(inner_s + inside["exposed_s"] + inside["outer_update_s"])


def test_lengths_are_packed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, given = tmp_path / "lengths.json", tmp_path / "mine.csv"
    given.write_text("length,count\n256,60\n512,30\n2048,9\n5000,1\n")
    main([*ASKED, "--fix", "tp=2,zero=1,recompute=full", "--lengths", str(given), "--json", str(out)])
    text = capsys.readouterr().out
    facts = json.loads(out.read_text())
    assert facts["longest_tokens"] == 2048
    assert facts["cut_share"] == 0.01
    assert "1.00% of them cut to that" in text
    padded, _, _, flexible, _ = facts["ways"]
    assert flexible["tokens_per_s"] > 1.5 * padded["tokens_per_s"]
    assert flexible["seconds"] >= flexible["bound_seconds"]
    assert padded["padding"] > 0.5


def test_a_batch_is_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*ASKED[:-2], *FIX, "--tune", "all"])
    assert "--batch is missing; say how many sequences a step has, for --tune" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tune", "lor"], "did you mean 'lora'?"),
        (["--tune", "lora", "--adapter-rank", "0"], "adapters of rank 0 are none; use 1 or more"),
        (["--adapter-rank", "8"], "--adapter-rank belongs to --tune; give that too"),
        (["--sites", "2", "--tune", "all"], "--tune and --sites are two questions; ask one at a time"),
        (["--lengths", "wiki"], "did you mean 'wikipedia'?"),
        (["--lengths", "none.csv"], "none.csv: No such file or directory"),
        (["--every", "10"], "--every belongs to --sites; give that too"),
        (["--sites", "groups"], "say how many sites it has, for example --sites 2"),
        (["--sites", "2", "--between", "10"], "'10' is no rate; write it like 10Gb/s (bits) or 1.25GB/s (bytes)"),
        (["--cluster", "h100:2+h100:2", "--sites", "groups", "--local", "diloko"], "did you mean 'diloco'?"),
        (["--cluster", "h100:2+h100:2", "--sites", "groups", "--every", "0"], "--every 0: give how many inner steps"),
        (["--cluster", "h100:2+h100:2", "--sites", "groups", "--delay", "-1"], "latency of -1 s cannot be"),
        (["--tune", "all", "--why", "tp=2"], "--why does not go with --tune"),
        (
            ["--tune", "all", "--cluster", "h100:2,h100:4"],
            "--tune is of the plan of one cluster; ask for that by itself",
        ),
        (["--tune", "all", "--what-if"], "--what-if does not go with --tune"),
    ],
)
def test_what_cannot_be_asked(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*ASKED[:3], *ASKED[5:]] if "--cluster" in words else ASKED
    with pytest.raises(SystemExit) as error:
        main([*asked, *FIX, *words])
    assert error.value.code == 2
    assert says in capsys.readouterr().err
