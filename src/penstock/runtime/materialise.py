"""Memory and first values of modules that were made without."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import nn


def materialise(unit: nn.Module, name: str, init: Callable[[nn.Module], None], seed: int) -> None:
    """Give `unit` memory on the CPU and initial values, drawn module by module, children first as transformers does."""
    unit.to_empty(device="cpu")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for param in unit.parameters():
            param.fill_(torch.nan)
        for child, module in reversed(list(unit.named_modules(prefix=name))):
            digest = hashlib.blake2b(f"{seed}:{child}".encode(), digest_size=7).digest()
            torch.default_generator.manual_seed(int.from_bytes(digest, "big"))
            init(module)
    for child, param in unit.named_parameters(prefix=name):
        if param.isnan().any():
            raise RuntimeError(f"transformers' _init_weights left {child} without a value")
