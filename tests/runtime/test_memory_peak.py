"""What PyTorch's allocator hands out for a stage is what the prediction of memory says, to the byte where one block's
own gradients are not the most."""

import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from allocated import most_allocated

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import Room, predict
from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.recompute import Recompute
from penstock.runtime.stage import Stage

LOSS_BYTES = 4


def config_of(folder: Path, name: str, vocab: int) -> Path:
    """A shipped tiny model with another vocabulary."""
    keys = json.loads((resources.files("penstock") / "data" / "models" / f"{name}.json").read_text())
    file = folder / "config.json"
    file.write_text(json.dumps(keys | {"vocab_size": vocab}))
    return file


def predicted(config: Path, **sizes: object) -> Room:
    """Of the first rank."""
    setup = Setup(precision="fp32", **sizes)  # type: ignore[arg-type]
    cluster = Cluster.read(f"dgx-h100:1x{setup.devices}")
    return predict(read_architecture(config), cluster, setup, stack("penstock")).rooms[0]


def passing(room: Room) -> float:
    """What is there only while a step runs."""
    return room.activations + room.loss + room.working


@pytest.mark.parametrize(
    ("name", "vocab", "micro", "seq", "again", "off"),
    [
        pytest.param(*("tiny-llama", 256, 2, 256, "none", 0.0), marks=pytest.mark.slow),
        ("tiny-llama", 8192, 2, 256, "none", 0.0),
        ("tiny-llama", 8192, 2, 256, "full", 0.0),
        ("tiny-qwen3", 4096, 4, 128, "selective", 0.0),
        ("tiny-gpt2", 256, 2, 256, "none", 0.002),
        ("tiny-llama", 256, 1, 64, "none", 0.02),
    ],
)
def test_a_whole_model(tmp_path: Path, name: str, vocab: int, micro: int, seq: int, again: str, off: float) -> None:
    file = config_of(tmp_path, name, vocab)
    config = load_config(file)
    module = DecoderStage(config, range(config.num_hidden_layers), True, True, dtype=torch.float32, split=False)
    stage = Stage(module, True, True, (micro, seq, config.hidden_size), 1.0, split=False)
    recompute = Recompute(stage, selective=again == "selective")
    ids = torch.randint(0, 200, (micro, seq))

    def step() -> None:
        (stage if again == "none" else recompute).forward(0, ids, ids)
        if again != "none":
            recompute.again(0)
        stage.backward(0, None)

    ours = passing(predicted(file, seq=seq, batch=micro, micro=micro, recompute=again))
    assert most_allocated(step) == pytest.approx(ours + LOSS_BYTES, rel=off, abs=LOSS_BYTES)


def test_a_first_stage_holds_a_micro_batch_for_each_rank(tmp_path: Path) -> None:
    file = config_of(tmp_path, "tiny-llama", 256)
    config, micro, seq = load_config(file), 2, 128
    module = DecoderStage(config, range(4), True, False, dtype=torch.float32, split=False)
    stage = Stage(module, True, False, (micro, seq, config.hidden_size), 1.0, split=False)
    ids, grad = torch.randint(0, 200, (micro, seq)), torch.randn(micro, seq, config.hidden_size)

    def step() -> None:
        for i in (0, 1):
            stage.forward(i, ids)
        for i in (0, 1):
            stage.backward(i, grad)

    ours = passing(predicted(file, seq=seq, batch=8 * micro, micro=micro, pp=2))
    assert most_allocated(step) == pytest.approx(ours, rel=0.03)


def test_weights_gradients_and_state_of_adam(tmp_path: Path) -> None:
    file = config_of(tmp_path, "tiny-llama", 256)
    config = load_config(file)
    module = DecoderStage(config, range(config.num_hidden_layers), True, True, dtype=torch.float32, split=False)
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    weights = sum(parameter.nbytes for parameter in module.parameters())
    state = [tensor for each in optimizer.state.values() for tensor in each.values() if tensor.dim()]
    room = predicted(file, seq=64, batch=1)
    assert room.weights == room.gradients == weights
    assert room.optimizer == sum(tensor.nbytes for tensor in state)
