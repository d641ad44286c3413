"""Activations that wait in host memory: copied out after the forward, back before the backward.

What autograd saves of a forward is noted as storages. A copy empties the storage and keeps the tensors that look at it,
so that graph and kept functions stay as they are; the way back fills it again. Moved is what
the graph made and the stage's input. Never moved: parameters and buffers of the stage, tensors without a graph of their
own (masks and tables may serve many micro-batches, statistics are small), and the output that is handed on.

Copies run beside the rank's compute, those of one direction one after the other: on a GPU on a stream of their own, to
pinned memory, where memory is free for others once the copy has ended; on a CPU in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from penstock.runtime.clock import Clock
from penstock.runtime.recompute import Recompute
from penstock.runtime.stage import Stage

Wait = Callable[[], bool]
"""Waits for a copy; says whether there was something to wait for."""


class HostLink:
    """One direction of a rank's link to its host.

    Args:
        device: where the rank computes.
        clock: stamps the ends of copies.
    """

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self._clock = clock
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1) if self._stream is None else None
        self._begun: list[tuple[int, Callable[[], Any]]] = []

    def start(self, place: int, copy: Callable[[], None]) -> Wait:
        """Begin a copy for the op at a place of the lane, behind those that were begun before."""
        if self._thread is not None:
            ending: Future[Any] = self._thread.submit(self._run, [copy])
            self._begun.append((place, ending.result))
            return partial(_result, ending)
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            ended = self._run([copy])
        self._begun.append((place, lambda: ended))
        return partial(_event, ended)

    def finish(self) -> Iterator[tuple[int, Any]]:
        """Wait for all copies: the place of each and the clock's stamp of its end."""
        begun, self._begun = self._begun, []
        for place, ended in begun:
            yield place, ended()

    def _run(self, copies: list[Callable[[], None]]) -> Any:
        """Make one copy, and let go of what it held before anybody learns that it ended."""
        copies.pop()()
        return self._clock.stamp()


class Host:
    """The activations of one stage that move, by micro-batch.

    Args:
        stage: whose.
        links: out and back.
        share: share of what can move that does: storages, the largest first, as long as their bytes do not exceed it.

    Attributes:
        moved_bytes: what lies on the host now, or is on its way there.
    """

    def __init__(self, stage: Stage, links: tuple[HostLink, HostLink], share: float = 1.0) -> None:
        self.moved_bytes = 0
        module = stage.module
        self._links, self._share = links, share
        self._own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
        self._first = stage.first
        self._saved: dict[int, dict[int, torch.UntypedStorage]] = {}
        self._away: dict[int, list[_Moved]] = {}
        self._gone: dict[int, Wait] = {}
        self._arrives: dict[int, Wait] = {}

    def forward(
        self, work: Callable[..., Tensor], again: Recompute | None, micro: int, x: Tensor, target: Tensor | None = None
    ) -> Tensor:
        """Run a forward and note what it saves, or keeps to be made again; its input counts too, but not the data of
        the first stage."""
        saved: dict[int, torch.UntypedStorage] = {}
        with saved_tensors_hooks(partial(self._pack, saved), lambda tensor: tensor):
            y = work(micro, x, target)
        for tensor in again.held(micro) if again else () if self._first else (x,):
            _note(saved, tensor)
        saved.pop(y.untyped_storage()._cdata, None)
        self._saved[micro] = saved
        return y

    def offload(self, place: int, micro: int) -> None:
        """OFFLOAD, at a place of the lane: the copy out."""
        moved = self._away[micro] = [_Moved(one) for one in self._chosen(self._saved.pop(micro).values())]
        self.moved_bytes += sum(one.size for one in moved)
        self._gone[micro] = self._links[0].start(place, partial(_out, moved))

    def fetch(self, place: int, micro: int) -> None:
        """FETCH, at a place of the lane: the copy back, which ``arrived`` waits for."""
        moved, gone = self._away.pop(micro), self._gone.pop(micro)
        self.moved_bytes -= sum(one.size for one in moved)
        for one in moved:
            if one.on_gpu:
                one.make_room()  # memory of the stream that computes with it
        self._arrives[micro] = self._links[1].start(place, partial(_back, moved, gone))

    def arrived(self, micro: int) -> bool:
        """Let compute wait for the copy back of a micro-batch; whether there was something to wait for."""
        return self._arrives.pop(micro)()

    def _chosen(self, saved: Iterable[torch.UntypedStorage]) -> list[torch.UntypedStorage]:
        able = sorted((one for one in saved if one.resizable()), key=lambda one: -one.nbytes())
        left, chosen = self._share * sum(one.nbytes() for one in able) * (1 + 1e-9), []
        for one in able:
            if one.nbytes() <= left:
                left -= one.nbytes()
                chosen.append(one)
        return chosen

    def forget(self) -> None:
        """Drop what was moved of forwards that will be run again; copies on their way end unseen."""
        for kept in (self._saved, self._away, self._gone, self._arrives):
            kept.clear()
        self.moved_bytes = 0

    def _pack(self, saved: dict[int, torch.UntypedStorage], tensor: Tensor) -> Tensor:
        if tensor.grad_fn is not None and tensor.untyped_storage()._cdata not in self._own:
            _note(saved, tensor)
        return tensor.detach()  # the tensor itself would hold the node that saves it


class _Moved:
    """One storage and, while it is empty, its copy; both ways are for the thread or the stream of a link."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage, self.size = storage, storage.nbytes()
        self.on_gpu = storage.device.type == "cuda"
        self._copy = torch.empty(0)

    def out(self) -> None:
        whole = _bytes(self.storage)
        self._copy = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=self.on_gpu)
        self._copy.copy_(whole, non_blocking=self.on_gpu)
        self._used(whole)
        self.storage.resize_(0)

    def make_room(self) -> None:
        self.storage.resize_(self.size)

    def back(self) -> None:
        whole = _bytes(self.storage)
        whole.copy_(self._copy, non_blocking=self.on_gpu)
        self._used(whole)

    def _used(self, whole: Tensor) -> None:
        """Let memory go to others only when the copy, which the host does not wait for, has ended."""
        if self.on_gpu:
            whole.record_stream(torch.cuda.current_stream(whole.device))


def _out(moved: list[_Moved]) -> None:
    for one in moved:
        one.out()


def _back(moved: list[_Moved], gone: Wait) -> None:
    gone()
    for one in moved:
        if not one.on_gpu:
            one.make_room()
        one.back()


def _result(ending: Future[Any]) -> bool:
    waits = not ending.done()
    ending.result()
    return waits


def _event(event: torch.cuda.Event) -> bool:
    event.wait()
    return True


def _note(saved: dict[int, torch.UntypedStorage], tensor: Tensor) -> None:
    storage = tensor.untyped_storage()
    saved[storage._cdata] = storage


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    """All of a storage as bytes."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
