"""Our own split of the backward pass: `I` (gradient of the input) now, `W` (gradient of the weights) later.

`B = I + W`; the zero-bubble paper (arXiv:2401.10241) writes B and W for what we write I and W. Every linear, embedding
and norm module of a stage runs through an autograd Function that hides its weights from the engine, so a parameter
costs no graph node. During backward the Function gives the gradient of its input and hands the rest to the stage's
`WeightQueue`: computed on the spot, added into `param.grad` in place (B), or kept for later (I).

What one micro-batch keeps between I and W, and nothing else:

| module | kept | bytes |
|---|---|---|
| Linear, Conv1D | the input (the very tensor that forward saved) and the gradient of the output | tokens * (in + out) |
| Embedding | ids and the gradient of the output | tokens * (8 + hidden) |
| LayerNorm, RMSNorm | the finished gradient of weight and bias, reduced during I | hidden |

Limits: first derivatives only; no autocast (build the stage in the dtype it computes in); weights must not change
between the F and the I of a micro-batch; hooks on parameters do not fire. Run I and W on the same CUDA stream.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import GradientEdge

Work = tuple[Callable[..., None], tuple[Any, ...]]


class WeightQueue:
    """Where the Functions of one stage put the weight gradients of the micro-batch whose backward is running.

    `pending` is None: compute and accumulate at once (B). `pending` is a list: append the work to it (I); `run_pending`
    does it later (W). Set it before `backward`; the engine's thread reads it on GPUs. `anchor` is an empty tensor that
    requires a gradient: it keeps a module with trainable weights in the graph where its input needs none.
    """

    __slots__ = ("anchor", "pending")

    def __init__(self) -> None:
        self.pending: list[Work] | None = None
        self.anchor = torch.empty(0, requires_grad=True)

    def add(self, work: Callable[..., None], *args: Any) -> None:
        """Do `work(*args)` now (B) or keep it (I)."""
        if self.pending is None:
            work(*args)
        else:
            self.pending.append((work, args))


def run_pending(pending: list[Work]) -> None:
    """W: add the weight gradients of one micro-batch into `.grad`, in the order of B; empties the list as it goes."""
    pending.reverse()
    while pending:
        work, args = pending.pop()
        work(*args)
        del work, args


def backward(
    output: Tensor | GradientEdge | None, grad_output: Tensor | None, stage_input: Tensor | None
) -> Tensor | None:
    """Run the backward of one micro-batch of a stage, for both B and I; return the gradient of `stage_input`.

    `output`: what the stage's forward returned, a scalar loss (`grad_output` None or a scalar factor) or the hidden
    state (micro, seq, hidden) or its gradient edge; None or a tensor without graph where nothing is trained.
    `stage_input`: the leaf given to forward, requires_grad True; None on the first stage, which returns None. Frees the
    graph. Parameters of foreign modules are plain leaves: their gradients come here.
    """
    if isinstance(output, GradientEdge) or (output is not None and output.requires_grad):
        if grad_output is None:
            assert isinstance(output, Tensor)
            grad_output = torch.ones_like(output)
        _ENGINE.run_backward((output,), (grad_output,), False, False, (), allow_unreachable=True, accumulate_grad=True)
    if stage_input is None:
        return None
    grad, stage_input.grad = stage_input.grad, None
    return grad


_ENGINE = torch.autograd.Variable._execution_engine
"""What torch.autograd.backward calls in the end; its checks of shapes take longer than a small op."""


def split_modules(module: nn.Module, queue: WeightQueue) -> list[str]:
    """Make every module under `module` that we know split its backward through `queue`; in place.

    Only the class of a module changes: parameters, their names, state_dict keys and hooks stay. Returns the names of
    the parameters owned by modules that cannot be split (any other class, subclasses included, and embeddings with
    max_norm, sparse or scale_grad_by_freq); `backward` gives them their whole gradient, in I as in B.
    """
    foreign = []
    for prefix, child in module.named_modules():
        target = _split_class(child)
        if target is not None:
            child.__class__ = target
            child.queue = queue
        else:
            names = (name for name, _ in child.named_parameters(recurse=False))
            foreign += [f"{prefix}.{name}" if prefix else name for name in names]
    return foreign


def _split_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that splits this very class of module; by name, so that transformers need not be imported."""
    kind = type(module)
    if kind in _SPLIT.values():
        return kind
    if kind is nn.Embedding and (module.max_norm is not None or module.sparse or module.scale_grad_by_freq):
        return None
    if kind is nn.LayerNorm and module.weight is None:
        return None  # nothing to split
    return _SPLIT.get(f"{kind.__module__}.{kind.__qualname__}")


