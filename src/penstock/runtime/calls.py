"""How transformers' own forward calls the layers of a decoder, so that a stage can call its own likewise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from penstock.runtime.slices import KeysAndValues

if TYPE_CHECKING:
    from penstock.runtime.decoder import Family

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a layer besides the hidden state, by place and by name."""
_CACHED_SHAPES = 8  # a run has one or two shapes; the bound keeps masks of many lengths from piling up


class _Recorder(nn.Module):
    """Stands in for a decoder layer: notes how it is called and passes the hidden state on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)  # read by older versions of transformers

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.call: Call = args, kwargs
        return hidden


class _Zero(nn.Module):
    """Stands in for a position embedding, which has no part in the arguments of the layers."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros((), device=ids.device)


class LayerCalls:
    """The arguments, besides the hidden state, with which transformers' own forward calls each layer of a stage.

    They depend only on the shape of the micro-batch and where in its sequence it starts: recorded once for each, then
    reused by every micro-batch. ``past`` is what they get for a cache.
    """

    def __init__(
        self,
        skeleton: Any,
        family: Family,
        layers: range,
        dtype: torch.dtype,
        device: torch.device,
        past: KeysAndValues | None = None,
    ) -> None:
        self.past = past
        self.base, self.layers, self.dtype, self.device = getattr(skeleton, family.base), layers, dtype, device
        self.config, self.learned = skeleton.config, family.positions is not None
        self.cache: dict[tuple[torch.Size, torch.dtype, int], list[Call]] = {}
        self.most = _CACHED_SHAPES * (past.slices if past is not None else 1)
        self.recorders = [_Recorder(layer) for layer in getattr(self.base, family.layers)]
        setattr(self.base, family.layers, nn.ModuleList(self.recorders))
        setattr(self.base, family.norm, nn.Identity())
        setattr(self.base, family.embed, None)
        if family.positions:
            setattr(self.base, family.positions, _Zero())
        for module in self.base.modules():  # what is left: rotary tables
            if any(True for _ in module.buffers(recurse=False)):
                module.to_empty(device=device, recurse=False)
                skeleton._init_weights(module)

    def __call__(self, x: Tensor, ids: bool) -> list[Call]:
        """One (args, kwargs) per own layer, for ids (micro, seq) or a hidden state (micro, seq, hidden)."""
        key = (x.shape, x.dtype, self.past.start if self.past is not None else 0)
        calls = self.cache.get(key)
        if calls is None:
            self._check(x, ids)
            if len(self.cache) == self.most:
                del self.cache[next(iter(self.cache))]
            calls = self.cache[key] = self._record(x.shape[0], x.shape[1])
        return calls

    @torch.no_grad()
    def _record(self, micro: int, seq: int) -> list[Call]:
        hidden = torch.zeros((), dtype=self.dtype, device=self.device).expand(micro, seq, self.config.hidden_size)
        self.base(inputs_embeds=hidden, use_cache=False, past_key_values=self.past)
        return [self.recorders[index].call for index in self.layers]

    def _check(self, x: Tensor, ids: bool) -> None:
        """Raise ValueError if `x` is not what a stage takes."""
        size, limit, got = self.config.hidden_size, self.config.max_position_embeddings, f"{x.dtype} {tuple(x.shape)}"
        if ids and (x.ndim != 2 or x.dtype != torch.int64):
            raise ValueError(f"the first stage takes int64 ids (micro, seq), not {got}")
        if not ids and (x.ndim != 3 or x.shape[2] != size or x.dtype != self.dtype):
            raise ValueError(f"this stage takes a {self.dtype} hidden state (micro, seq, {size}), not {got}")
        tokens = x.shape[1] + (self.past.start if self.past is not None else 0)
        if self.learned and tokens > limit:
            raise ValueError(f"{tokens} tokens, but the model has {limit} learned positions; use seq <= {limit}")
