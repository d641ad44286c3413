"""Which sizes a calibration measures: few, spread evenly over the logarithm of what training uses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice, product
from typing import NamedTuple


class Product(NamedTuple):
    """``batch`` products of (m, k) by (k, n), by what it is to a linear layer: its layouts in memory differ."""

    layout: str
    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> float:
        """FLOPs of all."""
        return 2.0 * self.batch * self.m * self.n * self.k


class Attention(NamedTuple):
    """One attention; ``head`` is the size of a head."""

    batch: int
    heads: int
    kv_heads: int
    seq: int
    head: int
    causal: bool


class Blocks(NamedTuple):
    """``layers`` blocks like Llama's in a row, and the micro-batch that goes through them."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    seq: int
    batch: int
    layers: int


def halton(number: int, base: int) -> float:
    """Return entry ``number`` (1, 2, ...) of the low-discrepancy sequence of a prime, in (0, 1) (Halton 1960).

    >>> [halton(number, 2) for number in (1, 2, 3)]
    [0.5, 0.25, 0.75]
    """
    found, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        found += weight * digit
    return found


def products(most_flops: float, *, large: bool, wanted: int = 48) -> list[Product]:
    """Return shapes of linear layers, in an order of which every beginning is spread evenly.

    Layers of transformers come first, then points spread over m, n and k; each third shape comes with the gradients of
    its input and its weights. Sizes of GPUs (``large``) reach from 512 to 16384, with a few small ones; those of CPUs
    from 16 to 4096.

    Args:
        most_flops: of one product; larger ones are left out.
        wanted: spread points.
    """
    found = []
    forward = [shape for shape in _layers(large) if 2.0 * math.prod(shape) <= most_flops]
    forward += islice(_spread(most_flops, large), wanted)
    half = len(forward) // 2
    order = [forward[at // 2 + half * (at % 2)] for at in range(2 * half)] + forward[2 * half :]
    for number, (m, n, k) in enumerate(order):
        found.append(Product("forward", 1, m, n, k))
        if number % 3 == 0:
            found += [Product("input_grad", 1, m, k, n), Product("weight_grad", 1, n, k, m)]
    return found


def _layers(large: bool) -> list[tuple[int, int, int]]:
    """Tokens, outputs and inputs of layers as models have them."""
    if not large:
        return [
            (tokens, n, k)
            for tokens in (64, 256, 512)
            for n, k in ((192, 192), (384, 192), (192, 384), (256, 192), (768, 768), (3072, 768), (768, 3072))
        ]
    layers = [(tokens, times[0] * h, times[1] * h) for tokens, h, times in _usual()]
    return [*layers, (4096, 32000, 2048), (2048, 128256, 4096), (8192, 32000, 4096)]


def _usual() -> Iterator[tuple[int, int, tuple[int, int]]]:
    for tokens, h in ((2048, 2048), (4096, 4096), (8192, 2048), (8192, 8192), (1024, 3072)):
        for times in ((1, 1), (4, 1), (1, 4)):
            yield tokens, h, times


def _spread(most_flops: float, large: bool) -> Iterator[tuple[int, int, int]]:
    for number in count(1):
        low, high = (512, 16384) if large else (16, 4096)
        if large and number % 8 == 0:
            low, high = 16, 1024  # a few small ones
        step = (64 if number % 4 else 8) if large else 8
        ratio = high / low
        m, n, k = (max(step, step * round(low * ratio ** halton(number, base) / step)) for base in (2, 3, 5))
        if 2.0 * m * n * k <= most_flops:
            yield m, n, k


def batched(most_flops: float, *, large: bool) -> list[Product]:
    """Return products of many small matrices, as unfused attention and experts have them."""
    shapes = [(6, 256, 256, 32), (6, 256, 32, 256), (12, 128, 128, 64), (12, 128, 64, 128)]
    if large:
        shapes = [(64, 1024, 1024, 64), (64, 1024, 64, 1024), (32, 2048, 2048, 128), (32, 2048, 128, 2048)]
        shapes += [(8, 1024, 4096, 2048), (64, 256, 1024, 1024)]
    found = [Product("batched", *shape) for shape in shapes]
    return [each for each in found if each.flops <= most_flops]


def attentions(*, large: bool) -> list[Attention]:
    """Return attentions, widely different ones first."""
    if not large:
        small = [(2, 6, 2, 64, 32), (1, 6, 2, 256, 32), (1, 12, 12, 128, 64), (1, 12, 12, 512, 64)]
        small += [(1, 8, 2, 1024, 64), (4, 4, 4, 128, 32), (1, 4, 4, 2048, 64), (2, 16, 16, 256, 64)]
        small += [(1, 6, 6, 512, 32), (1, 12, 4, 256, 64), (8, 4, 4, 64, 64), (1, 4, 4, 1024, 32), (2, 6, 2, 128, 32)]
        small += [(1, 8, 8, 384, 128), (4, 6, 2, 256, 32)]
        return [Attention(*each, True) for each in small]
    found = []
    for head, (seq, batch) in product((128, 64), ((4096, 2), (1024, 8), (16384, 1), (2048, 4), (8192, 1))):
        heads = 4096 // head if seq < 16384 else 2048 // head
        found.append(Attention(batch, heads, heads, seq, head, True))
        found.append(Attention(batch, heads, heads // 4, seq, head, True))
    return [*found, *(each._replace(causal=False) for each in found[:4]), Attention(1, 16, 16, 512, 64, True)]


def blocks() -> list[Blocks]:
    """Return blocks of sizes that CPUs train: narrow and wide, short and long, with few and many heads of keys."""
    small = [(256, 512, 8, 2, 256, 1, 4), (128, 256, 4, 4, 64, 1, 4), (64, 128, 2, 1, 256, 2, 4)]
    small += [(128, 384, 4, 2, 768, 1, 3), (384, 1024, 6, 6, 256, 1, 3), (512, 1536, 8, 4, 128, 1, 2)]
    small += [(192, 768, 6, 6, 384, 1, 3), (768, 2048, 12, 4, 64, 1, 2)]
    return [Blocks(*each) for each in small]


def sizes(low: int, high: int, step: int = 4) -> list[int]:
    """Return bytes from ``low`` to ``high``, each ``step`` times the one before.

    >>> sizes(1024, 65536)
    [1024, 4096, 16384, 65536]
    """
    return [low * step**power for power in range(int(math.log(high / low, step) + 1e-9) + 1)]
