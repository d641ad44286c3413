"""Step times and peak memory of models of 1 to 3 billion weights on one GPU, through our own runtime, one rank.

One JSON line per configuration, written as soon as it is measured, with the times of every op of the median step. It
is what predictions from a calibration of the same machine are compared with. Weights are random, drawn on the device.

    python bench/gpu_steps.py [--out steps.jsonl] [--seconds 230] [--device cpu --tiny]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from penstock.core.job import Job, RunSettings, RunSpec, Strategy
from penstock.runtime import decoder
from penstock.runtime.progress import Progress
from penstock.runtime.run import plan_of
from penstock.runtime.train import Trainer

WARM, MEASURED = 2, 5
"""Steps left out, and steps of which the median, one of them, is taken: an odd number."""


@dataclass(frozen=True)
class Case:
    """One configuration: sequences of a micro-batch, tokens of each, micro-batches of a step."""

    model: str
    micro: int
    seq: int
    micros: int
    recompute: str


def llama(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int = 32000) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }


def gpt(hidden: int, layers: int, heads: int, vocab: int = 50304) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": vocab,
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": 4096,
        "activation_function": "gelu_new",
    }


MODELS = {
    "llama-1.1b": llama(2048, 8192, 16, 32, 8),
    "llama-3b": llama(3072, 8192, 28, 24, 8),
    "gpt-1.3b": gpt(2048, 24, 16),
    "tiny": llama(64, 128, 2, 4, 2, 256),
}


def cases(tiny: bool) -> Iterator[Case]:
    """The most telling first: what is last may be left out for lack of time."""
    if tiny:
        yield from (Case("tiny", 2, 64, 2, recompute) for recompute in ("", "selective", "full"))
        return
    small, large, older = "llama-1.1b", "llama-3b", "gpt-1.3b"
    yield from (Case(small, 2, 2048, 4, recompute) for recompute in ("", "full", "selective"))
    yield Case(large, 1, 2048, 4, "")
    yield from (Case(small, 1, 2048, 4, ""), Case(small, 1, 4096, 4, ""), Case(small, 4, 1024, 4, ""))
    yield from (Case(large, 2, 2048, 2, "full"), Case(small, 4, 4096, 2, "full"), Case(older, 2, 2048, 4, ""))
    yield from (Case(small, 1, 1024, 4, ""), Case(small, 4, 2048, 2, ""), Case(small, 2, 4096, 2, ""))
    yield from (Case(large, 1, 4096, 2, "selective"), Case(older, 4, 1024, 2, "full"), Case(small, 2, 1024, 2, ""))
    yield from (Case(small, 1, 4096, 4, "selective"), Case(small, 1, 1024, 4, "full"), Case(large, 2, 1024, 3, ""))
    yield from (Case(small, 4, 4096, 2, "selective"), Case(older, 1, 4096, 2, "selective"), Case(large, 4, 2048, 2, ""))
    yield Case(small, 4, 4096, 2, "")


def drawn_on(device: torch.device) -> Callable[..., None]:
    """In place of ``materialise``: the same memory, filled on the device, in a second and not a minute."""

    def fill(unit: nn.Module, name: str, init: object, seed: int) -> None:
        unit.to_empty(device=device)
        with torch.no_grad():
            for label, param in unit.named_parameters():
                if param.ndim >= 2:
                    param.normal_(0.0, 0.02)
                else:
                    param.fill_(0.0 if label.endswith("bias") else 1.0)

    return fill


class Timed(Trainer):
    """The trainer with a look at each step's time and peak memory."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.steps_s: list[float] = []
        self.peaks: list[tuple[int, int]] = []
        self.notes: list[str] = []

    def _probe(self) -> None:
        try:
            super()._probe()
        except torch.OutOfMemoryError:  # it holds two micro-batches, a step one
            self.notes.append("no room to look at what a forward saves")
            for stage in self.stages.values():
                stage.forget()
                stage.module.zero_grad(set_to_none=True)
            self.trained.saved = dict.fromkeys(self.stages, (0.0, 0.0))

    def _train_step(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            if not self.steps_s:
                torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        super()._train_step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.steps_s.append(time.perf_counter() - begun)
        self.peaks.append(self._peaks())

    def _peaks(self) -> tuple[int, int]:
        """Bytes of tensors, and what the allocator has taken for them."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return rss, rss


def measured(case: Case, folder: Path, text: Path, device: torch.device) -> dict[str, Any]:
    """Train a few steps of a configuration."""
    config = folder / f"{case.model}.json"
    config.write_text(json.dumps(MODELS[case.model]))
    spec = spec_of(case, config, text)
    begun = time.perf_counter()
    trainer = Timed(spec, plan_of(spec), 0, folder, device)
    made_s = time.perf_counter() - begun
    trained = trainer.train(None, Progress(spec.job.steps, shown=False))
    module, step_s = trainer.modules[0], statistics.median(trainer.steps_s[WARM:])
    masks = [kwargs.get("attention_mask") for calls in module._calls.cache.values() for _, kwargs in calls]
    return {
        "parameters": sum(param.numel() for param in module.parameters()),
        "step_s": step_s,
        "steps_s": [round(each, 6) for each in trainer.steps_s],
        "tokens_per_s": spec.job.tokens_per_step / step_s,
        "peak_allocated_bytes": max(peak for peak, _ in trainer.peaks[WARM:]),
        "peak_reserved_bytes": max(peak for _, peak in trainer.peaks[WARM:]),
        "weights_bytes": sum(param.nbytes for param in module.parameters()),
        "saved_bytes": trained.saved[0][0],
        "kept_share": trained.shares[0][0],
        "explicit_mask": any(mask is not None for mask in masks),
        **ops_of(trainer, trained.times[1 + WARM + trainer.steps_s[WARM:].index(step_s)]),
        "loss": trained.loss,
        "made_s": round(made_s, 2),
        "notes": trainer.notes,
    }


def spec_of(case: Case, config: Path, text: Path) -> RunSpec:
    job = Job(
        data=str(text),
        seq_length=case.seq,
        batch=case.micro * case.micros,
        steps=WARM + MEASURED,
        learning_rate=1e-4,
        precision="bfloat16",
        held_out_sequences=0,
    )
    strategy = Strategy(ranks=1, micro_batches=case.micros, recompute=case.recompute)
    return RunSpec(model=str(config), job=job, strategy=strategy, run=RunSettings(checkpoint_every=0))


def ops_of(trainer: Timed, times: np.ndarray) -> dict[str, Any]:
    """Median seconds of the ops of each kind in one step, and start and end of each op."""
    start, end = (times - times[0].min()).tolist()
    ops = list(zip(trainer.plan.lanes[0], start, end, strict=True))
    kinds: dict[str, list[float]] = {}
    for op, a, b in ops:
        kinds.setdefault(op.kind.name, []).append(b - a)
    lane = [[str(op), round(a, 6), round(b, 6)] for op, a, b in ops]
    return {"ops_s": {kind: statistics.median(each) for kind, each in kinds.items()}, "lane": lane}


def write_text(file: Path) -> Path:
    """Some text to train on: what it says does not change how long a step takes."""
    letters = np.random.default_rng(0).integers(97, 123, 4 << 20, dtype=np.uint8)
    letters[::6] = 32
    file.write_bytes(letters.tobytes())
    return file


def facts(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"date": date, "device": name, **versions, "models": MODELS}


def all_cases(chosen: Sequence[Case], device: torch.device, out: IO[str], ends: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = write_text(folder / "text.txt")
        for case in chosen:
            if time.monotonic() > ends:
                _say(out, {**asdict(case), "failed": "out of time"})
                continue
            try:
                row = measured(case, folder, text, device)
            except Exception as error:  # out of memory is an answer too
                row = {"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}
            _say(out, {**asdict(case), **row})
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _say(out: IO[str], row: dict[str, Any]) -> None:
    out.write(json.dumps(row) + "\n")
    out.flush()
    shown = {key: value for key, value in row.items() if key not in ("lane", "steps_s", "ops_s")}
    print(json.dumps(shown), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a file of the lines, with all their figures")
    parser.add_argument("--seconds", type=float, default=230.0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="a model for a CPU")
    arguments = parser.parse_args()
    ends = time.monotonic() + arguments.seconds
    cuda = arguments.device == "cuda" or (arguments.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    if not cuda and arguments.device == "auto":
        print("no GPU here; --device cpu --tiny runs small models without one")
        return
    if cuda:
        torch.cuda.set_device(device)
    decoder.materialise = drawn_on(device)
    with (arguments.out or Path(os.devnull)).open("w") as out:
        _say(out, facts(device))
        all_cases(list(cases(arguments.tiny or not cuda)), device, out, ends)


if __name__ == "__main__":
    main()
