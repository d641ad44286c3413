"""What torchtitan 0.3 is told in Python is what 0.2 is told in TOML."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.export.frameworks import export
from penstock.export.read import read_file

PIPED: dict[str, Any] = {"tp": 2, "pp": 2, "dp": 4, "sp": True, "tp_overlap": "on", "schedule": "zb-h1"}


def written(folder: Path, model: str = "llama-3-8b", **more: Any) -> set[str]:
    setup = Setup(**{"seq": 8192, "batch": 64, "dp": 16, "zero": 3} | more)
    return {
        one.field for one in export(f"torchtitan:{folder}", read_architecture(model), Cluster.read("b200:16"), setup)
    }


def test_values_are_those_of_the_table(tmp_path: Path) -> None:
    assert "model" not in written(tmp_path, **PIPED, recompute="selective")
    table = tomllib.loads((tmp_path / "train.toml").read_text())
    module = ast.parse((tmp_path / "train_config.py").read_text())
    said = {
        one.targets[0].id: ast.literal_eval(one.value)
        for one in module.body
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)
    }
    assert said["TRAINING"] == table["training"] | {"disable_cuda_graphs": True}
    assert said["COMPILE"] == table["compile"] | {"enable_async_tensor_parallel": True}
    parallel = table["parallelism"]
    del parallel["expert_tensor_parallel_degree"], parallel["enable_async_tensor_parallel"]
    parts = parallel.pop("module_fqns_per_model_part")
    parts[-1][-1] = "lm_head"
    assert said["PARALLELISM"] == parallel | {"module_fqns_per_model_part": parts}
    assert "activation_checkpoint=SelectiveAC.Config()" in ast.unparse(module)


def test_blocks_that_stay_wide_get_no_converter(tmp_path: Path) -> None:
    written(tmp_path, precision="mxfp8", wide_last=30)
    assert "MXFP8LinearConverter.Config(fqns=['layers.0.', 'layers.1.']," in (tmp_path / "train_config.py").read_text()
    written(tmp_path, precision="fp8-row", wide_first=1)
    assert "Config(filter_fqns=['lm_head', 'layers.0.']," in (tmp_path / "train_config.py").read_text()


@pytest.mark.parametrize(
    ("field", "model", "more"),
    [
        ("model", "llama-4-scout", {}),
        ("etp", "qwen3-30b-a3b", {"tp": 2, "dp": 8, "ep": 8, "etp": 2}),
        ("precision", "llama-3-8b", {"precision": "fp8-current"}),
    ],
)
def test_what_0_3_cannot_do_is_said_and_0_2_is_started(
    field: str, model: str, more: dict[str, Any], tmp_path: Path
) -> None:
    assert field in written(tmp_path, model, **more)
    assert not (tmp_path / "train_config.py").exists()
    assert "train_config" not in (tmp_path / "train.sh").read_text()


@pytest.mark.parametrize(
    "more",
    [
        PIPED | {"recompute": "selective"},
        {"precision": "mxfp8", "wide_first": 1, "wide_last": 2, "recompute": "full"},
        {"precision": "fp8-row", "wide_last": 3, "fused_loss": True, "optimizer_offload": 1.0, "weight_offload": 1.0},
        {"cp": 2, "dp": 8, "cp_overlap": "on"},
    ],
)
def test_what_was_written_is_read(more: dict[str, Any], tmp_path: Path) -> None:
    left = written(tmp_path, **more)
    table, module = (read_file(tmp_path / name, 16) for name in ("train.toml", "train_config.py"))
    assert (module.model, module.unread, module.framework) == ("llama-3-8b", (), "torchtitan")
    assert {name for name in table.fields if module.fields.get(name) != table.fields[name]} == {"cp_overlap"} & left


OWN = """
from torchtitan.models.qwen3 import model_registry
BATCH = 4
def small():
    return Trainer.Config(
        model_spec=model_registry("8B"),
        training=TrainingConfig(local_batch_size=BATCH, seq_len=4096, steps=10),
        parallelism=ParallelismConfig(tensor_parallel_degree=2, enable_sequence_parallel=True),
    )
"""


def test_a_module_of_ones_own_is_read_without_being_run(tmp_path: Path) -> None:
    file = tmp_path / "config_registry.py"
    file.write_text(OWN + f"open({str(tmp_path / 'ran')!r}, 'w')")
    found = read_file(file, 16)
    assert found.model == "qwen3-8b"
    assert [found.fields[name] for name in ("seq", "micro", "tp", "dp", "recompute")] == [4096, 4, 2, 8, "none"]
    assert found.unread == ("parallelism.enable_sequence_parallel",)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def train(:", "line 1 is no Python: "),
        ("x = 1", "0 calls of Trainer.Config; torchtitan's train_config.py has one, and one is read"),
        (OWN + OWN, "2 calls of Trainer.Config; "),
        (OWN.replace("BATCH,", "count(),"), "line 7: count() is no plain value; write it out"),
        (OWN.replace("=2,", "='2',"), "tensor_parallel_degree = '2' is no whole number"),
    ],
)
def test_modules_that_cannot_be_read_say_why(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"a.py: {says}")):
        read_file(tmp_path / "a.py", 16)


def test_a_folder_that_is_used_again_keeps_no_file_of_another_plan(tmp_path: Path) -> None:
    written(tmp_path, **PIPED | {"schedule": "zb-h2"})
    mine = [tmp_path / name for name in ("notes.csv", "zb-1p.csv")]
    for file in mine:
        file.touch()
    assert {"zb-h2.csv", "train_config.py"} < {one.name for one in tmp_path.iterdir()}
    written(tmp_path, precision="fp8-current")
    assert {one.name for one in tmp_path.iterdir()} == {"train.toml", "train.sh", *(file.name for file in mine)}
    (tmp_path / "train_config.py").write_text("def train(): ...")
    written(tmp_path, precision="fp8-current")
    assert (tmp_path / "train_config.py").exists()


@pytest.mark.parametrize("version", ["0.2", "0.3"])
def test_the_script_starts_what_is_installed(version: str, tmp_path: Path) -> None:
    written(tmp_path)
    for name, body in (("python", f"exit {int(version == '0.3')}"), ("torchrun", 'echo "$PYTHONPATH" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    words = subprocess.run(
        ["bash", tmp_path / "train.sh", "--x"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    ).stdout.split()
    if version == "0.3":
        assert words[0] == f"{tmp_path}:"
        assert words[-6:] == ["torchtitan.train", "--module", "train_config", "--config", "train", "--x"]
    else:
        assert words[-4:] == ["torchtitan.train", "--job.config_file", f"{tmp_path}/train.toml", "--x"]
