"""``penstock plan --precision``: the best in each, what was published of their results, and wrong input."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from penstock.cli.main import main

MODEL = "gpt:L=8,h=4096,a=32,vocab=50304"
ASKED = [
    "plan",
    "--model",
    MODEL,
    "--cluster",
    "dgx-h100:1",
    "--seq",
    "2048",
    "--batch",
    "32",
    "--fix",
    "cp=1,pp=1,zero=1",
]


def test_the_best_in_each_precision_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    main([*ASKED, "--precision", "bf16,fp8-block", "--top", "2", "--json", str(out)])
    text, facts = capsys.readouterr().out, json.loads(out.read_text())
    wide, low = facts["numbers"]
    assert (wide["precision"], wide["gradient_equal"], wide["published"]) == ("bf16", True, [])
    assert (low["precision"], low["gradient_equal"]) == ("fp8-block", False)
    assert low["published"][0]["source"] == "DeepSeek-V3, 2024, arXiv:2412.19437"
    assert low["choice"]["seconds"] == facts["choices"][0]["seconds"] < wide["choice"]["seconds"]
    assert f"({low['choice']['seconds'] / wide['choice']['seconds'] - 1:+.1%})" in text
    for words in ("not equal", "as in 16 bits", "may reach another loss", "fp8-block: loss within 0.25 % of BF16"):
        assert words in text
    main([*shlex.split(low["choice"]["predict"])[1:], "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again["seconds"] == pytest.approx(low["choice"]["seconds"], rel=1e-12)
    assert again["setup"]["precision"] == "fp8-block"


def test_one_precision_says_what_is_known_of_it_and_bf16_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ASKED, "--top", "1", "--fix", "precision=fp8-delayed,optimizer=adam-8bit"])
    text = capsys.readouterr().out
    assert "fp8-delayed: results match those of 16 bits" in text
    assert "adam-8bit: results as with states in 32 bits" in text
    assert "precision    optimizer" not in text
    main([*ASKED, "--top", "1"])
    assert "may reach another loss" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--precision", "mxfp8"], "h100-80gb-sxm (hopper) has no such recipe; it has fp8-delayed, fp8-current"),
        (["--precision", "fp8-blok"], "did you mean 'fp8-block'?"),
        (["--precision", "any", "--tune", "lora"], "this question is asked of one precision at a time"),
        (["--precision", "any", "--longest"], "this question is asked of one precision at a time"),
        (["--fix", "wide_last=4"], "precision=bf16 has none, give one, such as fp8-current"),
        (["--exclude", "precision=fp8"], "precision is not searched"),
    ],
)
def test_wrong_input_is_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*ASKED, *words])
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_any_says_where_there_is_no_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ASKED, "--framework", "deepspeed", "--precision", "any", "--top", "1"])
    assert "deepspeed has no recipe of 8 or 4 bits for h100-80gb-sxm; planned in bf16" in capsys.readouterr().err
