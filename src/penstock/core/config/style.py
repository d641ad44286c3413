"""What sets one family of decoders apart from another, as a row of facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Flag = bool | str
"""A fact of the family, or the name of the key that says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One family.

    ``norm``: RMS, of mean and variance, of these without an offset, or of these without any parameters. ``norms`` per
    block. ``qk_norm``: whether queries and keys are normed: ``head`` by one set of scales for all heads, ``each`` by a
    set per head, ``all`` over all heads at once. ``pattern``: every how many layers one sees the whole sequence, where
    the others are narrowed; 1: all are narrowed; 0: none. ``late``: layers are narrowed from ``max_window_layers`` on.
    ``chunked``: narrowed to chunks, not to a window. ``experts``: how a mixture of experts is laid out (``None``: it
    has none).
    """

    norm: Literal["rms", "layer", "layer without offset", "bare"] = "rms"
    norms: int = 2
    parallel: Flag = False
    qkv_bias: Flag = False
    out_bias: Flag = False
    qk_norm: Literal["", "head", "each", "all"] = ""
    qk_norm_if: str = ""
    sinks: bool = False
    gate: bool = False
    fused_qkv: bool = False
    rope: Flag = True
    yarn: bool = False
    latent: bool = False
    gated: bool = True
    mlp_bias: Flag = False
    fused_mlp: bool = False
    activation_parameters: int = 0
    inner_norms: bool = False
    head_bias: Flag = False
    final_norm: bool = True
    learned_positions: int | None = None
    """Learned positions beside those of ``max_position_embeddings``; ``None``: positions are not learned."""
    pattern: int = 0
    late: bool = False
    chunked: bool = False
    experts: ExpertStyle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertStyle:
    """How a mixture of experts is laid out.

    ``which``: the layers that have experts; ``first``: how many come before these where no key says it. ``shared``: how
    the width of the shared expert is said: that of the others, so many times that, or by a key of its own. ``bias``:
    whether experts have biases. ``limited``: whether what their activations read is kept within limits.
    ``score_bias``: a learned offset of each expert's score.
    """

    which: Literal["all", "after first", "every", "step", "from to"] = "all"
    shared: Literal["", "one", "count", "width"] = ""
    first: int = 0
    shared_gate: bool = False
    bias: bool = False
    limited: bool = False
    router_bias: bool = False
    score_bias: bool = False
