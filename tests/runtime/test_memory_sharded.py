"""What PyTorch's fully_shard allocates on one of eight ranks is what the prediction of memory says.

The other ranks are not there: their messages come and go at once, and what is allocated for them is as if they were.
"""

import dataclasses
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import torch
from allocated import most_allocated
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import Room, predict

fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
RANKS = 8


@pytest.fixture
def ranks() -> Iterator[None]:
    distributed.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=RANKS)
    yield
    distributed.destroy_process_group()


def sharded(keys: dict[str, object]) -> nn.Module:
    """A Llama in fp32, sharded block by block, that computes in bf16 and reduces in fp32."""
    model = LlamaForCausalLM(LlamaConfig(**keys, attn_implementation="sdpa", use_cache=False))
    mesh = init_device_mesh("cpu", (RANKS,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    ends = [model.model.norm, model.lm_head]
    for part in (*model.model.layers, model.model.embed_tokens):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(ends, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def predicted(config: Path, seq: int, micro: int) -> Room:
    exact = dataclasses.replace(stack("transformers"), workspace_bytes=0.0, slack=0.0, context_bytes=0.0)
    setup = Setup(seq=seq, batch=micro * RANKS, micro=micro, dp=RANKS, zero=3)
    return predict(read_architecture(config), Cluster.read("dgx-h100:1"), setup, exact).peak


@pytest.mark.parametrize(
    ("hidden", "ffn", "vocab", "micro", "seq", "off"),
    [
        pytest.param(256, 512, 8192, 2, 256, 0.002, id="the loss"),
        pytest.param(256, 512, 256, 2, 256, 0.02, id="the first backward", marks=pytest.mark.slow),
        pytest.param(512, 2048, 256, 1, 32, 0.06, id="the last backward"),
        pytest.param(512, 2048, 2048, 1, 64, 0.06, id="the last backward, more tokens", marks=pytest.mark.slow),
    ],
)
def test_one_of_eight(
    ranks: None, tmp_path: Path, hidden: int, ffn: int, vocab: int, micro: int, seq: int, off: float
) -> None:
    keys = json.loads((resources.files("penstock") / "data" / "models" / "tiny-llama.json").read_text())
    keys |= {"hidden_size": hidden, "intermediate_size": ffn, "vocab_size": vocab}
    keys |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps(keys))
    model, ids = sharded(keys), torch.randint(0, 200, (micro, seq))

    def step() -> None:
        model(ids, labels=ids).loss.backward()
        model.zero_grad()

    room = predicted(tmp_path / "config.json", seq, micro)
    ours = room.activations + room.loss + room.working + room.messages + room.gradients
    assert most_allocated(step) == pytest.approx(ours, rel=off)
