"""Measured tables of kernels and collectives in the wheel ``aiconfigurator-core`` (NVIDIA, Apache-2.0), as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]

DEVICES: Mapping[str, str] = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-80gb-sxm",
    "h200_sxm": "h200-141gb-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
"""Folder of the wheel -> name of the device in the catalogue."""
NODES: Mapping[str, str] = {
    "a100_sxm": "dgx-a100-80gb",
    "h100_sxm": "dgx-h100",
    "h200_sxm": "dgx-h200",
    "b200_sxm": "dgx-b200",
}
"""Folder of the wheel -> name of the node in the catalogue, where eight devices share one switch."""
COLLECTIVES: Mapping[str, str] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}
PRECISIONS: Mapping[str, str] = {"bfloat16": "bf16", "fp8": "fp8", "nvfp4": "fp4"}
"""Name in the wheel -> precision."""


def wheel() -> Path:
    """Return the folder of the tables of the installed wheel.

    Raises:
        ValueError: it, or pyarrow, which reads its files, is not installed.
    """
    found = find_spec("aiconfigurator_core")
    if found is None or found.origin is None or find_spec("pyarrow") is None:
        raise ValueError("the measured tables are not here; pip install --no-deps aiconfigurator-core, and pyarrow")
    return Path(found.origin).parent / "systems" / "data"


def read(file: Path) -> Columns:
    """Return the columns of one Parquet file."""
    from pyarrow import parquet

    table = parquet.read_table(file)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def chosen(columns: Columns, keep: npt.NDArray[np.bool_]) -> Columns:
    """Return the rows of ``columns`` where ``keep`` is true."""
    return {name: column[keep] for name, column in columns.items()}


def newest(folder: Path, name: str) -> Path | None:
    """Return ``name`` in the newest version of ``folder/*/`` that has it."""
    found = sorted(
        folder.glob(f"*/{name}"),
        key=lambda file: [int("0" + "".join(filter(str.isdigit, part[:3]))) for part in file.parent.name.split(".")],
    )
    return found[-1] if found else None


def matmuls(root: Path, gpu: str) -> Iterator[tuple[str, Columns]]:
    """Yield (precision, columns, latency in ms) of the products that TensorRT-LLM makes under PyTorch on ``gpu``."""
    file = newest(root / gpu / "gemm" / "trtllm", "gemm_perf.parquet")
    if file is None:
        return
    columns = read(file)
    for wheel_name, precision in PRECISIONS.items():
        rows = (columns["gemm_dtype"] == wheel_name) & (columns["kernel_source"] == "torch_flow")
        rows &= columns["latency"] > 0
        if rows.any():
            yield precision, chosen(columns, rows)


def attentions(root: Path, gpu: str) -> Columns | None:
    """Return causal attention without a window in BF16 on ``gpu``, forward, from the first kernel that it has of
    FlashAttention 3 and 2 (in vLLM) and TensorRT-LLM's own."""
    for stack, kernel in (("vllm", "vllm_flash_attn_fa3"), ("vllm", "vllm_flash_attn"), ("trtllm", "torch_flow")):
        file = newest(root / gpu / "attention" / stack, "context_attention_perf.parquet")
        columns = read(file) if file else None
        if columns is None or not (columns["kernel_source"] == kernel).any():
            continue
        rows = (columns["attn_dtype"] == "bfloat16") & (columns["kernel_source"] == kernel) & (columns["latency"] > 0)
        rows &= (columns["kv_cache_dtype"] == "bfloat16") & (columns["isl"] >= 1024)
        rows &= columns.get("window_size", np.zeros(len(rows))) == 0
        return chosen(columns, rows)
    return None


def collectives(root: Path, gpu: str) -> Columns | None:
    """Return NCCL's times on one node of ``gpu`` in half precision, from the newest library."""
    file = newest(root / gpu / "comm" / "nccl", "nccl_perf.parquet")
    columns = read(file) if file else None
    return None if columns is None else chosen(columns, (columns["nccl_dtype"] == "half") & (columns["latency"] > 0))


def experts(root: Path, gpu: str) -> Columns | None:
    """Return layers of gated experts in BF16 on one device, tokens spread evenly, 64 rows or more an expert."""
    file = newest(root / gpu / "moe" / "trtllm", "moe_perf.parquet")
    if file is None:
        return None
    columns = read(file)
    rows = (
        (columns["moe_dtype"] == "bfloat16") & (columns["distribution"] == "balanced") & (columns["moe_ep_size"] == 1)
    )
    rows &= (columns["kernel_source"] != "moe_torch_flow_nongated") & (columns["latency"] > 0)
    rows &= columns["num_tokens"] * columns["topk"] >= 64 * columns["num_experts"]
    rows &= columns["inter_size"] // columns["moe_tp_size"] >= 128
    return chosen(columns, rows) if rows.any() else None
