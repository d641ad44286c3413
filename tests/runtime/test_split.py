"""The split of the backward pass: the same bits as PyTorch and transformers, and only what W needs kept."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.pytorch_utils import Conv1D

from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.split import WeightQueue, Work, backward, run_pending, split_modules

MODULES = {
    "linear": lambda: nn.Linear(24, 40),
    "linear, no bias": lambda: nn.Linear(24, 40, bias=False),
    "conv1d": lambda: Conv1D(40, 24),
    "layer norm": lambda: nn.LayerNorm(24),
    "layer norm, no bias": lambda: nn.LayerNorm(24, bias=False),
    "llama": lambda: LlamaRMSNorm(24),
    "mistral": lambda: MistralRMSNorm(24),
    "qwen2": lambda: Qwen2RMSNorm(24),
    "qwen3": lambda: Qwen3RMSNorm(24),
}
FAMILIES = ["tiny-llama", "tiny-mistral", "tiny-qwen2", "tiny-qwen3", "tiny-gpt2"]


def twins(module: nn.Module) -> tuple[nn.Module, nn.Module, WeightQueue]:
    """`module` with random weights, and its split copy."""
    for param in module.parameters():
        nn.init.normal_(param)
    ours, queue = copy.deepcopy(module), WeightQueue()
    assert split_modules(ours, queue) == []
    return module, ours, queue


def back(queue: WeightQueue, mode: str, y: Tensor, gy: Tensor | None, x: Tensor | None) -> Tensor | None:
    """The whole backward of a micro-batch, as B or as I then W."""
    queue.pending = [] if mode == "IW" else None
    gx = backward(y, gy, x)
    if queue.pending is not None:
        run_pending(queue.pending)
        assert queue.pending == []
    return gx


def assert_same_grads(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name


@pytest.mark.parametrize("mode", ["B", "IW"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", MODULES)
def test_same_bits_as_the_module(kind: str, dtype: torch.dtype, mode: str) -> None:
    torch.manual_seed(0)
    theirs, ours, queue = twins(MODULES[kind]().to(dtype))
    for shape in [(3, 7, 24), (5, 24), (2, 5, 3, 24)]:
        x = torch.randn(shape).to(dtype).requires_grad_()
        mine = x.detach().clone().requires_grad_()
        y, z = theirs(x), ours(mine)
        assert torch.equal(y, z)
        gy = torch.randn_like(y)
        theirs.zero_grad()
        ours.zero_grad()
        y.backward(gy)
        assert torch.equal(back(queue, mode, z, gy, mine), x.grad)
        assert_same_grads(theirs, ours)
        assert mine.grad is None


@pytest.mark.parametrize("mode", ["B", "IW"])
@pytest.mark.parametrize("padding", [None, 3])
def test_embedding(padding: int | None, mode: str) -> None:
    theirs, ours, queue = twins(nn.Embedding(11, 6, padding_idx=padding))
    ids = torch.tensor([[1, 3, 3, 10], [1, 1, 0, 10]])
    gy = torch.randn(2, 4, 6)
    theirs(ids).backward(gy)
    assert back(queue, mode, ours(ids), gy, None) is None
    assert_same_grads(theirs, ours)


@pytest.mark.parametrize("mode", ["B", "IW"])
@pytest.mark.parametrize("kind", MODULES)
def test_gradients_accumulate_in_place(kind: str, mode: str) -> None:
    torch.manual_seed(0)
    theirs, ours, queue = twins(MODULES[kind]().double())
    for step in range(3):
        x = torch.randn(3, 7, 24, dtype=torch.float64, requires_grad=True)
        before = [p.grad for p in ours.parameters()]
        y, z = theirs(x), ours(x)
        gy = torch.randn_like(y)
        back(queue, mode, z, gy, x)
        y.backward(gy)
        assert step == 0 or all(p.grad is g for p, g in zip(ours.parameters(), before, strict=True))
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-12)


def test_odd_gradients() -> None:
    """Gradients that are expanded (from a sum) or transposed need no copy by the caller."""
    theirs, ours, queue = twins(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5)).double())
    for reduce in (lambda y: y.sum(), lambda y: (y.transpose(0, 1).contiguous() ** 2).sum()):
        x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
        mine = x.detach().clone().requires_grad_()
        reduce(theirs(x)).backward()
        torch.testing.assert_close(back(queue, "IW", reduce(ours(mine)), None, mine), x.grad, rtol=1e-13, atol=1e-13)
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-13, atol=1e-13)


def test_i_keeps_references_not_copies() -> None:
    _, ours, queue = twins(nn.Linear(6, 5))
    x, gy = torch.randn(2, 3, 6, requires_grad=True), torch.randn(2, 3, 5)
    y = ours(x)
    queue.pending = pending = []
    backward(y, gy, x)
    assert ours.weight.grad is None
    assert ours.bias.grad is None
    kept = {t.data_ptr() for _, args in pending for t in args if type(t) is torch.Tensor}
    assert kept == {x.data_ptr(), gy.data_ptr()}


def test_i_frees_the_graph_and_parameters_are_not_in_it() -> None:
    _, ours, queue = twins(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)))
    x = torch.randn(2, 6, requires_grad=True)
    y = ours(x)
    names, todo = [], [y.grad_fn]
    while todo:
        node = todo.pop()
        names.append(node.name())
        todo += [edge for edge, _ in node.next_functions if edge is not None]
    assert names.count("torch::autograd::AccumulateGrad") == 1  # the input; none of the six parameters
    queue.pending = pending = []
    backward(y, torch.ones_like(y), x)
    assert len(pending) == 4  # weight and bias of a linear layer as one
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.backward(y, torch.ones_like(y))
    stage_input = weakref.ref(x)
    del x, y, node, todo
    assert stage_input() is None  # nothing pending refers to the graph


FREEZE = [
    {"0.weight"},
    {"1.weight", "1.bias"},
    {"2.weight"},
    {"2.bias"},
    {"0.weight", "1.weight", "1.bias", "2.weight"},
]


@pytest.mark.parametrize("mode", ["B", "IW"])
@pytest.mark.parametrize("frozen", FREEZE, ids=lambda names: "+".join(sorted(names)))
def test_frozen_parameters(frozen: set[str], mode: str) -> None:
    """Includes a frozen embedding in front of trainable weights, whose input then requires no gradient."""
    theirs = nn.Sequential(nn.Embedding(7, 6), nn.LayerNorm(6), nn.Linear(6, 5)).double()
    for name, param in theirs.named_parameters():
        param.requires_grad_(name not in frozen)
    theirs, ours, queue = twins(theirs)
    ids, gy = torch.randint(0, 7, (2, 3)), torch.randn(2, 3, 5, dtype=torch.float64)
    theirs(ids).backward(gy)
    queue.pending = pending = []
    backward(ours(ids), gy, None)
    held = {id(each) for _, args in pending for each in args}
    assert not {id(p) for p in ours.parameters() if not p.requires_grad} & held
    back(queue, mode, ours(ids), gy, None)
    assert_same_grads(theirs, ours)


def test_everything_frozen() -> None:
    _, ours, _ = twins(nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5)).requires_grad_(False))
    y = ours(torch.randint(0, 7, (2, 3)))
    assert not y.requires_grad
    assert backward(y, torch.ones_like(y), None) is None


@pytest.mark.parametrize("mode", ["B", "IW"])
def test_a_parameter_shared_by_two_modules_gets_both_gradients(mode: str) -> None:
    theirs = nn.Sequential(nn.Embedding(7, 6), nn.LayerNorm(6), nn.Linear(6, 7, bias=False)).double()
    theirs[2].weight = theirs[0].weight
    theirs, ours, queue = twins(theirs)
    assert ours[2].weight is ours[0].weight
    ids, gy = torch.randint(0, 7, (2, 3)), torch.randn(2, 3, 7, dtype=torch.float64)
    theirs(ids).backward(gy)
    back(queue, mode, ours(ids), gy, None)
    assert_same_grads(theirs, ours)


class OwnLinear(nn.Linear):
    """A subclass: its forward may do anything."""


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6))
        self.inner = OwnLinear(6, 6)
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.inner(x) * self.scale)


def test_foreign_modules_get_their_gradients_with_i() -> None:
    bare = nn.LayerNorm(6, elementwise_affine=False)
    theirs = nn.Sequential(nn.Embedding(7, 6, max_norm=3.0), Scaled(), bare, nn.LayerNorm(6)).double()
    ours, queue = copy.deepcopy(theirs), WeightQueue()
    foreign = split_modules(ours, queue)
    assert foreign == ["0.weight", "1.scale", "1.inner.weight", "1.inner.bias"]
    assert split_modules(ours, queue) == foreign
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for _ in range(2):
        ids, gy = torch.randint(0, 7, (2, 3)), torch.randn(2, 3, 6, dtype=torch.float64)
        theirs(ids).backward(gy)
        before = {name: p.grad is not None for name, p in ours.named_parameters()}
        queue.pending = []
        backward(ours(ids), gy, None)
        if not any(before.values()):
            assert [name for name, p in ours.named_parameters() if p.grad is not None] == foreign
        run_pending(queue.pending)
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-12)


class Alive(TorchDispatchMode):
    """Counts the bytes of the storages made while it is on that are still alive, each once."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {t.untyped_storage()._cdata for t in known}
        self.storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.known:
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = weakref.ref(storage)
        return out

    def bytes(self) -> int:
        gc.collect()
        return sum(s.nbytes() for ref in self.storages.values() if (s := ref()) is not None)


