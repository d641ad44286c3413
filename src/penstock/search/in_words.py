"""A question and a strategy in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.core.disks import DISKS
from penstock.core.mesh import ORDER
from penstock.core.recipes import recipe_of
from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES, axis_of
from penstock.search.space import Space
from penstock.search.wishes import layers_text

SHARDED = {
    0: "every replica holds all weights, gradients and the optimizer's state",
    1: "the optimizer's state is shared out {} (ZeRO-1)",
    2: "gradients and the optimizer's state are shared out {} (ZeRO-2)",
    3: "weights, gradients and the optimizer's state are shared out {} (ZeRO-3)",
}
"""By ZeRO's stage, what is shared out, and a place for among whom."""
WAITS = {
    "gradients": "Compute hides sums of gradients, but no gathers of weights.",
    "none": "Compute hides neither sums of gradients nor gathers of weights.",
}
"""By what compute hides of messages between replicas."""
AGAIN = {
    "none": "Nothing is made again in the backward.",
    "selective": "What is quick to make is made again in the backward, neither products nor attention (selective).",
    "full": "Blocks keep their inputs alone and are made again in the backward (full recompute).",
}


def question(space: Space, tokens: float | None, headroom: float) -> list[str]:
    """Return what was asked, in sentences."""
    model, cluster, base = space.model, space.cluster, space.base
    nodes = " and ".join(f"{count:,} {node.name}" for node, count in cluster.groups)
    some = "" if cluster.nodes == 1 else "s"
    found = [
        f"Which way of training {model.name} ({model.parameters / 1e9:.4g} B parameters, {model.layers} layers) with "
        f"{space.stack.name} is the fastest on {space.devices:,} {cluster.device.name} ({nodes} node{some})?",
        f"A step has {base.batch:,} sequences of {base.seq:,} tokens, {base.batch * base.seq:,.0f} tokens in all.",
    ]
    if tokens is not None:
        found.append(f"The training takes {tokens / 1e9:,.6g} billion tokens, {tokens / base.tokens:,.0f} steps.")
    for words, wished in (("Fixed", space.fixed), ("Left out", space.excluded)):
        if wished:
            found.append(f"{words}: {_wishes(wished)}.")
    found.append(f"{headroom:.0%} of each device's memory stays free.")
    return found


def _wishes(wished: Mapping[str, tuple[Any, ...]]) -> str:
    return ", ".join(f"{name}={'/'.join(map(word, values))}" for name, values in wished.items())


def word(value: Any) -> str:
    """Return the value of a field as ``--fix`` takes it.

    >>> word(("mlp", "attention.core")), word((7, 9, 9, 7)), word(()), word(True)
    ('mlp+attention.core', '7+2*9+7', 'even', '1')
    """
    if isinstance(value, tuple):
        names = [each for each in value if isinstance(each, str)]
        return "+".join(names) if names else layers_text(value)
    return str(int(value) if isinstance(value, bool) else value)


def strategy(setup: Setup) -> list[str]:
    """Return how a setup splits the work, in sentences.

    >>> print(*strategy(Setup(seq=4096, batch=64, tp=2, pp=2, dp=2, zero=1)), sep="\\n")
    A replica of the model takes 4 devices.
    2 devices share the columns and heads of each layer (tensor parallelism).
    The layers are cut over 2 pipeline ranks; micro-batches run as 1f1b.
    2 replicas take 32 sequences of a step each, as 32 micro-batches of 1 (data parallelism); the optimizer's state is \
shared out among the replicas (ZeRO-1).
    Nothing is made again in the backward.
    Products are in bf16, the optimizer is adam.
    """
    return [*_replica(setup), *_replicas(setup), *_rest(setup)]


