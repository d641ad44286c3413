"""Messages between ranks on torch.distributed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.core.needs import partners
from penstock.core.op import SENDS
from penstock.core.plan import Plan


class Links:
    """Point-to-point messages of one rank.

    On gloo, tags keep messages apart. On NCCL, which has no tags and runs the messages of a communicator one after the
    other, each link from rank to rank gets a communicator of its own; messages of a link are sent and received in one
    order, which ``engine.check`` made sure of. Batches, each of which NCCL runs as one, share a communicator. Every
    rank must build its ``Links`` of the same plan at the same time.
    """

    def __init__(self, plan: Plan, rank: int) -> None:
        self._rank = rank
        world = dist.distributed_c10d._get_default_group()
        self._groups = dict.fromkeys(_links(plan), world)
        if dist.get_backend() == "nccl" and plan.sends != "batched":
            self._groups = {link: dist.new_group(sorted(link)) for link in self._groups}
        self._peer = {
            (a, b): dist.get_group_rank(group, b if a == rank else a)
            for (a, b), group in self._groups.items()
            if rank in (a, b)
        }

    def starter(self, out: bool, other: int, device: torch.device) -> tuple[Callable[..., dist.Work], int]:
        """What starts a message to or from another rank, and that rank's number: ``start([tensor], number, tag)``. The
        tensor must live until the work is done."""
        link = (self._rank, other) if out else (other, self._rank)
        backend: Any = self._groups[link]._get_backend(device)  # the group itself goes through the dispatcher: 5 us
        return backend.send if out else backend.recv, self._peer[link]

    def batch(self, tensors: Sequence[Tensor], ways: Sequence[tuple[bool, int, int]]) -> list[dist.Work]:
        """Start messages that pass as one; each way says whether it is sent, the other rank, and the tag. One piece of
        work for all of them or one for each."""
        ops = [
            dist.P2POp(dist.isend if out else dist.irecv, tensor, peer, tag=tag)
            for tensor, (out, peer, tag) in zip(tensors, ways, strict=True)
        ]
        works: list[dist.Work] = dist.batch_isend_irecv(ops)
        return works


def _links(plan: Plan) -> list[tuple[int, int]]:
    partner, rank = partners(plan), plan.rank_of_op
    sends = [row for row in range(len(plan)) if plan.ops[row, 0] in SENDS]
    return sorted({(int(rank[row]), int(rank[partner[row]])) for row in sends})


def backend(device: torch.device) -> str:
    """NCCL between GPUs, else gloo."""
    return "nccl" if device.type == "cuda" else "gloo"
