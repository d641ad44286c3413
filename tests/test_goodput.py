"""The command ``penstock goodput``, and what ``penstock plan`` says of weeks, energy and what would change."""

import json
import shlex
from pathlib import Path

import pytest

from penstock.predict.failures import table

GPT = "gpt:L=8,h=2048,a=16,vocab=50304"
WORDS = f"goodput --model {GPT} --cluster dgx-h100:4 --seq 2048 --batch 64 --zero 1"
PLAN = f"plan --model {GPT} --cluster dgx-h100:1 --seq 2048 --batch 64 --fix tp=1/2,zero=1,cp=1,micro=1,pp=1 --top 2"
DAY_S = 86_400.0


def facts(penstock, words):
    code, out, err = penstock(f"{words} --json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_text_says_what_the_json_does(penstock, tmp_path):
    path = tmp_path / "weeks.json"
    code, out, err = penstock(f"{WORDS} --tokens 1e12 --json {path}")
    assert (code, err) == (0, "")
    found = json.loads(path.read_text())
    whole = found["training"]
    assert f"{found['goodput']['share']:.2%} of the time trains" in out
    assert f"{whole['seconds'] / DAY_S:,.1f} days" in out
    assert f"$ {whole['usd']:,.0f}" in out
    for name, share in found["goodput"]["parts"].items():
        assert f"  {name} " in out
        assert f"{share:.2%}" in out
    for facts_of in table()["defaults"].values():
        assert facts_of["source"] in out or "largest run" in facts_of["source"]
    page = (Path(__file__).parent.parent / "docs" / "goodput.md").read_text()
    keys = [*found, *found["goodput"], *found["failures"], *whole, *found["by_spares"][0]]
    assert not [key for key in keys if f"`{key}`" not in page]


def test_figures_agree_among_themselves(penstock):
    found = facts(penstock, f"{WORDS} --tokens 1e12 --spares 2")
    whole, share = found["training"], found["goodput"]["share"]
    step = facts(penstock, WORDS.replace("goodput", "predict", 1))
    assert found["step_seconds"] == step["seconds"]
    assert found["training_seconds_unbroken"] == pytest.approx(1e12 / (2048 * 64) * step["seconds"])
    assert whole["seconds"] == pytest.approx(found["training_seconds_unbroken"] / share)
    assert whole["kwh"] == pytest.approx(step["joules_per_step"] / step["seconds"] * whole["seconds"] / 3.6e6 * 6 / 4)
    assert whole["usd"] == pytest.approx(step["usd_per_step"] / step["seconds"] * whole["seconds"] * 6 / 4)
    assert found["by_spares"][-1]["goodput"] == share
    assert [row["spares"] for row in found["by_spares"]] == [0, 1, 2]


def test_flags_are_the_fields_in_their_units(penstock):
    found = facts(
        penstock,
        f"{WORDS} --mtbf-hours 1000 --restart-minutes 5 --load-minutes 2 --warm-up-minutes 1 --checkpoint-minutes 20 "
        "--write-seconds 60 --stop-seconds 10 --spares 3 --node-share 0.5 --repair-hours 24 --slow-share 0.01 "
        "--slow-by 0.1 --write-mb-per-s 500 --load-mb-per-s 900",
    )["failures"]
    assert found == {
        **{"mtbf_s": 3.6e6, "restart_s": 300, "load_s": 120, "warm_up_s": 60, "every_s": 1200, "write_s": 60},
        **{"stop_s": 10, "spares": 3, "node_share": 0.5, "repair_s": 86_400, "slow_share": 0.01, "slow_by": 0.1},
        **{"write_bytes_per_s": 5e8, "load_bytes_per_s": 9e8},
    }
    assert facts(penstock, f"{WORDS} --failures meta-rsc-1")["failures"]["mtbf_s"] == 1.8 * 3600 * 16_384
    _, out, _ = penstock("goodput --help")
    assert not [name for name in table()["rates"] if name not in out]
    assert all(f"[default: {each['value']}]" in " ".join(out.replace("│", "").split())
               for name, each in table()["defaults"].items() if name != "rate")  # fmt: skip
    page = (Path(__file__).parent.parent / "docs" / "goodput.md").read_text()
    named = table()["defaults"].items()
    assert not [name for name, each in named if f"`--{name.replace('_', '-')}` | {each['value']} |" not in page
                and name != "rate"]  # fmt: skip
    assert f"`--failures` | `{table()['defaults']['rate']['value']}` |" in page


def test_a_plan_says_the_same_of_its_best(penstock):
    found = facts(penstock, f"{PLAN} --tokens 1e12")
    best, over = found["choices"][0], found["goodput"]
    again = facts(penstock, " ".join(shlex.split(over["command"])[1:]))
    assert again["goodput"] == {name: over[name] for name in again["goodput"]}
    assert again["training"] == over["training"]
    assert best["hfu"] >= best["mfu"]
    steps = 1e12 / (2048 * 64)
    assert best["training_kwh"] == pytest.approx(steps * best["joules_per_step"] / 3.6e6)
    assert found["what_if"] is None


def test_a_plan_says_what_would_change(penstock, tmp_path):
    path = tmp_path / "plan.json"
    code, out, err = penstock(f"{PLAN} --what-if --json {path}")
    assert (code, err) == (0, "")
    answers = json.loads(path.read_text())["what_if"]
    page = (Path(__file__).parent.parent / "docs" / "plan.md").read_text()
    for answer in answers:
        line = next(line for line in out.splitlines() if line.startswith(answer["what"]))
        if answer["seconds"] is not None:
            assert f"{answer['seconds'] / answer['now_s'] - 1:+.1%}" in line
        assert answer["same"] == line.endswith("the same")
        assert not [key for key in answer if f"`{key}`" not in page]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--tokens 0", "--tokens 0: give how many are trained on"),
        ("--tokens nan", "'nan' is no number; write it like 15T"),
        ("--failures lama", "no published rate of failures is called 'lama'; did you mean"),
        ("--mtbf-hours 0", "--mtbf-hours 0: give a number above 0"),
        ("--write-mb-per-s 0", "--write-mb-per-s 0: give a number above 0"),
        ("--repair-hours -1", "--repair-hours -1: give a number that is not below 0"),
        ("--spares -2", "--spares -2: give a number that is not below 0"),
        ("--failures nebius --mtbf-hours 9", "--failures nebius and --mtbf-hours 9 say the same; give one"),
        ("--node-share 2", "node_share=2 is no share; use 0 to 1"),
        ("--slow-by 0.1", "say which share of nodes is slow"),
        ("--mtbf-hours 0.0001", "32 devices are interrupted every 0.0113 s"),
        ("--write-seconds 3 --stop-seconds 4", "stop_s=4 is longer than writing takes, 3 s"),
    ],
)
def test_errors_are_one_line(penstock, words, says):
    code, _, err = penstock(f"{WORDS} {words}")
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
