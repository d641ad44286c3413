"""A schedule on ranks with unequal numbers of stages: the first two stages live on rank 0."""


def placement(p: int, v: int) -> list[int]:
    """The rank of each of p + 1 stages, in the order of the model."""
    return [0, *range(p)]


def lane(r: int, p: int, m: int, v: int) -> list[tuple[int, str]]:
    """1F1B, in which rank 0 runs its two stages one after the other."""
    warm = min(p - 1 - r, m)
    forward, backward = ("F0 F1", "B1 B0") if r == 0 else ("F", "B")
    return [(warm, forward), (m - warm, f"{forward} {backward}"), (warm, backward)]
