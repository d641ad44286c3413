"""Messages of a block of experts: tokens on their way to the ranks that have their experts, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.architecture import Block
from penstock.core.parts import Experts
from penstock.cost.dispatch import copies, dispatch_s
from penstock.cost.switches import shown

if TYPE_CHECKING:
    from penstock.predict.micro import Rank


def token_bytes(rank: Rank, block: Block) -> float:
    """Return the bytes of a rank's tokens, once each, if their experts lie on several ranks; of the fullest rank."""
    setup, mlp = rank.setup, block.mlp
    if setup.ep == 1 or not isinstance(mlp, Experts):
        return 0.0
    return rank.batch.own * mlp.expert.hidden * rank.width_bytes * setup.imbalance


def routed_bytes(rank: Rank, block: Block) -> float:
    """Return the bytes that a rank sends of them, and gets back."""
    mlp = block.mlp
    if not isinstance(mlp, Experts):
        return 0.0
    return token_bytes(rank, block) * copies(rank.stack.dispatcher, rank.setup.ep, mlp.experts, mlp.topk)


def expert_s(rank: Rank, block: Block) -> float:
    """Return the seconds of a direction's turns of tokens to their experts and back, that nothing hides."""
    mlp, size = block.mlp, token_bytes(rank, block)
    if not size or not isinstance(mlp, Experts):
        return 0.0
    share = shown(rank.stack, "ep", rank.setup.ep_overlap)
    return share * 2 * dispatch_s(rank.stack.dispatcher, size, mlp.experts, mlp.topk, rank.experts)
