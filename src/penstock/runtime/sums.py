"""Sums of gradients over the replicas of a stage, beside the work that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.core.plan import Plan
from penstock.runtime.clock import Clock

Flat = dict[torch.dtype, Tensor]
"""All gradients of a module one behind the other, a vector per type."""
Wait = Callable[[dist.Work, int], None]


@dataclass(frozen=True, eq=False)
class _Sum:
    """One on its way: whose it is, the ops that asked for it, and what is summed in place."""

    part: int
    rows: list[int]
    flat: Flat
    works: list[dist.Work]
    ended: list[Callable[[], Any]]
    """Stamps of the ends, once the works are done."""


class GradientSums:
    """``REDUCE_GRAD`` of one rank: started at its op, waited for at the end.

    The gradients of a stage's weights are taken out of its module and put back summed, equal to the last bit on all
    replicas; so a stage may be summed several times in a step, and what is not cleared after a step is summed again.
    All ranks must make theirs of the same plan at the same time. On GPUs sums run on a stream of their own.

    Args:
        plan: whose replicas (``Placement.part_of``) are summed.
        rank: this rank.
        modules: its stages' modules.
        clock: stamps when a sum is done.
    """

    def __init__(self, plan: Plan, rank: int, modules: Mapping[int, nn.Module], clock: Clock) -> None:
        placement = plan.placement
        self._part_of, self._modules, self._clock = placement.part_of, modules, clock
        self._here = {p: [s for s in sorted(modules) if placement.part_of[s] == p] for p in placement.part_of}
        groups: dict[tuple[int, ...], Any] = {}
        self._group: dict[int, Any] = {}
        for part in sorted(self._here):
            ranks = tuple(sorted({r for r, p in zip(placement.rank_of, placement.part_of, strict=True) if p == part}))
            if len(ranks) > 1 and ranks not in groups:
                groups[ranks] = dist.new_group(list(ranks))
            self._group[part] = groups.get(ranks)
        self._asked: dict[int, list[int]] = {part: [] for part in self._here}
        self._begun: list[_Sum] = []
        devices = {param.device for module in modules.values() for param in module.parameters()}
        cuda = next((device for device in devices if device.type == "cuda"), None)
        self._stream = None if cuda is None else torch.cuda.Stream(cuda)

    def start(self, row: int, stage: int) -> None:
        """``REDUCE_GRAD`` of a stage, op id ``row``; where a rank holds several replicas, the last one starts it."""
        part = self._part_of[stage]
        if self._part_of.count(part) == 1:
            return
        self._asked[part].append(row)
        here = self._here[part]
        if len(self._asked[part]) < len(here):
            return
        rows, self._asked[part] = self._asked[part], []
        flat = _total([_taken(self._modules[s]) for s in here])
        if self._group[part] is None:
            self._begun.append(_Sum(part, rows, flat, [], [self._stamped()]))
        elif self._stream is None:
            self._begun.append(self._on_host(part, rows, flat))
        else:
            self._begun.append(self._on_device(part, rows, flat))

    def _on_host(self, part: int, rows: list[int], flat: Flat) -> _Sum:
        works = [dist.all_reduce(tensor, group=self._group[part], async_op=True) for tensor in flat.values()]
        ended = [work.get_future().then(lambda _: self._clock.stamp()).wait for work in works]
        return _Sum(part, rows, flat, works, ended)

    def _on_device(self, part: int, rows: list[int], flat: Flat) -> _Sum:
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for tensor in flat.values():
                tensor.record_stream(self._stream)
                dist.all_reduce(tensor, group=self._group[part])
            return _Sum(part, rows, flat, [], [self._stamped()])

    def _stamped(self) -> Callable[[], Any]:
        now = self._clock.stamp()
        return lambda: now

    def finish(self, wait: Wait) -> Iterator[tuple[int, Any]]:
        """Wait for all sums and put them back: each op id and the clock's stamp of its end.

        Args:
            wait: waits for a piece of work on behalf of an op id.
        """
        begun, self._begun = self._begun, []
        if begun and self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        for each in begun:
            for work in each.works:
                wait(work, each.rows[0])
            ended = [stamp() for stamp in each.ended]
            for number, stage in enumerate(self._here[each.part]):
                _put(self._modules[stage], each.flat, copy=number > 0)
            yield from ((row, ended[-1]) for row in each.rows if ended)


def _trained(module: nn.Module) -> Iterator[tuple[torch.dtype, list[nn.Parameter]]]:
    params = [param for param in module.parameters() if param.requires_grad]
    for dtype in dict.fromkeys(param.dtype for param in params):
        yield dtype, [param for param in params if param.dtype == dtype]


def _taken(module: nn.Module) -> Flat:
    """The gradients of a module, zero where there is none; the module keeps none of them."""
    flat: Flat = {}
    for dtype, params in _trained(module):
        flat[dtype] = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])
        for param in params:
            param.grad = None
    return flat


def _total(flats: list[Flat]) -> Flat:
    first, *others = flats
    for other in others:
        for dtype, tensor in other.items():
            first[dtype] += tensor
    return first


def _put(module: nn.Module, flat: Flat, copy: bool) -> None:
    """Give the sums to a module, on top of gradients that have come since."""
    for dtype, params in _trained(module):
        summed = flat[dtype].clone() if copy else flat[dtype]
        for param, piece in zip(params, summed.split([param.numel() for param in params]), strict=True):
            grad = piece.view_as(param)
            param.grad = grad if param.grad is None else param.grad + grad
