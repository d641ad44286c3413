"""Messages between ranks on torch.distributed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.core.needs import partners
from penstock.core.op import SENDS
from penstock.core.plan import Plan


@dataclass(frozen=True)
class Boundary:
    """The tensor that crosses stage boundaries: the same for every micro-batch."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Links:
    """Point-to-point messages of one rank.

    On gloo, tags keep messages apart. On NCCL, which has no tags and runs the messages of a communicator one after the
    other, each link from rank to rank gets a communicator of its own; messages of a link are sent and received in one
    order, which ``engine.check`` made sure of. Every rank must build its ``Links`` of the same plan at the same time.
    """

    def __init__(self, plan: Plan, rank: int) -> None:
        self._rank = rank
        world = dist.distributed_c10d._get_default_group()
        self._groups = dict.fromkeys(_links(plan), world)
        if dist.get_backend() == "nccl":
            self._groups = {link: dist.new_group(sorted(link)) for link in self._groups}
        self._peer = {
            (a, b): dist.get_group_rank(group, b if a == rank else a)
            for (a, b), group in self._groups.items()
            if rank in (a, b)
        }

    def send(self, tensor: Tensor, to: int, tag: int) -> dist.Work:
        """Start sending; the tensor must live until the work is done."""
        link = (self._rank, to)
        return self._groups[link].send([tensor], self._peer[link], tag)

    def recv(self, buffer: Tensor, of: int, tag: int) -> dist.Work:
        """Start receiving into a buffer."""
        link = (of, self._rank)
        return self._groups[link].recv([buffer], self._peer[link], tag)


def _links(plan: Plan) -> list[tuple[int, int]]:
    partner, rank = partners(plan), plan.rank_of_op
    sends = [row for row in range(len(plan)) if plan.ops[row, 0] in SENDS]
    return sorted({(int(rank[row]), int(rank[partner[row]])) for row in sends})


def backend(device: torch.device) -> str:
    """NCCL between GPUs, else gloo."""
    return "nccl" if device.type == "cuda" else "gloo"
