"""What torchtitan 0.3 is told in Python is what 0.2 is told in TOML."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.export.frameworks import export

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
