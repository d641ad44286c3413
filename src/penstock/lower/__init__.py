"""Passes from plan to plan: each adds work that the machines need and the schedule leaves out."""

from penstock.lower.offload import offload
from penstock.lower.parts import in_parts
from penstock.lower.recompute import attention_shares, recompute, recompute_costs
from penstock.lower.reduce import reduce_gradients
from penstock.lower.sends import add_sends
from penstock.lower.shard import shard
from penstock.lower.split import merge_backward, split_backward, two_bp
from penstock.lower.step import add_step
from penstock.lower.vocabulary import algorithm_of, split_vocabulary

__all__ = [
    "add_sends",
    "add_step",
    "algorithm_of",
    "attention_shares",
    "in_parts",
    "merge_backward",
    "offload",
    "recompute",
    "recompute_costs",
    "reduce_gradients",
    "shard",
    "split_backward",
    "split_vocabulary",
    "two_bp",
]
