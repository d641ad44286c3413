"""The command ``penstock plan``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.core.plan import Plan

ASKED = ["plan", "--model", "llama-3-8b", "--cluster", "dgx-h100:1", "--seq", "4096", "--batch", "64"]
FIX = ["--fix", "zero=1/3,cp=1,sp=1"]


def test_the_best_is_handed_to_predict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    main([*ASKED, *FIX, "--tokens", "1e12", "--top", "3", "--why", "tp=8,sp=1", "--json", str(out)])
    text = capsys.readouterr().out
    facts = json.loads(out.read_text())
    best = facts["choices"][0]
    assert best["predict"] in text
    kinds = ("impossible", "too_large", "too_slow", "scored")
    assert facts["considered"] == sum(facts[kind] for kind in kinds)
    assert len(facts["choices"]) == 3
    assert all(line in text for line in facts["rejected"])
    steps = 1e12 / (4096 * 64)
    assert best["training_seconds"] == pytest.approx(steps * best["seconds"])
    assert best["training_usd"] == pytest.approx(steps * best["usd_per_step"])
    assert facts["why"]["seconds"] > best["seconds"]
    assert facts["pareto"] is None
    assert facts["report"] is None
    main([*shlex.split(best["predict"])[1:], "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again["seconds"] == pytest.approx(best["seconds"], rel=1e-12)
    assert again["setup"] == best["setup"]


def test_the_best_is_handed_on_where_it_is_not_as_the_framework_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    for said in ("0", "1"):
        main([*ASKED, *FIX, "--framework", "nemo", "--fix", f"tp=8,fused_loss={said}", "--top", "1", "--json"])
        best = json.loads(capsys.readouterr().out)["choices"][0]
        main([*shlex.split(best["predict"])[1:], "--json"])
        assert json.loads(capsys.readouterr().out)["setup"] == best["setup"]


SIZES = "--num-layers 16 --hidden-size 2048 --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048"
SPLIT = "--tensor-model-parallel-size $TP --pipeline-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 64"


def test_a_file_s_setup_is_set_beside_the_best(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script, out = tmp_path / "train.sh", tmp_path / "plan.json"
    script.write_text(f"TP=4\nARGS=(\n  {SIZES}\n  {SPLIT} --unheard-of 3 --recompute-granularity full --bf16\n)\n")
    main(["plan", "--from", str(script), "--cluster", "dgx-h100:1", *FIX[:1], "cp=1,schedule=1f1b", "--json", str(out)])
    said = capsys.readouterr()
    facts = json.loads(out.read_text())
    best, yours = facts["choices"][0], facts["why"]
    assert f"not read from {script}: --unheard-of" in said.err
    assert f"{1 - best['seconds'] / yours['seconds']:.1%} shorter" in said.out
    assert facts["to_change"][-1]["seconds"] == pytest.approx(best["seconds"])
    assert all(each["was"] in said.out and each["change"] in said.out for each in facts["to_change"])
    main([*shlex.split(facts["goodput"]["command"])[1:], "--json"])
    assert json.loads(capsys.readouterr().out)["asked"]["model"] == "gpt"
    for choice in (best, yours):
        main([*shlex.split(choice["predict"])[1:], "--json"])
        again = json.loads(capsys.readouterr().out)
        assert again["setup"] == choice["setup"]
        assert again["seconds"] == pytest.approx(choice["seconds"], rel=1e-12)


def test_without_a_batch_laws_suggest_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    main([*ASKED[:-2], "--fix", "tp=8,pp=1,cp=1,zero=1", "--tokens", "1e12", "--json", str(out)])
    text, facts = capsys.readouterr().out, json.loads(out.read_text())
    suggested = facts["suggested"]
    assert facts["choices"][0]["setup"]["batch"] == suggested["batch"]
    assert f"taken: {suggested['batch']:,} sequences" in text
    assert all(law["law"] in text and law["source"].split(";")[0] in text for law in suggested["laws"])
    assert (suggested["tokens"], suggested["tokens_assumed"]) == (1e12, False)
    assert "times 20 a parameter" in text


def test_an_order_is_solved_for_and_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    words = "tp=2,pp=4,cp=1,zero=0,micro=1,recompute=full,schedule=1f1b,stage_layers=even"
    main([*ASKED, "--framework", "torchtitan", "--fix", words, "--solve", "0.5", "--order", str(order), "--json"])
    one = json.loads(capsys.readouterr().out)["orders"][0]
    assert one["bound_seconds"] * (1 - 1e-12) <= one["seconds"] < one["named_seconds"]
    assert one["gain"] == pytest.approx(1 - one["seconds"] / one["named_seconds"])
    plan = Plan.from_json(order.read_text())
    assert (plan.placement.ranks, plan.name) == (4, one["plan"])


def test_where_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--model", "gpt3-175b", "--cluster", "dgx-h100:1", "--seq", "2048", "--batch", "64", *FIX])
    text = capsys.readouterr().out
    assert "nothing fits" in text
    assert "devices in place of 8" in text


def test_where_nothing_fits_no_order_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    asked = ["--model", "gpt3-175b", "--cluster", "dgx-h100:1", "--framework", "torchtitan", *ASKED[5:], *FIX]
    main(["plan", *asked, "--solve", "1", "--order", str(order)])
    assert "nothing fits" in capsys.readouterr().out
    assert not order.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--longest", "--solve", "5"], "--solve is of the plan of one cluster"),
        (["--clusters", "dgx-a100:1", "--order", "order.json"], "--order is of the plan of one cluster"),
        (["--tune", "all", "--solve", "5"], "--solve does not go with --tune"),
        (["--lengths", "squad", "--what-if"], "--what-if does not go with --lengths"),
    ],
)
def test_no_flag_is_ignored(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*ASKED, *words])
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "lama-3-8b"], "did you mean 'llama-3-8b'?"),
        (["--cluster", "dgx-h10:1"], "did you mean"),
        (["--framework", "megatrn"], "did you mean"),
        (["--batch", "0"], "batch=0 is no number of sequences; write 1024"),
        (["--fix", "tq=1"], "did you mean 'tp'?"),
        (["--tokens", "0"], "give how many are trained on"),
        (["--tokens", "inf"], "is no number; write it like 15T"),
        (["--fix", "offload=nan"], "offload=nan: blocks keep nothing of that name"),
        (["--fix", "adapter=8,adapter_on=mlp+qkv"], "adapter_on=qkv: blocks have no matrix of that name"),
        (["--fix", "imbalance=nan"], "imbalance=nan is no number from 1"),
        (["--fix", "zero=7"], "zero=7"),
        (["--fix", "tp=-2"], "tp=-2 is too small; use 1 or more"),
        (["--solve", "0"], "solve=0: give seconds above 0"),
        (["--solve", "5"], "megatron-core runs its own schedules alone; use penstock, pytorch or torchtitan"),
        (["--order", "order.json"], "no order is looked for; add --solve 10"),
        (["--order", "order.csv"], "the suffix must be"),
        (["--fix", "stage_layers=8+x"], "write even, or layers of each stage as"),
        (["--fix", "recompute=ful"], "no operator is called 'ful'; did you mean 'full'?"),
    ],
)
def test_wrong_input_is_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = dict(zip(ASKED[1::2], ASKED[2::2], strict=True)) | {words[0]: words[1]}
    with pytest.raises(SystemExit):
        main(["plan", *(word for pair in given.items() for word in pair)])
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seq", "4096", "--batch", "64"], "--model is missing; name one, or a file with --from"),
        (["--model", "llama-3-8b", "--batch", "64"], "--seq is missing; say how many tokens"),
        (["--from", "no/such.sh"], "no/such.sh"),
    ],
)
def test_what_is_missing_is_said(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--cluster", "dgx-h100:1", *words])
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_what_cannot_be_exported_loses_neither_figures_nor_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, script, last = (tmp_path / name for name in ("out.json", "train.sh", "job.sh"))
    exports = (f"megatron:{script}", f"accelerate:{tmp_path / 'a.yaml'}", f"slurm:{last}")
    with pytest.raises(SystemExit) as ended:
        main([*ASKED, *FIX, "--exclude", "pp=1", "--json", str(out), *(f"--export={one}" for one in exports)])
    assert ended.value.code == 2
    assert "accelerate: it has no pipelines" in capsys.readouterr().err.splitlines()[-1]
    assert json.loads(out.read_text())["choices"]
    assert script.exists()
    assert last.exists()
