"""One stage alone: what it gives, what it keeps and for how long."""

import copy
from pipes import ROWS, WIDTH, Block

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from penstock.runtime.stage import Stage


def stage_of(
    module: nn.Module | None = None, first: bool = False, last: bool = False, scale: float = 1.0
) -> tuple[Stage, nn.Module]:
    """A stage, and an untouched copy of its module."""
    module = module or Block(1, first, last).double()
    reference = copy.deepcopy(module)
    return Stage(module, first, last, (ROWS, WIDTH), scale), reference


def data(seed: int = 0) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a: nn.Module, b: nn.Module, factor: float = 1.0) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.allclose(p.grad, factor * q.grad, rtol=1e-13, atol=1e-15) for p, q in pairs)


@pytest.mark.parametrize("split", [False, True])
def test_a_middle_stage_gives_output_and_gradients(split: bool) -> None:
    stage, reference = stage_of()
    x, grad = data(), data(1)
    there = x.clone().requires_grad_()
    expected = reference(there)
    expected.backward(grad)
    y = stage.forward(0, x.clone())
    assert torch.equal(y, expected)
    assert not y.requires_grad
    back = (stage.backward_input if split else stage.backward)(0, grad)
    assert back is not None
    assert torch.allclose(back, there.grad, rtol=1e-13)
    if split:
        assert any(p.grad is None for p in stage.module.parameters())
        stage.backward_weight(0)
    assert same(stage.module, reference)


@pytest.mark.parametrize("split", [False, True])
def test_a_last_stage_scales_its_loss_for_the_gradient_only(split: bool) -> None:
    stage, reference = stage_of(last=True, scale=0.25)
    expected = reference(data(), data(1))
    expected.backward()
    stage.forward(0, data(), data(1))
    (stage.backward_input if split else stage.backward)(0, None)
    if split:
        stage.backward_weight(0)
    assert [loss.item() for loss in stage.losses] == [expected.item()]
    assert not stage.losses[0].requires_grad
    assert same(stage.module, reference, 0.25)


def test_a_first_stage_gives_no_gradient_of_its_input() -> None:
    stage, _ = stage_of(first=True)
    stage.forward(0, data())
    assert stage.backward(0, data(1)) is None


def test_micro_batches_may_come_back_in_any_order() -> None:
    stage, reference = stage_of()
    grads = [data(10 + i) for i in range(4)]
    for i, grad in enumerate(grads):
        reference(data(i)).backward(grad)
        stage.forward(i, data(i))
    stage.backward_input(2, grads[2])
    stage.backward(0, grads[0])
    stage.backward_input(3, grads[3])
    stage.backward_weight(3)
    stage.backward_input(1, grads[1])
    stage.backward_weight(1)
    stage.backward_weight(2)
    assert same(stage.module, reference)
    assert not stage._kept
    assert not stage._pending


def test_the_output_lives_no_longer_than_its_user() -> None:
    stage, _ = stage_of()
    y = stage.forward(0, data())
    storage = StorageWeakRef(y.untyped_storage())
    del y
    assert storage.expired()
    stage.backward(0, data(1))


def test_the_input_is_freed_by_the_backward() -> None:
    for split in (False, True):
        stage, _ = stage_of()
        x = data()
        storage = StorageWeakRef(x.untyped_storage())
        stage.forward(0, x)
        del x
        assert not storage.expired()
        (stage.backward_input if split else stage.backward)(0, data(1))
        assert storage.expired() is not split  # the weights of a linear layer at the head still need it
        if split:
            stage.backward_weight(0)
        assert storage.expired()


def test_evaluation_keeps_nothing() -> None:
    stage, reference = stage_of()
    with torch.no_grad():
        y = stage.evaluate(0, data())
        assert torch.equal(y, reference(data()))
    assert not stage._kept
    assert not stage.losses
    stage, reference = stage_of(last=True)
    with torch.no_grad():
        stage.evaluate(0, data(), data(1))
    assert not stage._kept
    assert stage.losses == [reference(data(), data(1))]


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_another_shape_is_refused(rows: int) -> None:
    stage, _ = stage_of()
    x = torch.zeros(rows, WIDTH, dtype=torch.float64)
    message = rf"the stage gave \({rows}, 12\), but the pipeline carries \(3, 12\); all micro-batches and boundaries"
    with pytest.raises(ValueError, match=message):
        stage.forward(0, x)
    with pytest.raises(ValueError, match=message):
        stage.evaluate(0, x)


def test_a_failed_backward_leaves_the_next_one_whole() -> None:
    """After I has raised, B adds weight gradients at once again."""
    stage, _ = stage_of()
    stage.forward(0, data())
    with pytest.raises(RuntimeError):
        stage.backward_input(0, torch.zeros(1, 1, dtype=torch.float64))
    assert stage.queue.pending is None


def test_a_frozen_module_passes_gradients_on() -> None:
    module = Block(1, False, False).double().requires_grad_(False)
    stage, reference = stage_of(module)
    there = data().requires_grad_()
    reference(there).backward(data(1))
    stage.forward(0, data())
    back = stage.backward_input(0, data(1))
    stage.backward_weight(0)
    assert back is not None
    assert torch.allclose(back, there.grad, rtol=1e-13)
    assert all(p.grad is None for p in module.parameters())


def test_a_frozen_first_stage_has_no_backward() -> None:
    stage, _ = stage_of(Block(1, True, False).double().requires_grad_(False), first=True)
    y = stage.forward(0, data())
    assert stage.backward(0, torch.ones_like(y)) is None


class Through(nn.Module):
    """Gives what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("split", [False, True])
def test_a_stage_without_layers_hands_on_what_it_gets(split: bool) -> None:
    stage, _ = stage_of(Through())
    x, grad = data(), data(1)
    assert torch.equal(stage.forward(0, x), data())
    back = (stage.backward_input if split else stage.backward)(0, grad)
    if split:
        stage.backward_weight(0)
    assert back is not None
    assert torch.equal(back, data(1))
    assert not stage._kept
    assert not stage._pending


def test_weights_that_cannot_be_split_are_named() -> None:
    stage = Stage(Block(1, False, False, foreign=True), False, False, (ROWS, WIDTH), 1.0)
    assert stage.unsplit == [f"{part}.{name}" for part in ("up", "norm", "down") for name in ("weight", "bias")]
    assert stage_of()[0].unsplit == []


def test_pending_bytes_count_each_storage_once() -> None:
    stage, _ = stage_of(nn.Sequential(nn.Linear(WIDTH, WIDTH)).double())
    assert stage.pending_bytes(0) == 0
    stage.forward(0, data())
    stage.backward_input(0, data(1))
    assert stage.pending_bytes(0) == 2 * ROWS * WIDTH * 8
    stage.backward_weight(0)
    assert stage.pending_bytes(0) == 0
