"""What a stage keeps from forward to backward is what ``kept`` says, for each way to make some of it again."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from penstock.core.config import read_architecture
from penstock.cost.kept import kept
from penstock.cost.model_operators import stage_operators
from penstock.cost.operators import PLAIN, SPLIT, Microbatch, Operator
from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.measure import _saved_by, probe
from penstock.runtime.recompute import Recompute
from penstock.runtime.stage import Stage

MICRO, SEQ = 2, 16
PARTS = {"first": range(0, 2), "middle": range(2, 4), "last": range(7, 8), "head": range(8, 8)}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
QUICK = {("tiny-llama", "first"), ("tiny-qwen3", "middle"), ("tiny-gpt2", "last")}
CASES = [
    pytest.param(model, part, marks=() if (model, part) in QUICK else pytest.mark.slow)
    for model in ("tiny-llama", "tiny-mistral", "tiny-qwen2", "tiny-qwen3", "tiny-gpt2")
    for part in PARTS
]


def stage_of(model: str | Path, part: str, dtype: torch.dtype, split: bool) -> tuple[Stage, Tensor, Tensor | None]:
    """The stage, its input and its targets."""
    first, last = part == "first", part in ("last", "head")
    config = load_config(model)
    module = DecoderStage(config, PARTS[part], first, last, dtype=dtype, split=split)
    stage = Stage(module, first, last, (MICRO, SEQ, config.hidden_size), 1.0, split=split)
    ids = torch.randint(0, 200, (MICRO, SEQ))
    return stage, ids if first else torch.randn(MICRO, SEQ, config.hidden_size, dtype=dtype), ids if last else None


def predicted(model: str | Path, part: str, dtype: torch.dtype, split: bool) -> tuple[Operator, ...]:
    batch = Microbatch(micro=MICRO, seq=SEQ, width_bytes=dtype.itemsize, kernels=SPLIT if split else PLAIN)
    return stage_operators(read_architecture(model), PARTS[part], batch)


def saved(stage: Stage, x: Tensor, targets: Tensor | None) -> int:
    """Bytes that hooks on saved tensors see in one forward and not in the next: not those of weights and tables."""
    seen = [_saved_by(stage, micro, [x], [targets] if targets is not None else None) for micro in range(2)]
    return sum(size for storage, size in seen[0].items() if storage not in seen[1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("model", "part"), CASES)
def test_all_that_autograd_saves(model: str, part: str, dtype: str) -> None:
    stage, x, targets = stage_of(model, part, TYPES[dtype], split=False)
    assert saved(stage, x, targets) == sum(kept(predicted(model, part, TYPES[dtype], split=False)).values())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("model", "part"), CASES)
def test_all_that_a_split_backward_saves(model: str, part: str, dtype: str) -> None:
    stage, x, targets = stage_of(model, part, TYPES[dtype], split=True)
    measured, _ = probe(stage, [x], None if targets is None else [targets])
    assert measured == sum(kept(predicted(model, part, TYPES[dtype], split=True)).values())


@pytest.mark.parametrize("again", ["full", "selective"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("model", "part"), CASES)
def test_what_recompute_keeps(model: str, part: str, dtype: str, again: str) -> None:
    stage, x, targets = stage_of(model, part, TYPES[dtype], split=False)
    recompute = Recompute(stage, selective=again == "selective")
    recompute.forward(0, x.clone(), targets)
    held = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in recompute.held(0)}
    ours = kept(predicted(model, part, TYPES[dtype], split=False), again)
    ours.pop("embedding.ids", None)  # the data, of which there is one copy whatever is kept
    assert sum(held.values()) == sum(ours.values())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("split", [False, True])
def test_a_window_that_narrows_gives_each_head_its_own_keys(tmp_path: Path, split: bool, dtype: str) -> None:
    config = dict(read_json("tiny-mistral"), sliding_window=4, num_key_value_heads=2)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    stage, x, targets = stage_of(file, "middle", TYPES[dtype], split)
    assert saved(stage, x, targets) == sum(kept(predicted(file, "middle", TYPES[dtype], split)).values())


def read_json(name: str) -> dict[str, object]:
    from importlib import resources

    return json.loads((resources.files("penstock") / "data" / "models" / f"{name}.json").read_text())


def test_parts_that_run_again_keep_what_they_begin_with() -> None:
    """Recompute of the attention's core alone: what it saves besides its inputs goes, unless others need it."""
    operators = predicted("tiny-llama", "middle", torch.float32, split=True)
    everything, less = kept(operators), kept(operators, ["attention.core"])
    assert set(everything) - set(less) == {f"layer{layer}.attention.stats" for layer in (2, 3)}
    norms = kept(operators, ["attention.core"], discard=["mlp_norm"])
    gone = {name for name in everything if "mlp_norm" in name}
    assert len(gone) == 4
    assert not gone & set(norms)
    assert {f"layer{layer}.attention.sum" for layer in (2, 3)} <= set(norms)
    with pytest.raises(ValueError, match=r"no operator is called 'attention.cor'; there are attention_norm"):
        kept(operators, "attention.cor")
