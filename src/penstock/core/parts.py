"""Parts that blocks are made of: linear layers, norms, feed-forwards, experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["columns", "rows", "none"]
"""How tensor parallelism cuts a matrix: its outputs, its inputs, or not at all."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer: ``(tokens, inputs) -> (tokens, outputs)``."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    split: Split = "columns"

    @property
    def parameters(self) -> int:
        """Weights, and one per output with a bias."""
        return (self.inputs + self.bias) * self.outputs


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over ``width`` features: RMS, or else of mean and variance.

    ``over``: how many times it runs per token (once per head). ``own``: whether each of these has parameters of its
    own.
    """

    width: int
    rms: bool = True
    bias: bool = False
    scale: bool = True
    over: int = 1
    own: bool = False
    name: str = "norm"

    @property
    def parameters(self) -> int:
        """Scales and offsets."""
        return self.width * (self.scale + self.bias) * (self.over if self.own else 1)

    @property
    def features(self) -> int:
        """Per token, those of all its runs."""
        return self.width * self.over


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """A feed-forward of width ``ffn``: up, activation, down; ``gated``: a third matrix, whose activation scales the
    second's output. ``fused``: gate and up are one product. ``vectors``: parameters of the activation. ``limited``:
    what it reads is kept within limits first."""

    hidden: int
    ffn: int
    gated: bool = True
    bias: bool = False
    down_bias: bool | None = None
    fused: bool = False
    activation: str = "silu"
    norm: Norm | None = None
    vectors: int = 0
    limited: bool = False

    @property
    def inward(self) -> tuple[Matrix, ...]:
        """The products that read the layer's input."""
        if self.gated and self.fused:
            return (Matrix("mlp.gate_up", self.hidden, 2 * self.ffn, self.bias),)
        up = Matrix("mlp.up", self.hidden, self.ffn, self.bias)
        return (Matrix("mlp.gate", self.hidden, self.ffn, self.bias), up) if self.gated else (up,)

    @property
    def outward(self) -> Matrix:
        """The product that gives the layer's output."""
        bias = self.bias if self.down_bias is None else self.down_bias
        return Matrix("mlp.down", self.ffn, self.hidden, bias, "rows")

    @property
    def parameters(self) -> int:
        """Of two or three matrices."""
        inner = self.norm.parameters if self.norm else 0
        return sum(matrix.parameters for matrix in (*self.inward, self.outward)) + inner + self.vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """``experts`` feed-forwards, of which a router gives each token ``topk``, beside ``shared`` that sees every token.

    ``expert`` is one of them; in models whose experts work on a latent it is narrower than ``hidden``, and two more
    matrices lead there and back (Nemotron 3, arXiv:2512.20856). ``shared_gate``: a scalar gate on the shared one.
    ``vectors``: other parameters, such as a learned bias of the router's scores.
    """

    hidden: int
    experts: int
    topk: int
    expert: Mlp
    shared: Mlp | None = None
    shared_gate: bool = False
    router_bias: bool = False
    vectors: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.topk <= self.experts:
            raise ValueError(f"topk={self.topk} of experts={self.experts}: use 1 to {self.experts}")

    @property
    def router(self) -> Matrix:
        """Scores of all experts."""
        return Matrix("experts.router", self.hidden, self.experts, self.router_bias, "none")

    @property
    def latent(self) -> tuple[Matrix, ...]:
        """The matrices to the latent and back, if there is one."""
        if self.expert.hidden == self.hidden:
            return ()
        into = Matrix("experts.latent_down", self.hidden, self.expert.hidden, self.expert.bias, "none")
        return into, Matrix("experts.latent_up", self.expert.hidden, self.hidden, self.expert.bias, "none")

    @property
    def parameters(self) -> int:
        """Of all experts."""
        return self._beside + self.experts * self.expert.parameters

    @property
    def active_parameters(self) -> int:
        """Of those that one token visits."""
        return self._beside + self.topk * self.expert.parameters

    @property
    def _beside(self) -> int:
        shared = (self.shared.parameters if self.shared else 0) + self.shared_gate * self.hidden
        latent = sum(matrix.parameters for matrix in self.latent)
        return self.router.parameters + shared + latent + self.vectors
