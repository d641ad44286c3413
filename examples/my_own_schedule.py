"""A schedule of one's own: 1F1B that runs ahead, so that messages travel while ranks work."""


def early(r: int, p: int, m: int, v: int) -> list[tuple[int, str]]:
    """What rank r of p does with m micro-batches: twice the forwards of 1F1B before the first backward."""
    warm = min(2 * (p - 1 - r), m)
    return [
        (warm, "F"),
        (m - warm, "F B"),
        (warm, "B"),
    ]
