"""What a pipeline takes at least, whatever cut of its layers it has: ranks wait for those ahead of them."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.setup import even
from penstock.predict.held import LAID, Held, Less, holds_b, layouts, seconds_of
from penstock.predict.ranks import blocks_until
from penstock.schedules.build import placement_of

Floats = NDArray[np.float64]


def chain_s(held: Held, less: Less) -> Floats:
    """Return seconds that no step of some setups with pipelines takes less than, whose first and last stages may give
    away layers, or their part of the vocabulary: shape (rows,).

    A rank does nothing before a micro-batch has come to it through all layers before its own; and behind its last
    backward the gradient has as far to go back. The mean of that over ranks, beside the mean work of all, is one bound.
    The other is the way of one micro-batch through all layers and back, with the others' passes of the last stage.

    Args:
        held: the setups, with their stages as they are without.
        less: what stages may give away.
    """
    many, grid = held.ranks, held.ranks.grid
    model, micros, split = many.model, grid.micros, less.last >= many.model.layers
    f, i, w = (np.array(column) for column in zip(*(_passes(held, block) for block in model.kinds()), strict=True))
    back = i + w * holds_b(grid)
    firsts, which = grid.kinds(*LAID)
    each = [_layers(model, *size[:4], less) for size in layouts(grid.rows(firsts))]
    ahead, last, whole = (np.array(column)[which].T for column in zip(*each, strict=True))
    ends = [tuple(x * (not split) for x in _passes(held, end)) for end in ("embedding", "head")]
    (in_f, in_i, in_w), (out_f, out_i, out_w) = ends
    all_f, all_i, all_w = ((one * whole).sum(axis=0) for one in (f, i, w))
    all_f, all_i, all_w = all_f + in_f + out_f, all_i + in_i + out_i, all_w + in_w + out_w
    started_s = micros * (all_f + all_i + all_w) / grid.pp + (ahead * f).sum(axis=0)
    passed_s = micros * (all_f + all_i + all_w * holds_b(grid)) / grid.pp + (ahead * (f + back)).sum(axis=0)
    way_s = all_f + all_i + all_w * holds_b(grid)
    way_s += (micros - 1) * ((last * (f + back)).sum(axis=0) + out_f + out_i + out_w * holds_b(grid))
    return np.asarray(np.max([started_s, passed_s, way_s], axis=0) + many.stack.step_s)


def _passes(held: Held, name: object) -> tuple[Floats, ...]:
    """Seconds of the passes of a block or an end, shape (rows,) each."""
    return tuple(np.broadcast_to(x[:, 0], len(held.which)) for x in held.ranks.each(partial(seconds_of, name)))


@lru_cache(maxsize=4096)
def _layers(
    model: Architecture, schedule: str, ranks: int, chunks: int, sizes: tuple[int, ...], less: Less
) -> tuple[Floats, Floats, Floats]:
    """Layers of each kind before the first of a rank, the mean over ranks; on the last stage; and of all: the first two
    at least, if the first and the last stage give away so many."""
    sizes, placement = sizes or even(model.layers, ranks * chunks), placement_of(schedule, ranks, chunks)
    until, begins = blocks_until(model), np.cumsum([0, *sizes])
    first = [min(placement.on(rank)) for rank in range(ranks)]
    ahead = [max(0, int(begins[stage]) - min(less.first, sizes[0])) for stage in first]
    kept = model.layers - max(0, sizes[-1] - less.last)
    return until[ahead].mean(axis=0), until[-1] - until[kept], until[-1]
