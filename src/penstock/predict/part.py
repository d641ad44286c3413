"""The noun ``Part``: what a block, or an end of the model, takes of one micro-batch on one rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.core.device import Device
from penstock.cost.constants import constants


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds of one part of the model on one rank, per micro-batch.

    ``f_s``, ``i_s``, ``w_s``: forward, input and weight gradient, messages included, those that recompute repeats too.
    ``again_s``: what recompute adds to the backward beside messages. ``messages_s``: messages that nothing hides, by
    axis, forward and backward together. ``error_s``: how far the sum is off. ``waits_s``: in which the device waits for
    its host, forward and backward; ``copies_s``: in which it waits for copies of activations to its host and back.
    """

    f_s: float = 0.0
    i_s: float = 0.0
    w_s: float = 0.0
    again_s: float = 0.0
    waits_s: tuple[float, float] = (0.0, 0.0)
    copies_s: tuple[float, float] = (0.0, 0.0)
    error_s: float = 0.0
    messages_s: Mapping[str, float] = field(default_factory=dict)
    guessed: frozenset[str] = frozenset()

    @property
    def host_s(self) -> float:
        """What waits for the host beyond the device's own time."""
        return sum(self.waits_s)

    @property
    def copied_s(self) -> float:
        """What waits for copies, forward and backward."""
        return sum(self.copies_s)

    @property
    def passes_s(self) -> tuple[float, float, float]:
        """Of forward, gradient of the input with what is made again before it, and gradient of the weights."""
        return self.f_s, self.i_s + self.again_s, self.w_s

    @property
    def all_s(self) -> float:
        """All of it."""
        return self.f_s + self.i_s + self.w_s + self.again_s


def overlap(together: bool) -> str:
    """Return the name of the constant by which times of a host and its device add up; as ``both_s`` takes it."""
    return "overlap_together" if together else "overlap"


def both_s(device: Device, device_s: float, host_s: float, blocking: bool = False, together: bool = False) -> float:
    """Return the time of work that the host launches while the device does it: the power mean without the mean. A CPU
    does the one and then the other, as do a host and a device where launches are ``blocking``. Ranks that wait for each
    other's messages in it are ``together``: whichever host is late, all of them are."""
    power = 1.0 if device.is_cpu or blocking else constants("host")[overlap(together)]
    return float((device_s**power + host_s**power) ** (1 / power))
