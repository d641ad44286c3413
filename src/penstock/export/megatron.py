"""A setup as Megatron-LM's launch arguments, in a shell script."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.calibrate.megatron import AGAIN, SHARDING, layout_of
from penstock.calibrate.printed import OFFLOADED
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.mesh import ORDER, STAGES_NEAR, pipes_agree
from penstock.core.parts import Experts
from penstock.core.placement import Placement
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.export.launch import torchrun
from penstock.export.megatron_model import Words, model_left, model_words
from penstock.export.precision import moments_of, precision_left, precision_problems, precision_words
from penstock.export.switches import GATHERED, switch_problems, switch_words, switches_left
from penstock.export.written import MEMORY, Left, Written, comments, named, refuse, unsaid
from penstock.schedules.table import SCHEDULES

NEVER = {
    "imbalance": "a fact of data and router, not an argument",
    "vocabulary": "embedding and head stay on the first and the last stage",
    "weight_offload": "weights stay on the device",
    "disk": MEMORY,
}
"""Fields of a setup that its arguments have no words for."""
NORMS = ("layernorm",)
"""Modules that stand for our selective recompute, beside the activation of experts."""


def megatron(model: Architecture, cluster: Cluster, setup: Setup, framework: Stack | None = None) -> Written:
    """Return a script that starts ``pretrain_gpt.py`` on the devices of the setup, on made-up data.

    Args:
        model, cluster, setup: what is trained, where and how.
        framework: for which the setup was predicted.

    Raises:
        ValueError: Megatron-LM cannot train this model, or not so.
    """
    adapters = {"adapters are trained by Megatron-Bridge, not by pretrain_gpt.py": setup.adapter > 0}
    refuse("megatron", adapters | problems(model, setup))
    left = [*setup_left(model, setup, framework), *model_left(model)]
    groups = (
        _parallel(model, setup),
        _training(cluster, setup),
        _recompute(model, setup),
        _offload(model, setup),
        _optimizer(setup),
        [*model_words(model), ("--max-position-embeddings", str(max(setup.seq, model.positions)))],
    )
    if setup.overlap == "gradients" and not setup.zero:
        left.append(Left("overlap", "without ZeRO no weights are gathered"))
    words = [f"    {' '.join(_quoted(word) for word in argument)}" for group in groups for argument in group]
    start = torchrun(cluster, setup)
    text = "\n".join([
        "#!/bin/bash",
        "# Megatron-LM's pretrain_gpt.py; add --train-iters, --lr, --data-path and the tokenizer of your data.",
        *comments(left, "Megatron-LM"),
        *start.lines,
        _connections(setup),
        "ARGUMENTS=(",
        *words,
        "    --mock-data",
        ")",
        f'{start.command} pretrain_gpt.py "${{ARGUMENTS[@]}}" "$@"',
        "",
    ])  # fmt: skip
    return Written({"": text}, tuple(left))


def problems(model: Architecture, setup: Setup) -> dict[str, bool]:
    """Return why Megatron-Core cannot train a setup, and whether each is so."""
    placed = SCHEDULES[setup.schedule].placement(setup.pp, setup.chunks) if setup.schedule in SCHEDULES else None
    fsdp, near = setup.zero > 1, setup.order == STAGES_NEAR
    return {
        "it has no Adafactor; use adam, sgd or muon": setup.optimizer == "adafactor",
        "ZeRO 2 and 3 (Megatron-FSDP) go with adam or sgd": fsdp and setup.optimizer == "muon",
        f"chunks={setup.chunks} need pp of 2 or more": setup.chunks > 1 and setup.pp == 1,
        f"schedule {setup.schedule} places stages in another way than in a loop": placed is not None
        and setup.pp > 1
        and placed != Placement.loop(setup.pp, setup.chunks),
        f"order={setup.order} (--use-tp-pp-dp-mapping) goes with ZeRO 0 and 1 alone": near and fsdp,
        f"order={setup.order} needs ep times etp to be tp times cp: the same pipelines for experts": near
        and has_experts(model)
        and not pipes_agree(setup),
        "it trains experts with tp above 1 only with sequence parallelism; add sp": not setup.sp
        and setup.tp > 1
        and has_experts(model),
        **switch_problems(setup, len(model.predictors) * setup.multi_token, "experts" in named(setup)),
    } | precision_problems(model.layers, setup)


def setup_left(model: Architecture, setup: Setup, framework: Stack | None = None) -> Iterator[Left]:
    """Give what of a setup Megatron-Core has no words for; ``framework``: whose selective recompute is meant."""
    yield from unsaid(setup, NEVER)
    own = "interleaved" if setup.chunks > 1 else "1f1b"
    if setup.schedule != own:
        yield Left("schedule", f"it runs {own} in place of {setup.schedule}")
    if not has_experts(model) and (setup.ep, setup.etp) != (1, 1):
        yield Left("ep", f"the model has no experts (ep={setup.ep})")
        yield Left("etp", f"the model has no experts (etp={setup.etp})")
    if setup.order not in (ORDER, STAGES_NEAR):
        yield Left("order", f"its scripts have {ORDER} and {STAGES_NEAR} alone, not {setup.order}")
    if setup.sp and setup.tp == 1:
        yield Left("sp", "it has no meaning with tp=1, and is turned off")
    yield from again_left(setup)
    yield from offload_left(model, setup)
    if full_layers(setup):
        pass
    elif setup.recompute == "selective":
        if framework is None or set(framework.selective) != _known([*NORMS, "moe_act"]):
            yield Left("recompute", "its selective recompute makes norms and activations of experts again")
    elif unknown := set(named(setup)) - {name for names in AGAIN.values() for name in names}:
        yield Left("recompute", f"no module makes {', '.join(sorted(unknown))} again")
    elif _known(again_modules(model, setup)) != set(named(setup)):
        yield Left("recompute", f"only whole modules run again: {', '.join(again_modules(model, setup))}")
    if setup.multi_token and not model.predictors:
        yield Left("multi_token", "the model has no multi-token heads")
    yield from precision_left(setup)
    yield from switches_left(setup)


def _connections(setup: Setup) -> str:
    """The line that orders kernels and messages as Megatron-LM asks before Blackwell: one queue, but not for FSDP; and
    many where two micro-batches run beside each other."""
    if setup.ep_overlap == "on" and setup.ep > 1:
        return "export CUDA_DEVICE_MAX_CONNECTIONS=32"
    one = setup.zero < 2 and (setup.tp > 1 or setup.cp > 1)
    return "export CUDA_DEVICE_MAX_CONNECTIONS=1" if one else "unset CUDA_DEVICE_MAX_CONNECTIONS"


def _known(modules: list[str]) -> set[str]:
    return {name for module in modules for name in AGAIN[module]}


def has_experts(model: Architecture) -> bool:
    """Return whether any block has experts."""
    return any(isinstance(block.mlp, Experts) for block in model.kinds())


def comm_type(setup: Setup) -> str:
    """Return how context-parallel ranks talk."""
    if setup.cp_overlap == "off":
        return GATHERED
    return "a2a" if setup.cp_heads else "a2a+p2p" if setup.cp_inner else "p2p"


def context_sizes(setup: Setup) -> list[int] | None:
    """Return how many ranks exchange heads, and how many groups of them make a ring, where there are both."""
    return [setup.cp_inner, setup.cp // setup.cp_inner] if setup.cp_inner else None


def again_modules(model: Architecture, setup: Setup) -> list[str]:
    """Return the modules that run again where not all does."""
    if setup.recompute == "selective":
        return [*NORMS, *(["moe_act"] if has_experts(model) else [])]
    return [module for module, names in AGAIN.items() if set(names) & set(named(setup))]


def full_layers(setup: Setup) -> int:
    """Return how many first layers of each stage run again in full; 0 where not some do."""
    return max(setup.again, default=0) * (setup.recompute_first == "full")


def again_left(setup: Setup) -> Iterator[Left]:
    """Give what of ``recompute_layers`` Megatron-Core has no words for."""
    some = setup.again
    if some and setup.recompute_first != "full":
        yield Left(
            "recompute_layers", f"{setup.recompute_first} is for all layers or none; the first are left as others"
        )
    elif some and setup.recompute != "none":
        yield Left("recompute_layers", "layers behind those made again in full keep all")
    if len(set(some)) > 1:
        yield Left("recompute_layers", f"one number for all stages; the largest, {max(some)}, is written")


def offload_modules(setup: Setup) -> list[str]:
    """Return the modules whose inputs are the storages that go to the host."""
    names = set(setup.offload) if isinstance(setup.offload, tuple) else set()
    return [module for module, storages in OFFLOADED.items() if set(storages) <= names]


def offload_layers(model: Architecture, setup: Setup) -> int:
    """Return how many layers go to the host whole, which all but one can without a pipeline and without recompute."""
    if isinstance(setup.offload, tuple) or setup.pp > 1 or setup.recompute != "none" or full_layers(setup):
        return 0
    return min(round(setup.offload * model.layers), model.layers - 1)


def offload_left(model: Architecture, setup: Setup) -> Iterator[Left]:
    """Give what of ``offload`` Megatron-Core has no words for."""
    if isinstance(setup.offload, tuple):
        if lost := set(setup.offload) - {name for one in offload_modules(setup) for name in OFFLOADED[one]}:
            yield Left("offload", f"no module has {', '.join(sorted(lost))} as its input")
    elif setup.offload and not (layers := offload_layers(model, setup)):
        why = "whole layers go to the host without pipeline and recompute alone; choose --offload-modules"
        yield Left("offload", f"{why} (offload={setup.offload})")
    elif setup.offload and layers / model.layers != setup.offload:
        yield Left("offload", f"whole layers: {layers} of {model.layers}")


def _offload(model: Architecture, setup: Setup) -> Words:
    if modules := offload_modules(setup):
        yield ("--fine-grained-activation-offloading",)
        yield "--offload-modules", *modules
    elif layers := offload_layers(model, setup):
        yield "--cpu-offloading-num-layers", str(layers)


def _parallel(model: Architecture, setup: Setup) -> Words:
    yield "--tensor-model-parallel-size", str(setup.tp)
    yield "--pipeline-model-parallel-size", str(setup.pp)
    yield "--context-parallel-size", str(setup.cp)
    if setup.cp > 1 or setup.cp_heads:
        yield "--cp-comm-type", comm_type(setup)
    if setup.cp_inner:
        yield "--hierarchical-context-parallel-sizes", *map(str, context_sizes(setup) or ())
    if has_experts(model):
        yield "--expert-model-parallel-size", str(setup.ep)
        yield "--expert-tensor-parallel-size", str(setup.etp)
    if setup.sp:
        yield ("--sequence-parallel",)
    yield from switch_words(setup)
    if setup.order == STAGES_NEAR:
        yield ("--use-tp-pp-dp-mapping",)
    sizes = tuple(map(len, setup.layers_of(model.layers)))
    mtp = len(model.predictors) * setup.multi_token
    if len(set(sizes)) > 1:
        yield "--pipeline-model-parallel-layout", layout_of(sizes, mtp)
    elif setup.chunks > 1:
        yield "--num-virtual-stages-per-pipeline-rank", str(setup.chunks)
    if mtp:
        yield "--mtp-num-layers", str(mtp)


def _training(cluster: Cluster, setup: Setup) -> Words:
    yield "--seq-length", str(setup.seq)
    yield "--micro-batch-size", str(setup.micro)
    yield "--global-batch-size", str(setup.batch)
    yield from precision_words(cluster, setup)
    yield "--transformer-impl", "transformer_engine"
    yield "--attention-backend", "fused" if setup.flash else "unfused"
    for name in ("attention", "hidden"):
        yield f"--{name}-dropout", "0.1" if setup.dropout else "0.0"
    if setup.fused_loss:
        yield ("--cross-entropy-loss-fusion",)
    if setup.graphs:
        yield "--cuda-graph-impl", "local"


def _recompute(model: Architecture, setup: Setup) -> Words:
    if (first := full_layers(setup)) or setup.recompute == "full":
        yield "--recompute-granularity", "full"
        yield "--recompute-method", "block" if first else "uniform"
        yield "--recompute-num-layers", str(first or 1)
    elif modules := again_modules(model, setup):
        yield "--recompute-granularity", "selective"
        yield "--recompute-modules", *modules


def _optimizer(setup: Setup) -> Words:
    moments = moments_of(setup)
    yield "--optimizer", "adam" if moments else setup.optimizer
    if setup.zero:
        yield ("--use-distributed-optimizer",)
    yield from _overlap(setup)
    if setup.zero > 1:
        yield ("--use-megatron-fsdp",)
        yield "--data-parallel-sharding-strategy", SHARDING[setup.zero]
        yield "--ckpt-format", "fsdp_dtensor"
    if setup.shards and setup.shards != setup.replicas:
        yield "--num-distributed-optimizer-instances", str(setup.replicas // setup.shards)
    if moments or setup.optimizer_offload:
        yield ("--use-precision-aware-optimizer",)
    if moments:
        yield "--exp-avg-dtype", moments
        yield "--exp-avg-sq-dtype", moments
    if setup.optimizer_offload:
        yield ("--optimizer-cpu-offload",)
        yield "--optimizer-offload-fraction", str(setup.optimizer_offload)


def _overlap(setup: Setup) -> Words:
    if setup.overlap != "none":
        yield ("--overlap-grad-reduce",)
    if setup.overlap == "own" and setup.zero:
        yield ("--overlap-param-gather",)


def _quoted(word: str) -> str:
    """The word, in quotes where a shell would read more into it."""
    return f"'{word}'" if set(word) & set("|()[]*,& ") else word
