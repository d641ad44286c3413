"""Blocks as a run has them: a few in a row through the runtime's own stage, forward and backward, as ranks do at once.

Kernels by themselves say nothing of what lies between them: modules, views, autograd's own work, caches that other
operators have just filled. That is where a CPU spends a good part of a block.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

import torch

from penstock.calibrate.bench.pieces import DTYPES, Facts, Machine, Piece
from penstock.calibrate.bench.timers import working_clock
from penstock.calibrate.shapes import Blocks, blocks

_LEAST = 3
"""Samples of a pass, however long it takes."""


def pieces(machine: Machine, _: float) -> list[Piece]:
    """Forward and backward of each shape."""
    return [
        Piece({"precision": machine.precision, **shape._asdict()}, partial(_run, machine, shape)) for shape in blocks()
    ]


def _run(machine: Machine, shape: Blocks) -> Iterator[tuple[Facts, float]]:
    """Two micro-batches in flight, one forward and one backward in turn, and gradients that add up."""
    forward, backward = _passes(machine, shape)
    now = working_clock()
    for micro in (0, 1):
        forward(micro)
        backward(micro)
    forward(0)
    took: tuple[list[float], list[float]] = ([], [])
    begun, micro = perf_counter(), 0
    while perf_counter() - begun < 1.5 * machine.timer.target_s or len(took[0]) < _LEAST:
        at = now()
        forward(1 - micro)
        between = now()
        backward(micro)
        took[0].append(between - at)
        took[1].append(now() - between)
        micro = 1 - micro
    for gradient, samples in zip((False, True), took, strict=True):
        yield {"gradient": gradient}, statistics.quantiles(samples, n=4)[0]


def _passes(machine: Machine, shape: Blocks) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """The forward and the backward of a stage that is neither first nor last, by number of the micro-batch."""
    from transformers import LlamaConfig

    from penstock.runtime.decoder import DecoderStage
    from penstock.runtime.stage import Stage

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers + 2,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.seq,
        tie_word_embeddings=False,
    )
    dtype, size = DTYPES[machine.precision], (shape.batch, shape.seq, shape.hidden)
    module = DecoderStage(config, range(1, 1 + shape.layers), False, False, dtype=dtype, split=False)
    stage = Stage(module, False, False, size, 1.0, split=False)
    x, g = ([torch.randn(size, dtype=dtype) for _ in range(2)] for _ in range(2))
    return lambda micro: stage.forward(micro, x[micro].detach()), lambda micro: stage.backward(micro, g[micro])
