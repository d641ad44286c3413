"""Modular pipeline: breadth-first, each chunk's gradients summed once whole (Lamy-Poirier 2021, arXiv:2106.02679)."""

from penstock.schedules import breadth_first


def lane(r: int, p: int, m: int, v: int) -> list[str]:
    """Layered gradient accumulation: the order of breadth-first, and behind a chunk's last backward the sum of its
    gradients over data-parallel copies of the pipeline, which runs beside the backwards of the next chunk. The paper
    takes one layer per chunk.

    A sum takes no time unless the costs give ``REDUCE_GRAD`` some. If that is no more than a chunk's backwards of all
    micro-batches take, only the sum of each rank's last chunk is not hidden.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("modular", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 1F1 3F0 3F1 3B1 3B0 3REDUCE_GRAD 1B1 1B0 1REDUCE_GRAD'
    """
    ops = []
    for op in breadth_first.lane(r, p, m, v):
        ops.append(op)
        stage, _, micro = op.partition("B")
        if micro == "0":
            ops.append(f"{stage}REDUCE_GRAD")
    return ops
