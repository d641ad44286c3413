"""Tables of runs as files: what is read, and what is refused."""

import gzip

import pytest

from penstock.calibrate.likely import framework_of
from penstock.calibrate.published import read_runs
from penstock.calibrate.rows import number, read_rows, truth, whole
from penstock.calibrate.shipped import runs_file

HEAD = "model_name,device,devices,seq_len,global_batch"
ROW = "llama-3-8b,H100,8,4096,64"


def written(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("cells", "nodes", "guess"),
    [("A100-64GB,32,8", 8, True), ("A100-64GB,32,", 8, True), ("A100-64GB,32,4", 8, False), ("H100,32,4", 8, False)],
)
def test_nodes_have_no_more_devices_than_their_kind(tmp_path, cells, nodes, guess):
    (run,) = read_runs(
        written(tmp_path, f"model_name,seq_len,global_batch,device,devices,per_node\nllama-3-8b,4096,64,{cells}\n")
    )
    assert (run.why_not, run.cluster.nodes, run.cluster.devices) == ("", nodes, 32)
    assert ("nodes of 4 devices" in run.guessed) == guess


def test_a_row_with_the_needed_columns_alone_is_a_run(tmp_path):
    (run,) = read_runs(written(tmp_path, f"{HEAD}\n{ROW}\n"))
    assert (run.row["id"], run.why_not, run.setup.dp, run.measured_s) == ("row 1", "", 8, None)
    assert run.stack.name == "pytorch"
    assert any("framework" in guess for guess in run.guessed)
    assert run.stack.spread >= 0.3


def test_marks_spaces_zips_and_more_or_fewer_cells(tmp_path):
    text = f"\ufeff id ,{HEAD},tp\nA,  {ROW} ,2,more,cells\nB,{ROW}\n".encode()
    plain = read_rows(written(tmp_path, text))
    assert plain == read_rows(written(tmp_path, gzip.compress(text), "runs.csv.gz"))
    assert [(row["id"], row["model_name"], row.get("tp", "")) for row in plain] == [
        ("A", "llama-3-8b", "2"),
        ("B", "llama-3-8b", ""),
    ]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_marks_and_heads_in_other_letters(tmp_path, mark):
    text = f"Model Name,Device,devices,Seq-Len,GLOBAL_BATCH\n{ROW}\n".replace(",", mark)
    plain = read_rows(written(tmp_path, f"{HEAD}\n{ROW}\n"))
    assert read_rows(written(tmp_path, text)) == plain


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model,device,devices,seq_len,global_batch\n", "has no column model_name; did you mean 'model'?"),
        ("", "has no column model_name, device, devices, seq_len, global_batch; a table of runs has"),
        (f"{HEAD}\n", "holds no runs, only a head; add a row for each"),
        (f"{HEAD}\n{ROW}\n".encode("utf-16"), "is not UTF-8 text"),
        (b"\x1f\x8bnothing", "runs.csv: "),
        (f'{HEAD}\n"{"x" * 200_000}",a,1,1,1\n', "field larger than field limit"),
    ],
)
def test_files_that_are_no_tables_are_refused_in_words(tmp_path, text, says):
    with pytest.raises(ValueError, match=r"runs\.csv") as refused:
        read_rows(written(tmp_path, text))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("devices", "eight", "devices='eight' is no number"),
        ("devices", "0", "the row has no devices, and no dp"),
        ("devices", "nan", "the row has no devices"),
        ("seq_len", "inf", "seq_len='inf' is no finite number from 0 on"),
        ("seq_len", "1e400", "no finite number"),
        ("global_batch", "-4", "no finite number from 0 on"),
        ("global_batch", "4.5", "global_batch='4.5' is no whole number"),
        ("device", "Z9000", "'z9000': 'z9000' is no node or device"),
        ("model_name", "Foo", "'Foo' is not in the catalogue; give layers and hidden"),
        ("model_name", "Foo-1T", "'Foo-1T' is not in the catalogue, and may have experts"),
        ("model_name", "ViT-7B", "'ViT-7B' is no decoder of text (ViT)"),
        ("task", "inference", "task='inference' is no training"),
        ("tp", "3", ""),
        ("layers", "1e9", "layers='1e9' is beyond 10,000"),
        ("global_batch", "999999999999", "is beyond 1,000,000,000"),
        ("gated_mlp", "perhaps", "gated_mlp='perhaps' says neither yes nor no"),
        ("layers", "x", "layers='x' is no number"),
        ("recompute", "bananas", ""),
        ("zero_stage_or_fsdp", "??", ""),
    ],
)
def test_a_bad_cell_spoils_its_own_row_only(tmp_path, column, value, says):
    good = dict(zip(HEAD.split(","), ROW.split(","), strict=True))
    names = list(dict.fromkeys([*good, column]))
    rows = [good, good | {column: value}, good]
    lines = [",".join(row.get(name, "") for name in names) for row in rows]
    first, spoilt, last = read_runs(written(tmp_path, "\n".join([",".join(names), *lines, ""])))
    assert first.why_not == last.why_not == ""
    assert says.lower() in spoilt.why_not.lower()


@pytest.mark.parametrize(
    ("system", "cells", "like"),
    [
        ("FlagScale (Megatron-LM 0.6)", {}, "megatron-core"),
        ("Our fork of Megatron-DeepSpeed, 2023", {}, "megatron-deepspeed"),
        ("LLaMA-Factory + DeepSpeed", {}, "deepspeed"),
        ("Colossal-AI", {"tp": "4"}, "megatron-core"),
        ("axolotl", {"zero_stage_or_fsdp": "FSDP"}, "pytorch"),
        ("axolotl", {"zero_stage_or_fsdp": "ZeRO-3"}, "deepspeed"),
        ("Levanter", {"zero_stage_or_fsdp": "FSDP"}, "maxtext"),
        ("unheard of", {"device": "TPU v5p"}, "maxtext"),
        ("LLaMA-Factory", {}, "transformers"),
        ("", {}, "pytorch"),
    ],
)
def test_a_framework_that_is_not_known_is_like_another(system, cells, like):
    guessed = []
    found = framework_of({"system": system} | cells, guessed)
    assert (found.name, found.spread >= 0.3, len(guessed)) == (like, True, 1)
    assert like in guessed[0]


def test_a_framework_that_is_known_is_no_guess():
    guessed = []
    assert framework_of({"system": "NeMo/Megatron-Core"}, guessed).name == "nemo"
    assert guessed == []


def test_cells():
    row = {"a": "1,440", "b": "", "c": "Yes", "d": "0.0"}
    assert (number(row, "a"), number(row, "b"), whole(row, "a"), truth(row, "c"), truth(row, "d")) == (
        1440.0,
        None,
        1440,
        True,
        False,
    )


def test_the_shipped_table_names_its_sources():
    rows = read_rows(runs_file())
    said = (runs_file().parent / "README.md").read_text()
    titles = [row["source_title"] for row in rows]
    for title in {*titles}:
        line = next(line for line in said.splitlines() if line.startswith((f"| {title}:", f"| {title} (arXiv")))
        assert f" | {titles.count(title):,} | " in line
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["source_address"] for row in rows)
