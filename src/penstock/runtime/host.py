"""Activations that wait in host memory: copied out after the forward, back before the backward.

What autograd saves of a forward is noted as storages. A copy empties the storage and keeps the tensors that look at it,
so that graph and kept functions stay as they are; the way back fills it again. Moved is what
the graph made and the stage's input. Never moved: parameters and buffers of the stage, tensors without a graph of their
own (masks and tables may serve many micro-batches, statistics are small), and the output that is handed on.

On a GPU copies run on a stream of their own per direction, to pinned memory, beside the compute; memory is free for
others once the copy has ended. On a CPU a copy is made at once, by the rank itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from penstock.runtime.stage import Stage


class Host:
    """The activations of one stage that move, by micro-batch.

    Attributes:
        moved_bytes: what lies on the host now.
    """

    def __init__(self, stage: Stage) -> None:
        self.moved_bytes = 0
        module = stage.module
        self._own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
        self._first = stage.first
        self._saved: dict[int, dict[int, torch.UntypedStorage]] = {}
        self._away: dict[int, list[tuple[torch.UntypedStorage, Tensor]]] = {}
        self._arrives: dict[int, torch.cuda.Event] = {}
        device = next((t.device for t in module.parameters()), torch.device("cpu"))
        self._streams = [torch.cuda.Stream(device) for _ in range(2)] if device.type == "cuda" else []

    def forward(self, work: Callable[..., Tensor], micro: int, x: Tensor, target: Tensor | None = None) -> Tensor:
        """Run a forward and note what it saves; its input counts too, but not the data of the first stage."""
        saved: dict[int, torch.UntypedStorage] = {}
        with saved_tensors_hooks(partial(self._pack, saved), lambda tensor: tensor):
            y = work(micro, x, target)
        if not self._first:
            _note(saved, x)
        saved.pop(y.untyped_storage()._cdata, None)
        self._saved[micro] = saved
        return y

    def offload(self, micro: int) -> None:
        """OFFLOAD: the copy out."""
        self._away[micro] = [
            (storage, self._out(storage)) for storage in self._saved.pop(micro).values() if storage.resizable()
        ]
        self.moved_bytes += sum(copy.nbytes for _, copy in self._away[micro])

    def fetch(self, micro: int) -> None:
        """FETCH: the copy back, which ``arrived`` waits for."""
        pairs = self._away.pop(micro)
        self.moved_bytes -= sum(copy.nbytes for _, copy in pairs)
        for storage, copy in pairs:
            storage.resize_(copy.nbytes)
        if not self._streams:
            for storage, copy in pairs:
                _bytes(storage).copy_(copy)
            return
        stream = self._streams[1]
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for storage, copy in pairs:
                whole = _bytes(storage)
                whole.copy_(copy, non_blocking=True)
                whole.record_stream(stream)
            self._arrives[micro] = stream.record_event()

    def arrived(self, micro: int) -> None:
        """Let compute wait for the copy back of a micro-batch."""
        event = self._arrives.pop(micro, None)
        if event is not None:
            event.wait()

    def forget(self) -> None:
        """Drop what was moved of forwards that will be run again; copies on their way end unseen."""
        for kept in (self._saved, self._away, self._arrives):
            kept.clear()
        self.moved_bytes = 0

    def _pack(self, saved: dict[int, torch.UntypedStorage], tensor: Tensor) -> Tensor:
        if tensor.grad_fn is not None and tensor.untyped_storage()._cdata not in self._own:
            _note(saved, tensor)
        return tensor.detach()  # the tensor itself would hold the node that saves it

    def _out(self, storage: torch.UntypedStorage) -> Tensor:
        whole = _bytes(storage)
        if not self._streams:
            copy = whole.clone()
        else:
            stream = self._streams[0]
            copy = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=True)
            stream.wait_stream(torch.cuda.current_stream(stream.device))
            with torch.cuda.stream(stream):
                copy.copy_(whole, non_blocking=True)
            whole.record_stream(stream)  # the allocator gives the memory away only after the copy
        storage.resize_(0)
        return copy


def _note(saved: dict[int, torch.UntypedStorage], tensor: Tensor) -> None:
    storage = tensor.untyped_storage()
    saved[storage._cdata] = storage


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    """All of a storage as bytes."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
