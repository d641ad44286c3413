"""What stands for a model of which only the name is known, where that says how large it is."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from math import log
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.config.numbers import gpt
from penstock.core.config.read import catalogue, read_architecture
from penstock.core.parts import Experts

GPTS = {
    "1.7b": (24, 2304, 24), "3.6b": (30, 3072, 32), "7.5b": (36, 4096, 32), "18.4b": (40, 6144, 48),
    "39.1b": (48, 8192, 64), "76.1b": (60, 10240, 80), "145.6b": (80, 12288, 96), "310.1b": (96, 16384, 128),
    "529.6b": (105, 20480, 128), "530b": (105, 20480, 128), "22b": (48, 6144, 64), "1t": (128, 25600, 160),
    "1008b": (128, 25600, 160), "126m": (12, 768, 12), "345m": (24, 1024, 16), "1.3b": (24, 2048, 32),
    "1.5b": (48, 1600, 25), "2.7b": (32, 2560, 32), "5b": (24, 4096, 32), "6.7b": (32, 4096, 32),
    "13b": (40, 5120, 40), "20b": (44, 6144, 48), "175b": (96, 12288, 96),
}  # fmt: skip
"""Layers, width and heads of GPTs by their parameters (Narayanan et al. 2021, arXiv:2104.04473, table 1; Korthikanti et
al. 2022, arXiv:2205.05198, table 3; NVIDIA's recipes of NeMo; Brown et al. 2020, arXiv:2005.14165, table 2.1; GPT-2:
Radford et al. 2019)."""
PALMS = {"8b": (32, 4096, 16), "62b": (64, 8192, 32), "540b": (118, 18432, 48)}
"""The same of PaLM (Chowdhery et al. 2022, arXiv:2204.02311, table 1): one head of keys and values, each 256 wide."""
MOST = 2e11
"""Parameters of the largest model of which a size alone is taken for a dense one: most of those beyond have experts."""
GPT_NAMES = re.compile(r"^(gpt|megatron|mt-?nlg|turing)")
OTHER_KINDS = re.compile(
    r"(?<![a-z])(vit|clip|siglip|dit|sdxl|sd|stable.?diffusion|flux|wan|hunyuanvideo|unet|imagen|opensora|cogvideo\w*|sora"
    r"|resnet|bert|roberta|deberta|electra|t5|ul2|bart|whisper|wav2vec|dlrm|evo|esm|alphafold)(?![a-z])",
    re.IGNORECASE,
)
"""Names of models that are no decoders of text."""
SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?) ?([mbt])(?![a-z0-9])", re.IGNORECASE)
ROUTED = re.compile(r"moe(?![a-z])|experts", re.IGNORECASE)
"""Words for experts."""
ACTIVE = re.compile(r"(?<![a-z])a(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
ROUNDED = 0.05
"""So far apart, as logarithms, may parameters be of a model and of a name that rounds them."""
ALIKE = 0.2
"""So far apart, as logarithms, may parameters be of models that begin alike."""
DENSE = ("llama", "gpt2", "mistral", "qwen2", "qwen3")
"""Families whose models stand for others as large."""


def likely(name: str) -> tuple[Architecture, str]:
    """Return a decoder as large as a name says, and what it is like in words: a published GPT, else the dense model (or
    where active parameters are named, that with experts) of the catalogue that is nearest, with more or fewer layers.

    Raises:
        ValueError: the name says no size, or means no decoder of text.

    >>> model, words = likely("InternLM2-20B")
    >>> model.parameters // 10**9, words
    (20, 'InternLM2-20B is taken to be like mistral-small-24b with 34 layers')
    """
    if kind := OTHER_KINDS.search(name):
        raise ValueError(f"model={name!r} is no decoder of text ({kind[0]}); give layers and hidden of its blocks")
    size = SIZE.search(name)
    if size is None:
        raise ValueError(f"model={name!r} is not in the catalogue; give layers and hidden (and heads, ffn, vocab)")
    billions = float(size[1]) * {"m": 1e-3, "b": 1, "t": 1e3}[size[2].lower()]
    key, active = f"{size[1]}{size[2].lower()}", ACTIVE.search(name)
    routed = bool(active or ROUTED.search(name))
    if GPT_NAMES.match(name.lower()) and not routed:
        model = _gpt(name, key, billions * 1e9)
        words = f"the GPT of {model.layers} layers of {model.hidden} that has so many parameters"
        return model, f"{name} is taken to be {words}"
    if name.lower().startswith("palm") and key in PALMS:
        layers, hidden, heads = PALMS[key]
        sizes: dict[str, Any] = {"kv_heads": 1, "head_dim": 256, "ffn": 4 * hidden, "vocab": 256_000}
        model = gpt(layers=layers, hidden=hidden, heads=heads, gated=True, tied=True, name=name, **sizes)
        return model, f"{name} is taken to be PaLM of {layers} layers of {hidden}"
    if billions * 1e9 > MOST and not active:
        raise ValueError(
            f"model={name!r} is not in the catalogue, and may have experts; name its active parameters, as in "
            "300B-A47B, or give layers, hidden and experts"
        )
    like = _nearest(name, billions * 1e9, routed, float(active[1]) * 1e9 if active else 0.0)
    return _as_large(read_architecture(like), billions * 1e9, name, like)


def _gpt(name: str, key: str, parameters: float) -> Architecture:
    """The published GPT of this size, else that which is nearest, with more or fewer layers."""

    def made(key: str) -> Architecture:
        layers, hidden, heads = GPTS[key]
        return gpt(layers=layers, hidden=hidden, heads=heads, vocab=51200, tied=True, name=name)

    near = key if key in GPTS else min(GPTS, key=lambda one: abs(log(made(one).parameters / parameters)))
    return made(near) if near == key else _as_large(made(near), parameters, name, near)[0]


def _nearest(name: str, parameters: float, routed: bool, active: float) -> str:
    """The model of the catalogue that is nearest in parameters, and in active ones where these are fewer; those that
    begin like the name, if one of them is as large."""
    known = _sizes(routed)
    start = re.split(r"[^a-z0-9]", name.lower())[0]

    def far(one: str) -> float:
        whole, some = known[one]
        return abs(log(whole / parameters)) + (abs(log(some / active)) if active else 0.0)

    alike = [one for one in known if one.startswith(start) and far(one) < ALIKE]
    return min(alike or known, key=far)


@cache
def _sizes(routed: bool) -> dict[str, tuple[float, float]]:
    """Parameters, and active ones, of dense models, or of those with experts."""
    found = {}
    for known in catalogue():
        model = read_architecture(known)
        experts = any(isinstance(block.mlp, Experts) for block in model.kinds())
        if experts == routed and (routed or model.family in DENSE):
            found[known] = (float(model.parameters), float(model.active_parameters))
    return found


def _as_large(model: Architecture, parameters: float, name: str, like: str) -> tuple[Architecture, str]:
    """The same with so many layers that it has so many parameters."""
    if abs(log(model.parameters / parameters)) < ROUNDED:
        return replace(model, name=name), f"{name} is taken to be like {like}"
    block = model.blocks[-1]
    rest = model.parameters - sum(each.parameters for each in model.blocks)
    layers = max(1, round((parameters - rest) / block.parameters))
    blocks = (*model.blocks[: max(0, layers - 1)], *(block,) * layers)[:layers]
    words = f"{name} is taken to be like {like}" + (f" with {layers} layers" if layers != model.layers else "")
    return replace(model, name=name, blocks=blocks), words
