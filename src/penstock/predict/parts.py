"""What parts of the model take on ranks, device and host together: of many ranks at once, since one by one most of the
time goes into the calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Block
from penstock.core.parts import Experts
from penstock.cost.kernels import memory_bound
from penstock.cost.passes import MEMORY, Work
from penstock.predict.contexts import Ring
from penstock.predict.host import with_copies
from penstock.predict.launching import Three, host_s
from penstock.predict.part import Part, both_s
from penstock.predict.works import Asked, time_blocks

if TYPE_CHECKING:
    from penstock.predict.micro import Rank

Parts = dict[Block | str, Part]
Floats = NDArray[np.float64]
AT_ONCE = 1024
"""Ranks at a time: what is known of their blocks is kept until their parts are made of it."""


def make_parts(made: Iterable[Rank]) -> None:
    """Find the parts of ranks of which nobody asked for them yet; the ranks keep them."""
    new = [rank for rank in made if "parts" not in rank.__dict__]
    for begin in range(0, len(new), AT_ONCE):
        some = new[begin : begin + AT_ONCE]
        for rank, parts in zip(some, parts_of(some), strict=True):
            rank.__dict__["parts"] = parts


def parts_of(ranks: Sequence[Rank]) -> list[Parts]:
    """Return what each kind of block, and each end of the model by name, takes on ranks of one model, cluster and
    framework; what has no experts is as on the plain rank, if there is one."""
    kinds = ranks[0].model.kinds()
    routed = {block: isinstance(block.mlp, Experts) for block in kinds}
    own = {block: [rank for rank in ranks if routed[block] or rank.plain is None] for block in kinds}
    if not all(routed.values()):
        make_parts({id(rank.plain): rank.plain for rank in ranks if rank.plain is not None}.values())
    time_blocks(_asked(rank, block) for block in kinds for rank in own[block])
    found: list[Parts] = [{} for _ in ranks]
    for block in kinds:
        made = iter(_blocks(own[block], block))
        for rank, parts in zip(ranks, found, strict=True):
            plain = rank.plain
            parts[block] = next(made) if routed[block] or plain is None else plain.parts[block]
    return [parts | rank.end_parts for rank, parts in zip(ranks, found, strict=True)]


def _asked(rank: Rank, block: Block) -> Asked:
    """What times of a block depend on."""
    return block, rank.batch_of(block), rank.device, rank.bits_in(block), rank.wide, rank.crowd(block)


def _blocks(ranks: Sequence[Rank], block: Block) -> Iterator[Part]:
    """What a block takes on each rank."""
    if ranks:
        made = together(ranks, [rank.work(block) for rank in ranks], ranks[0].bits_in(block), block)
        for rank, part in zip(ranks, made, strict=True):
            yield with_copies(rank, block, part) if rank.setup.offload else part


def together(ranks: Sequence[Rank], done: Sequence[Work], low: str, block: Block | None = None) -> list[Part]:
    """Return what device and host take together on each rank for its work, in each phase: the longer of both, and some
    of the shorter, since now the one waits and then the other. Messages are the device's.

    Args:
        ranks: of one model, device and framework.
        done: of each, its work.
        low: the precision of products.
        block: whose work it is; left out, that of an end.
    """
    pairs = [*zip(ranks, done, strict=True)]
    beside = [(host_s(rank, one, block), rank.turns(block), rank.rings(block)) for rank, one in pairs]
    waits = [(host, sum(turn_s.values()), rings) for host, turn_s, rings in beside]
    hot = [hot_of(one, each) for one, each in zip(done, waits, strict=True)]
    lasting = ranks[0].lasting(low, np.array(hot))
    shares = lasting.T[:, :, None]
    device = (np.array([one.seconds for one in done]) / shares).sum(axis=1)
    device[:, 2] += added_s(ranks, done) / lasting[MEMORY]
    again = (np.array([one.again for one in done]) / lasting.T).sum(axis=1)
    errors = (np.array([one.error_s for one in done]) / shares).reshape(len(done), -1).sum(axis=1)
    each = zip(ranks, done, beside, device.tolist(), again.tolist(), errors.tolist(), strict=True)
    return [_part(rank, one, there, s, again_s, error_s, block) for rank, one, there, s, again_s, error_s in each]


def _part(
    rank: Rank,
    done: Work,
    beside: tuple[Three, dict[str, float], tuple[Ring, Ring]],
    device: Sequence[float],
    again_s: float,
    error_s: float,
    block: Block | None,
) -> Part:
    """One of them, with what there is ``beside`` the device's own work."""
    (host_f, host_b, host_again), turn_s, rings = beside
    turns_s, back_s = sum(turn_s.values()), device[1] + device[2]
    ring_f, ring_b = rings[0].left_s(device[0]), rings[1].left_s(back_s)
    twice = rank.setup.recompute == "full" and block is not None
    there_s, back_too_s = turns_s + ring_f, turns_s + ring_b
    how = rank.stack.blocking, there_s + back_too_s > 0
    f_s = both_s(rank.device, device[0] + there_s, host_f, *how)
    b_s = both_s(rank.device, back_s + back_too_s, host_b, *how)
    waits_s = (f_s - device[0] - there_s, b_s - back_s - back_too_s)
    again_s = both_s(rank.device, again_s, host_again, *how) if done.launches[3] else 0.0
    shown = {axis: (2 + twice) * seconds for axis, seconds in turn_s.items()}
    shown["context"] = ring_f * (1 + twice) + ring_b
    w_s = device[2] * (1 + waits_s[1] / back_s if back_s else 1.0)
    return Part(
        f_s,
        b_s - w_s + twice * there_s,
        w_s,
        again_s,
        waits_s=waits_s,
        error_s=error_s,
        messages_s={axis: seconds for axis, seconds in shown.items() if seconds},
        guessed=done.guessed,
    )


def hot_of(done: Work, waits: tuple[Three, float, tuple[Ring, Ring]]) -> float:
    """Return the share of a part's time in which products and attention run (``Work.hot_share``): while a device waits
    for its host, which takes so many seconds, for messages of each direction, or for rings, it draws little power."""
    host, turns_s, rings = waits
    forward_s, backward_s, alone_s = done.alone_s
    busy_s = alone_s + 2 * turns_s + (rings[0].left_s(forward_s) + rings[1].left_s(backward_s))
    return done.hot_share(max(busy_s, host[0] + host[1]))


def added_s(ranks: Sequence[Rank], done: Sequence[Work]) -> Floats:
    """Return the seconds of adding gradients to those of the micro-batches before, the mean over micro-batches, where
    that is a kernel of its own for each matrix; of each rank."""
    each_bytes = ranks[0].stack.added_bytes(ranks[0].setup.precision)
    pairs = zip(ranks, done, strict=True)
    moved = np.array([one.weights * each_bytes * (1 - 1 / rank.setup.micros) for rank, one in pairs])
    if not moved.any():
        return moved
    kernels = [max(1.0, one.launches[2]) for one in done]
    return np.where(moved > 0, memory_bound(ranks[0].device, moved, kernels=kernels).seconds, 0.0)