def _anchor(x: Tensor, module: Any) -> Tensor | None:
    """What keeps `module` in the graph when its input does not; None where `x` does or nothing is trainable."""
    if x.requires_grad:
        return None
    for p in module._parameters.values():
        if p is not None and p.requires_grad:
            anchor: Tensor = module.queue.anchor
            return anchor
    return None


def _add(param: nn.Parameter, grad: Tensor) -> None:
    """`param.grad += grad`; `grad` must be fresh, it may become `param.grad` itself."""
    total = param.grad
    if total is None:
        param.grad = grad.to(param.dtype)
    else:
        total.add_(grad)


def _add_linear(weight: nn.Parameter, bias: nn.Parameter | None, grad: Tensor, x: Tensor, transposed: bool) -> None:
    """`weight.grad += grad^T x`, `x^T grad` if transposed, with no temporary, and `bias.grad += ` the sum of grad; grad
    (..., out), x (..., in), the leading dims are the tokens."""
    if grad.dim() != 2:
        grad, x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    a, b = (x, grad) if transposed else (grad, x)
    total = weight.grad
    if total is None:
        weight.grad = a.t().mm(b)
    else:
        total.addmm_(a.t(), b)
    if bias is not None:
        _add(bias, grad.sum(0))


def _add_embedding(param: nn.Parameter, grad: Tensor, ids: Tensor, padding: int) -> None:
    """`param.grad[ids] += grad`, without row `padding` (-1: none); through a dense table, deterministic on GPUs."""
    _add(param, torch.ops.aten.embedding_dense_backward(grad, ids, param.shape[0], padding, False))