def _replica(setup: Setup) -> Iterator[str]:
    size = setup.tp * setup.cp * setup.pp
    yield f"A replica of the model takes {size:,} device{'' if size == 1 else 's'}."
    if setup.tp > 1:
        rest = ", and the tokens of what stands between (sequence parallelism)" if setup.sp else ""
        yield f"{setup.tp} devices share the columns and heads of each layer (tensor parallelism){rest}."
    if setup.cp > 1:
        how = "tokens are exchanged for heads" if setup.cp_heads else "keys go round in a ring"
        if setup.cp_inner:
            how = f"tokens are exchanged for heads among {setup.cp_inner}, keys go round among groups of these"
        yield f"{setup.cp} share the tokens of each sequence (context parallelism; {how})."
    if setup.pp > 1:
        chunks = f", {setup.chunks} chunks of layers each" if setup.chunks > 1 else ""
        sizes = f" ({word(setup.stage_layers)} layers)" if setup.stage_layers else ""
        cut = f"{setup.pp} pipeline ranks{chunks}{sizes}"
        yield f"The layers are cut over {cut}; micro-batches run as {setup.schedule}."
    if setup.order != ORDER:
        yield f"Over devices lie {', '.join(setup.order.split('-'))}, from neighbours on (order={setup.order})."
    if setup.vocabulary:
        yield f"All pipeline ranks share embedding and head (vocabulary={setup.vocabulary})."


def _replicas(setup: Setup) -> Iterator[str]:
    each, micros = setup.batch // setup.dp, f"{setup.micros:,} micro-batch{'' if setup.micros == 1 else 'es'}"
    whose = "among the replicas" if setup.dp > 1 else f"among the {setup.cp} ranks that share tokens"
    held = SHARDED[setup.zero].format(f"within groups of {setup.shards} ranks" if setup.shards else whose)
    if setup.dp == 1:
        shared = f"; {held}" if setup.sharded > 1 else ""
        yield f"The one replica takes all {each:,} sequences of a step, as {micros} of {setup.micro}{shared}."
    else:
        yield (
            f"{setup.dp:,} replicas take {each:,} sequence{'' if each == 1 else 's'} of a step each, as {micros} of "
            f"{setup.micro} (data parallelism); {held}."
        )
    if setup.ep > 1:
        columns = f", and {setup.etp} the columns of each" if setup.etp > 1 else ""
        yield f"{setup.ep} devices share the experts (expert parallelism){columns}."


def _rest(setup: Setup) -> Iterator[str]:
    again = setup.recompute
    if setup.recompute_layers:
        many = f"The first {word(setup.recompute_layers)} layers of each stage"
        yield f"{many} are made again in the backward ({setup.recompute_first} recompute). All others:"
    yield AGAIN[again] if isinstance(again, str) and again in AGAIN else f"Made again in the backward: {word(again)}."
    if setup.offload:
        yield f"Of what forwards keep, in host memory meanwhile: {word(setup.offload)}."
    places = {name: "on disks" if setup.on_disk(name) else "in host memory" for name in DISKS["all"]}
    if setup.optimizer_offload:
        yield f"{setup.optimizer_offload:.0%} of the optimizer's state lives {places['optimizer_offload']}."
    if setup.weight_offload:
        where = places["weight_offload"]
        yield f"{setup.weight_offload:.0%} of the weights wait {where}, and are copied over for each pass."
    if setup.overlap in WAITS:
        yield WAITS[setup.overlap]
    yield from _switches(setup)
    yield from _numbers(setup)


def _switches(setup: Setup) -> Iterator[str]:
    """What switches are turned to."""
    for name, what in SWITCHES.items():
        if (way := getattr(setup, name)) != "own" and getattr(setup, axis_of(name)) > 1:
            yield f"Compute hides {what} ({name}=on)." if way == "on" else f"Nothing hides {what} ({name}=off)."


def _numbers(setup: Setup) -> Iterator[str]:
    recipe, wide = recipe_of(setup.precision), setup.wide_first + setup.wide_last
    scaled = f" ({recipe.scaled})" if recipe else ""
    yield f"Products are in {setup.precision}{scaled}, the optimizer is {setup.optimizer}."
    if wide:
        yield f"Those of the first {setup.wide_first} and the last {setup.wide_last} blocks are in 16 bits."
    if setup.low_weights:
        yield f"Weights of blocks are kept and gathered in {setup.precision}."
