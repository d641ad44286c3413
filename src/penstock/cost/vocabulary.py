"""Times of the output head and the input embedding, on their stages or split over all ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE, Placement


def with_whole(costs: Costs, placement: Placement, head_s: float, embed_s: float = 0.0) -> Costs:
    """Costs of the layers alone, plus those of a whole head on the last stage of each chain and an embedding on the
    first.

    Args:
        costs: of a placement, without head and embedding.
        placement: the same.
        head_s: forward of the head with the loss; the gradients of its input and of its weights take as long each.
        embed_s: forward of the embedding, and its backward, which belongs to ``W``.

    Example:
        >>> place = Placement.loop(2)
        >>> costs = with_whole(Costs.uniform(place), place, head_s=2.0)
        >>> costs.seconds[[Kind.F, Kind.B]].tolist()
        [[1.0, 3.0], [2.0, 6.0]]
    """
    first, last = (np.array(ends) == NO_STAGE for ends in (placement.prev, placement.next))
    seconds = costs.seconds.copy()
    for kind, heads in ((Kind.F, 1), (Kind.R, 1), (Kind.I, 1), (Kind.W, 1), (Kind.B, 2)):
        seconds[kind, last] += heads * head_s
    for kind in (Kind.F, Kind.R, Kind.W, Kind.B):
        seconds[kind, first] += embed_s
    return replace(costs, seconds=seconds)


def with_parts(
    costs: Costs, placement: Placement, algorithm: int, head_s: float, embed_s: float = 0.0, launch_s: float = 0.0
) -> Costs:
    """Costs of the layers alone, plus those of the vocabulary passes and their collectives.

    Each of p ranks has 1/p of the work: ``S`` the logits (algorithm 2: and the gradient of the head's input), ``T`` the
    other gradients, ``IF`` and ``IB`` the embedding's. A collective that carries a boundary tensor takes as long as the
    slowest message between two ranks (a broadcast or a sum that is pipelined through all ranks), one that carries
    statistics of tokens alone nothing; ``launch_s`` comes on top of each.

    Args:
        costs, placement, head_s, embed_s: as for ``with_whole``.
        algorithm: 1 or 2, see ``lower.split_vocabulary``.
        launch_s: latency of a collective.

    Example:
        >>> place = Placement.loop(2)
        >>> costs = with_parts(Costs.uniform(place), place, algorithm=1, head_s=2.0)
        >>> costs.seconds[[Kind.S, Kind.T]].tolist()
        [[1.0, 1.0], [2.0, 2.0]]
    """
    ranks = placement.ranks
    moves_s = float(costs.hop_s.max(initial=0.0))
    parts = 1 if algorithm == 1 else 2
    passes = {Kind.S: parts * head_s, Kind.T: (3 - parts) * head_s, Kind.IF: embed_s, Kind.IB: embed_s}
    carries = {Kind.BCAST_H: True, Kind.REDUCE_S: algorithm == 2, Kind.REDUCE_T: True}
    carries |= {Kind.REDUCE_E: True, Kind.BCAST_E: True}
    seconds = costs.seconds.copy()
    for kind, takes_s in passes.items():
        seconds[kind] = takes_s / ranks
    for kind, whole in carries.items():
        seconds[kind] = launch_s + (moves_s if whole else 0.0)
    return replace(costs, seconds=seconds)
