"""The noun ``Batches``: how many sequences a step may have, and which of these are tried on so many devices."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.core.architecture import Architecture
from penstock.core.words import spans_of
from penstock.cost.laws import Suggested, rounded, suggested

MOST_TRIED = 3
"""Batches of a range that are tried on a number of devices."""


@dataclass(frozen=True)
class Batches:
    """Sequences per step that may be chosen: each of ``sizes``, or, of one ``span``, those that suit the devices.

    ``law``: what published laws suggest, where nobody says a batch; then it is that, rounded to the devices.
    """

    seq: int
    sizes: tuple[int, ...] = ()
    span: tuple[int, int] | None = None
    law: Suggested | None = None

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose: it is one number, whatever the devices."""
        return len(self.sizes) == 1

    @property
    def text(self) -> str:
        """As it is asked."""
        if self.law is not None:
            return "suggested"
        return "/".join(map(str, self.sizes)) if self.span is None else "..".join(map(str, self.span))

    def on(self, devices: int) -> tuple[int, ...]:
        """Return the batches that are tried on so many devices, largest first.

        Of a span they are its largest multiples of the devices, of half of them, a quarter and so on, which the more
        replicas divide the fewer devices a replica takes; and of all its numbers the last, where there are none.

        >>> Batches(4096, span=(512, 2048)).on(752), Batches(4096, span=(512, 2048)).on(512)
        ((1974, 1880, 1504), (2048,))
        """
        if self.law is not None:
            return (rounded(self.law.taken_tokens / self.seq, devices),)
        if self.span is None:
            return tuple(sorted(self.sizes, reverse=True))
        (low, high), found, size = self.span, list[int](), devices
        while len(found) < MOST_TRIED:
            if (most := high // size * size) >= low and most not in found:
                found.append(most)
            if size % 2:
                break
            size //= 2
        if not found:
            found.append(max(high // d * d for d in range(1, size + 1) if size % d == 0 and high // d * d >= low))
        return tuple(sorted(found, reverse=True))


def batches_of(
    given: int | str | None, model: Architecture, seq: int, devices: int, tokens: float | None = None
) -> Batches:
    """Return the batches that are asked for.

    Args:
        given: a number, ``"512..2048"``, ``"512/1024/2048"``, or nothing: what published laws suggest.
        model, seq, tokens: of the training, for these laws.
        devices: all that there are.

    Raises:
        ValueError: it is none of these.
    """
    if given is None:
        return Batches(seq, law=suggested(model, seq, devices, tokens))
    return read_batches(given, seq)


def read_batches(given: int | str, seq: int) -> Batches:
    """Return the batches that a text, or a number, gives.

    Raises:
        ValueError: it gives none.

    >>> read_batches("512..2048", 4096).span, read_batches("512/1024", 4096).sizes
    ((512, 2048), (512, 1024))
    """
    text = str(given)
    spans = spans_of(text)
    if spans is None or (len(spans) > 1 and any(low != high for low, high in spans)):
        raise ValueError(f"batch={text} is no number of sequences; write 1024, 512..2048 or 512/1024/2048")
    low, high = spans[0]
    if low > high:
        raise ValueError(f"batch={text} is an empty range; write {high}..{low}")
    return Batches(seq, span=(low, high)) if low < high else Batches(seq, sizes=tuple(dict(spans)))
