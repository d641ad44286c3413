"""Fifty steps on two ranks give the losses of a plain loop of PyTorch that knows nothing of pipelines."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from runs import losses, plan_for, prepared
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from penstock.core.job import RunSpec
from penstock.runtime.corpus import read_corpus
from penstock.runtime.metrics import MetricsFile
from penstock.runtime.progress import Progress
from penstock.runtime.train import Trainer

STEPS = 50
CLOSE = 1e-5
TIED: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 8, "n_layer": 4, "n_head": 2, "n_positions": 16, "n_inner": 16}
    | dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.0)
    | {"tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None},
}
WHAT = {
    "steps": STEPS,
    "warmup_steps": 5,
    "learning_rate": 1e-2,
    "clip_norm": 1.0,
    "weight_decay": 0.3,
    "checkpoint_every": 0,
    "held_out_sequences": 16,
}


def rate(step: int) -> float:
    """Of step 1, 2, ...: five steps up in a line, then half a cosine down to a tenth."""
    if step <= 5:
        return 1e-2 * step / 5
    return 1e-2 * (0.1 + 0.9 * (1 + math.cos(math.pi * (step - 5) / (STEPS - 5))) / 2)


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    ids, targets = (torch.from_numpy(rows) for rows in batch)
    return nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), targets.flatten())


def plain(spec: RunSpec, config: dict[str, Any], start: dict[str, Tensor]) -> tuple[dict[int, float], float, float]:
    """The losses of a single process: transformers' model, torch's AdamW and clip_grad_norm_, whole batches."""
    facts = copy.deepcopy(config)
    made = AutoConfig.for_model(facts.pop("model_type"), **facts)
    model = AutoModelForCausalLM.from_config(made, attn_implementation="sdpa")
    model.load_state_dict(start)
    assert model.config.tie_word_embeddings == (model.get_input_embeddings().weight is model.lm_head.weight)
    corpus = read_corpus(spec.job)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), foreach=False, fused=False)
    clipped, found = 0, {}
    for step in range(1, STEPS + 1):
        for group in adam.param_groups:
            group["lr"] = rate(step)
        loss = loss_of(model, corpus.batch(step - 1))
        loss.backward()
        clipped += nn.utils.clip_grad_norm_(model.parameters(), 1.0).item() > 1.0
        adam.step()
        adam.zero_grad()
        found[step] = loss.item()
    assert 5 < clipped < STEPS  # both sides of the limit are tried
    with torch.no_grad():
        held_out = [loss_of(model, batch).item() for batch in corpus.held_out(16)]
    return found, sum(held_out) / len(held_out), max(p.abs().max().item() for p in model.parameters())


QUICK = [("zb-h1", "tied")]
OTHERS = [
    ("interleaved", "gpt2"),
    ("1f1b", "untied"),
    ("1f1b", "gpt2"),
    ("zb-h1", "untied"),
    ("1f1b", "tied"),
    ("zb-h1", "gpt2"),
    ("interleaved", "tied"),
    ("interleaved", "untied"),
]


@pytest.mark.parametrize(
    ("schedule", "kind"), [*QUICK, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_fifty_steps(schedule: str, kind: str, tmp_path: Path) -> None:
    folder, spec = prepared(
        tmp_path, TIED[kind], schedule=schedule, chunks=2 if schedule == "interleaved" else 1, **WHAT
    )
    plan = plan_for(spec)

    def work(rank: int) -> tuple[dict[str, Tensor], float, float]:
        trainer = Trainer(spec, plan, rank, folder, torch.device("cpu"))
        start = {name: value.clone() for m in trainer.modules.values() for name, value in m.state_dict().items()}
        metrics = MetricsFile(folder / "metrics.jsonl", after=0) if rank == 0 else None
        trained = trainer.train(metrics, Progress(STEPS, shown=False))
        return start, trained.held_out, trained.loss

    parts = on_ranks(2, work)
    config = json.loads((tmp_path / "config.json").read_text())
    if "n_embd" in config:
        config = {"vocab_size": 256, **TIED["gpt2"]}
    expected, held_out, _ = plain(spec, config, parts[0][0] | parts[1][0])
    mine = losses(folder)
    assert mine.keys() == expected.keys()
    assert max(abs(mine[step] - expected[step]) for step in expected) < CLOSE
    assert expected[STEPS] < expected[1] - 0.5  # it learns, so the steps matter
    for _, value, last in parts:
        assert abs(value - held_out) < CLOSE
        assert abs(last - expected[STEPS]) < CLOSE


def test_the_copies_of_a_tied_embedding_stay_bitwise_equal(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, TIED["tied"], **{**WHAT, "steps": 20})
    plan = plan_for(spec)

    def work(rank: int) -> Tensor:
        trainer = Trainer(spec, plan, rank, folder, torch.device("cpu"))
        trainer.train(None, Progress(20, shown=False))
        (module,) = trainer.modules.values()
        return module.tied["embedding"].detach()

    first, last = on_ranks(2, work)
    assert torch.equal(first, last)


@pytest.mark.parametrize("precision", [pytest.param("float64", marks=pytest.mark.slow), "bfloat16"])
def test_other_precisions_train(precision: str, tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, schedule="zb-h1", precision=precision, **{**WHAT, "steps": 30})
    plan = plan_for(spec)

    def work(rank: int) -> float:
        trainer = Trainer(spec, plan, rank, folder, torch.device("cpu"))
        trained = trainer.train(None, Progress(30, shown=False))
        return trained.held_out_before - trained.held_out

    assert min(on_ranks(2, work)) > 0.5