@pytest.mark.parametrize(
    "name", ["tiny-qwen3", "tiny-gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[:3])]
)
def test_i_keeps_no_more_memory_than_forward_saved(name: str) -> None:
    """Between I and W PyTorch's split keeps 1.69 of what forward saved; ours must keep no more than 1.05."""
    stage = DecoderStage(load_config(name), range(2, 4), first=False, last=False)
    shape = (2, 512, 192)
    calls = stage._calls(torch.randn(shape), False)  # masks and rotary tables, shared by all micro-batches
    for param in stage.parameters():
        param.grad = torch.zeros_like(param)
    known = [leaf for leaf in tree_leaves(calls) if isinstance(leaf, Tensor)]
    with Alive(*known, *stage.parameters(), *(p.grad for p in stage.parameters())) as alive:
        x, gy = torch.randn(shape).requires_grad_(), torch.randn(shape)
        y = stage(x)
        after_f = alive.bytes() - y.nbytes - gy.nbytes
        stage.queue.pending = pending = []
        gx = backward(y, gy, x)
        del x, y, gy, gx
        after_i = alive.bytes()
        run_pending(pending)
        after_w = alive.bytes()
    print(f"{name}: {after_f / 2**20:.2f} MiB after F, {after_i / 2**20:.2f} after I ({after_i / after_f:.3f})")
    assert 0 < after_i <= 1.05 * after_f
    assert after_w == 0


def test_work_is_done_in_the_order_of_b() -> None:
    done: list[int] = []
    pending: list[Work] = [(done.append, (i,)) for i in range(3)]
    run_pending(pending)
    assert done == [0, 1, 2]
    assert pending == []
