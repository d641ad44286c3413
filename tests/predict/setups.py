"""Steps of many kinds for tests: dense and of experts, every axis, sharded, with recompute and offload."""

from __future__ import annotations

from typing import Any

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict.step import Step

SETUPS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "tensor and sequence": ("gpt3-175b", "dgx-a100-80gb:2", "megatron-core", {"tp": 8, "pp": 2, "sp": True}),
    "plain modules": ("gpt2", "a10:1", "transformers", {"flash": False, "precision": "fp16"}),
    "ring": ("llama-3-8b", "dgx-h100:4", "megatron-core", {"cp": 2, "tp": 2, "dp": 8, "recompute": "full"}),
    "heads, and a ring": ("llama-3-8b", "dgx-h100:2", "megatron-core",
                          {"tp": 2, "cp": 8, "cp_inner": 4, "zero": 1, "sp": True}),
    "heads for tokens": ("llama-3-8b", "dgx-h100:1", "megatron-core", {"cp": 4, "dp": 2, "cp_heads": True, "zero": 1}),
    "experts in fp8": ("mixtral-8x7b", "dgx-h100:8", "megatron-core",
                       {"ep": 8, "pp": 2, "dp": 32, "zero": 1, "precision": "fp8", "imbalance": 1.2}),
    "experts over columns": ("mixtral-8x7b", "dgx-h100:4", "megatron-deepspeed", {"tp": 4, "etp": 4, "dp": 8}),
    "three kinds of blocks": ("deepseek-v3", "dgx-h100:32", "megatron-core",
                              {"pp": 16, "ep": 16, "dp": 16, "zero": 1, "recompute": "selective", "multi_token": True}),
    "sharded weights": ("llama-3-8b", "dgx-h100:4", "torchtitan", {"dp": 32, "zero": 3, "recompute": "full"}),
    "sharded gradients": ("llama-3-8b", "dgx-h100:4", "deepspeed", {"dp": 32, "zero": 2, "optimizer_offload": 1.0}),
    "hybrid shards": ("llama-3-8b", "dgx-h100:4", "deepspeed", {"dp": 32, "zero": 3, "shards": 8}),
    "chunks and offload": ("llama-3-8b", "dgx-h100:4", "megatron-core",
                           {"dp": 8, "pp": 4, "chunks": 2, "schedule": "interleaved", "offload": 0.9,
                            "optimizer_offload": 0.5, "recompute": ("mlp_norm", "mlp.activation")}),
    "some layers again": ("llama-3-8b", "dgx-h100:4", "megatron-core",
                          {"dp": 8, "pp": 4, "recompute_layers": (5, 3, 1, 0), "recompute": "selective"}),
    "storages elsewhere": ("llama-3-8b", "dgx-h100:1", "megatron-core", {"dp": 8, "offload": ("attention.result",)}),
    "vocabulary and split backwards": ("llama-3-8b", "dgx-h100:4", "megatron-core",
                                       {"dp": 8, "pp": 4, "schedule": "zb-h1", "vocabulary": 1}),
    "adapter on a slow host": ("llama-3-8b", "dgx-h100:1", "transformers", {"dp": 8, "seq": 128, "adapter": 8}),
    "adapters of some matrices": ("llama-3-8b", "dgx-h100:1", "megatron-core",
                                  {"dp": 4, "tp": 2, "sp": True, "adapter": 8, "adapter_on": ("attention.qkv", "mlp")}),
    "adapter on weights of 4 bits": ("llama-3-8b", "dgx-h100:1", "transformers",
                                     {"dp": 8, "zero": 1, "adapter": 16, "frozen_bytes": 0.6, "recompute": "full"}),
    "our own runtime": ("tiny-llama", "cpu:2", "penstock", {"pp": 2, "seq": 128, "precision": "fp32"}),
}  # fmt: skip
"""Model, cluster, framework and fields of a setup, by what is special about them."""


def step(name: str) -> Step:
    """The step of this name."""
    model, cluster, framework, fields = SETUPS[name]
    setup = Setup(**{"seq": 2048, "batch": 64, **fields})
    return Step(read_architecture(model), Cluster.read(cluster), setup, stack(framework))