class _Linear(Function):
    """y = x M^T + bias with M the weight as (out, in); dx = dy M; dM = dy^T x; dbias = sum of dy over the tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, module: Any) -> Tensor:
        ctx.module, own = module, module._parameters  # an attribute of a module costs half a microsecond
        weight = own["weight"]
        if weight.requires_grad:
            ctx.save_for_backward(x)
        return nn.functional.linear(x, weight.t() if module.transposed else weight, own["bias"])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        module, own = ctx.module, ctx.module._parameters
        weight, bias = own["weight"], own["bias"]
        grad_x = grad.matmul(weight.t() if module.transposed else weight) if ctx.needs_input_grad[0] else None
        kept = ctx.saved_tensors
        if bias is not None and not bias.requires_grad:
            bias = None
        if kept:
            x = kept[0].detach()  # else its grad_fn would keep the graph, and with it the input of the stage
            module.queue.add(_add_linear, weight, bias, grad, x, module.transposed)
        elif bias is not None:  # only the bias is trained: keep a vector, not the whole gradient of the output
            module.queue.add(_add, bias, grad.reshape(-1, grad.shape[-1]).sum(0))
        return grad_x, None, None


class _Embedding(Function):
    """y = weight[ids]; the gradient of the weight sums dy over equal ids."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, anchor: Tensor | None, module: Any) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(ids)
        return nn.functional.embedding(ids, module.weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        module, (ids,) = ctx.module, ctx.saved_tensors
        padding = -1 if module.padding_idx is None else module.padding_idx
        module.queue.add(_add_embedding, module.weight, grad, ids, padding)
        return None, None, None


class _LayerNorm(Function):
    """PyTorch's own fused kernels (arXiv:1607.06450); saves x and, per token, the mean and 1/std."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, module: Any) -> Tensor:
        ctx.module, own = module, module._parameters
        out, mean, rstd = torch.native_layer_norm(x, module.normalized_shape, own["weight"], own["bias"], module.eps)
        ctx.save_for_backward(x, mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        module, own = ctx.module, ctx.module._parameters
        weight, bias = own["weight"], own["bias"]
        x, mean, rstd = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], weight.requires_grad, bias is not None and bias.requires_grad]
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
            grad, x, module.normalized_shape, mean, rstd, weight, bias, wanted
        )
        if wanted[1]:
            module.queue.add(_add, weight, grad_weight)
        if wanted[2]:
            module.queue.add(_add, bias, grad_bias)
        return grad_x, None, None


class _RMSNorm(Function):
    """y = weight * x / sqrt(mean(x^2) + eps) (arXiv:1910.07467); saves x and 1/rms per token, no float32 copies.

    Rounded where Hugging Face rounds: statistics and normalised value in float32, cast to the dtype of x, then the
    weight. The backward makes the sums that autograd makes for Hugging Face's code, in its order: the same bits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, module: Any) -> Tensor:
        x32 = x.float()
        rstd = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        ctx.module = module
        ctx.save_for_backward(x, rstd)
        return module._parameters["weight"] * (x32 * rstd).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        module, weight = ctx.module, ctx.module._parameters["weight"]
        x, rstd = ctx.saved_tensors
        x32 = x.float()
        if weight.requires_grad:
            normed = (x32 * rstd).to(x.dtype)
            module.queue.add(_add, weight, (grad * normed).sum_to_size(weight.shape))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        grad32 = (grad * weight).to(x.dtype).float()
        mean = (grad32 * x32).sum(-1, keepdim=True).mul_(rstd.pow(3)).div_(x.shape[-1])
        grad_x = (grad32 * rstd).sub_(x32 * mean)  # autograd's factors -1/2 and 2 cancel without rounding
        return grad_x.to(x.dtype), None, None


_linear, _embedding, _layer_norm, _rms_norm = (
    super(Function, kind).apply  # type: ignore[misc]  # what Function.apply calls when it has looked for functorch, which takes 2 us
    for kind in (_Linear, _Embedding, _LayerNorm, _RMSNorm)
)

# The classes that `split_modules` gives to modules, together with an attribute `queue`.


class SplitLinear(nn.Linear):
    """nn.Linear; x (..., in) -> (..., out)."""

    transposed = False

    def forward(self, input: Tensor) -> Tensor:
        """y = x W^T + bias."""
        return _linear(input, _anchor(input, self), self)


class SplitConv1D(nn.Module):
    """transformers' Conv1D (GPT-2): a linear layer whose weight is (in, out)."""

    transposed = True

    def forward(self, x: Tensor) -> Tensor:
        """y = x W + bias; x (..., in) -> (..., out)."""
        return _linear(x, _anchor(x, self), self)


class SplitEmbedding(nn.Embedding):
    """nn.Embedding with a dense gradient; ids (...) int64 -> (..., hidden)."""

    def forward(self, input: Tensor) -> Tensor:
        """weight[ids]."""
        return _embedding(input, _anchor(input, self), self)


class SplitLayerNorm(nn.LayerNorm):
    """nn.LayerNorm with a weight; shapes stay."""

    def forward(self, input: Tensor) -> Tensor:
        """(x - mean) / std * weight + bias."""
        return _layer_norm(input, _anchor(input, self), self)


class SplitRMSNorm(nn.Module):
    """The RMSNorm of Llama, Mistral and Qwen in transformers; shapes stay."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """x / rms(x) * weight."""
        return _rms_norm(hidden_states, _anchor(hidden_states, self), self)


_SPLIT: dict[str, type[nn.Module]] = {
    "torch.nn.modules.linear.Linear": SplitLinear,
    "torch.nn.modules.sparse.Embedding": SplitEmbedding,
    "torch.nn.modules.normalization.LayerNorm": SplitLayerNorm,
    "transformers.pytorch_utils.Conv1D": SplitConv1D,
    "transformers.models.llama.modeling_llama.LlamaRMSNorm": SplitRMSNorm,
    "transformers.models.mistral.modeling_mistral.MistralRMSNorm": SplitRMSNorm,
    "transformers.models.qwen2.modeling_qwen2.Qwen2RMSNorm": SplitRMSNorm,
    "transformers.models.qwen3.modeling_qwen3.Qwen3RMSNorm": SplitRMSNorm,
}
