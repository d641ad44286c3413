"""Measured tables of kernels and collectives in the wheel ``aiconfigurator-core`` (NVIDIA, Apache-2.0), as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    "gb200": "gb200",
    "b300_sxm": "b300",
    "gb300": "gb300",
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
UNGATED = (1856, 2688, 5120)
"""Inner sizes of the wheel's experts without a gate."""


def wheel() -> Path:
    """Return the folder of the tables of the installed wheel.

    Raises:
        ValueError: it, or pyarrow, which reads its files, is not installed.
    """
    found = find_spec("aiconfigurator_core")
    if found is None or found.origin is None or find_spec("pyarrow") is None:
        raise ValueError("the measured tables are not here; pip install --no-deps aiconfigurator-core, and pyarrow")
    return Path(found.origin).parent / "systems" / "data"


def read(file: Path, *names: str) -> Columns:
    """Return the columns of one Parquet file, or those called ``names``; one that it lacks is 0."""
    from pyarrow import parquet

    table = parquet.read_table(file)
    return {
        name: table[name].to_numpy() if name in table.column_names else np.zeros(table.num_rows)
        for name in names or table.column_names
    }


def chosen(columns: Columns, keep: npt.NDArray[np.bool_ | np.int64]) -> Columns:
    """Return the rows of ``columns`` where ``keep`` is true, or those whose numbers it holds."""
    return {name: column[keep] for name, column in columns.items()}


def newest(folder: Path, name: str) -> Path | None:
    """Return ``name`` in the newest version of ``folder/*/`` that has it."""
    found = sorted(
        folder.glob(f"*/{name}"),
        key=lambda file: [int("0" + "".join(filter(str.isdigit, part[:3]))) for part in file.parent.name.split(".")],
    )
    return found[-1] if found else None


def fastest(folder: Path, name: str, sizes: Sequence[str], words: Sequence[str]) -> Columns:
    """Return what each shape took in the fastest kernel of all libraries and versions in ``folder/*/*/``.

    Training calls libraries that pick among kernels, as these do together.

    Args:
        sizes: columns of numbers that make a shape.
        words: columns of text that no two kernels of one shape may differ in.

    Raises:
        ValueError: no library has such a table.
    """
    tables = [read(file, *sizes, *words, "kernel_source", "latency") for file in sorted(folder.glob(f"*/*/{name}"))]
    if not tables:
        raise ValueError(f"{folder} has no {name} of any library; install a wheel that measured this device")
    every: Columns = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    every = chosen(every, every["latency"].astype(float) > 0)
    numbers = [np.unique(every[key], return_inverse=True)[1] for key in words]
    keys = [*numbers, *(every[key].astype(float) for key in sizes)]
    order = np.lexsort((every["latency"], *keys))
    first = np.ones(len(order), bool)
    first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return chosen(every, order[first])


def matmuls(root: Path, gpu: str) -> Iterator[tuple[str, Columns]]:
    """Yield (precision, columns, latency in ms) of the products on ``gpu``.

    In FP8 (one scale a tensor) and FP4 the left operand arrives in BF16: a cast is part of what was timed.
    """
    columns = fastest(root / gpu / "gemm", "gemm_perf.parquet", ("m", "n", "k"), ("gemm_dtype",))
    for wheel_name, precision in PRECISIONS.items():
        rows = columns["gemm_dtype"] == wheel_name
        if rows.any():
            yield precision, chosen(columns, rows)


def attentions(root: Path, gpu: str) -> Columns:
    """Return causal forward attention of 1,024 tokens or more in BF16 on ``gpu``, latency in ms.

    What was timed also writes keys and values to the cache of the library. Head sizes are those that all libraries have
    kernels for: 64, 128 and 256.
    """
    sizes = ("batch_size", "num_heads", "isl", "head_dim", "num_key_value_heads", "window_size", "step")
    words = ("attn_dtype", "kv_cache_dtype")
    columns = fastest(root / gpu / "attention", "context_attention_perf.parquet", sizes, words)
    heads = np.where(columns["num_key_value_heads"] == 0, columns["num_heads"], columns["num_key_value_heads"])
    used = np.isin(columns["head_dim"], (64, 128, 256))
    return _first_pass({**columns, "num_key_value_heads": heads, "value_dim": columns["head_dim"]}, used, "attn_dtype")


def latent(root: Path, gpu: str) -> Columns:
    """Return causal latent attention likewise: keys of 192 numbers with values of 128, every head its own."""
    sizes = ("batch_size", "num_heads", "isl", "step")
    columns = fastest(root / gpu / "mla", "context_mla_perf.parquet", sizes, ("mla_dtype", "kv_cache_dtype"))
    same = np.ones(len(columns["latency"]))
    columns = {**columns, "head_dim": 192 * same, "value_dim": 128 * same, "window_size": 0 * same}
    return _first_pass({**columns, "num_key_value_heads": columns["num_heads"]}, same > 0, "mla_dtype")


def _first_pass(columns: Columns, used: npt.NDArray[np.bool_], dtype: str) -> Columns:
    used = used & (columns["isl"] >= 1024) & (columns["step"] == 0)
    used &= (columns[dtype] == "bfloat16") & (columns["kv_cache_dtype"] == "bfloat16")
    return chosen(columns, used)


def collectives(root: Path, gpu: str) -> Columns | None:
    """Return NCCL's times on one node of ``gpu`` in half precision, from the newest library."""
    file = newest(root / gpu / "comm" / "nccl", "nccl_perf.parquet")
    columns = read(file) if file else None
    return None if columns is None else chosen(columns, (columns["nccl_dtype"] == "half") & (columns["latency"] > 0))


def experts(root: Path, gpu: str) -> Iterator[tuple[str, Columns]]:
    """Yield (precision, columns, latency in ms) of layers of gated experts on one device.

    Tokens are spread evenly, with 64 rows or more an expert. In FP8 and FP4 casts are part of what was timed.
    """
    sizes = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    columns = fastest(root / gpu / "moe", "moe_perf.parquet", sizes, ("moe_dtype", "distribution"))
    used = (columns["distribution"] == "balanced") & (columns["moe_ep_size"] == 1)
    used &= ~np.isin(columns["inter_size"], UNGATED)
    used &= columns["num_tokens"] * columns["topk"] >= 64 * columns["num_experts"]
    used &= columns["inter_size"] // columns["moe_tp_size"] >= 128
    for wheel_name, precision in PRECISIONS.items():
        rows = used & (columns["moe_dtype"] == wheel_name)
        if rows.any():
            yield precision, chosen(columns, rows)
