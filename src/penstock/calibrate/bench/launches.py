"""What operators cost the host, whatever their size: launches, autograd's own work, graphs of kernels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn

from penstock.calibrate.bench.pieces import Facts, Machine, Piece
from penstock.calibrate.bench.timers import BATCHES

_ROW = 200
"""Operators in a row: fewer than a GPU's queue holds, so that the host never waits."""


def pieces(machine: Machine, _: float) -> list[Piece]:
    """Seconds of the host per operator, and per kernel of a graph."""
    asked: list[tuple[str, Callable[[Machine], Iterator[float]]]] = [
        ("operator", _operator),
        ("forward", partial(_autograd, backward=False)),
        ("backward", partial(_autograd, backward=True)),
        ("linear_forward", partial(_linear, backward=False)),
        ("linear_backward", partial(_linear, backward=True)),
    ]
    if machine.cuda:
        asked += [("wait", _wait), ("kernel", _kernel), ("graph", _graph)]
    return [Piece({"what": what}, partial(_median, ask, machine)) for what, ask in asked]


def _median(ask: Callable[[Machine], Iterator[float]], machine: Machine) -> Iterator[tuple[Facts, float]]:
    samples = list(ask(machine))
    yield {}, statistics.median(samples[2:])


def _operator(machine: Machine) -> Iterator[float]:
    """One operator without a graph, in place."""
    x = torch.zeros(16, device=machine.device)
    for _ in range(BATCHES + 2):
        machine.timer.settle()
        begun = perf_counter()
        for _ in range(_ROW):
            x.add_(1.0)
        yield (perf_counter() - begun) / _ROW


def _autograd(machine: Machine, backward: bool) -> Iterator[float]:
    """One operator of a chain with its graph: the forward, or the backward of it."""
    x, factor = torch.ones(16, device=machine.device, requires_grad=True), torch.ones(16, device=machine.device)

    def chain() -> Tensor:
        y = x
        for _ in range(_ROW):
            y = y * factor
        return y

    yield from _either(machine, chain, backward, _ROW)


def _linear(machine: Machine, backward: bool) -> Iterator[float]:
    """One small linear layer of a chain, as a module."""
    layers = nn.Sequential(*(nn.Linear(16, 16, bias=False, device=machine.device) for _ in range(_ROW // 4)))
    x = torch.ones(16, 16, device=machine.device, requires_grad=True)
    yield from _either(machine, partial(layers, x), backward, _ROW // 4)


def _either(machine: Machine, chain: Callable[[], Tensor], backward: bool, count: int) -> Iterator[float]:
    for _ in range(BATCHES + 2):
        machine.timer.settle()
        begun = perf_counter()
        y = chain()
        if backward:
            machine.timer.settle()
            begun = perf_counter()
            y.backward(torch.ones_like(y))
        yield (perf_counter() - begun) / count


def _wait(machine: Machine) -> Iterator[float]:
    """The host waits for a device that has nothing left to do but one small kernel."""
    x = torch.zeros(16, device=machine.device)
    for _ in range(BATCHES + 2):
        begun = perf_counter()
        for _ in range(20):
            x.add_(1.0)
            machine.timer.settle()
        yield (perf_counter() - begun) / 20


def _kernel(machine: Machine) -> Iterator[float]:
    """The device's own time of a kernel that does nothing to speak of, in a row of them."""
    x = torch.zeros(16, device=machine.device)
    for _ in range(BATCHES):
        yield machine.timer.time([partial(x.add_, 1.0)]).seconds


def _graph(machine: Machine) -> Iterator[float]:
    """One kernel of a graph that is replayed."""
    x = torch.zeros(16, device=machine.device)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x.add_(1.0)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        for _ in range(_ROW):
            x.add_(1.0)
    for _ in range(BATCHES + 2):
        machine.timer.settle()
        begun = perf_counter()
        for _ in range(5):
            graph.replay()
        machine.timer.settle()
        yield (perf_counter() - begun) / (5 * _ROW)
