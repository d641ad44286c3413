"""The noun ``Prediction``: what a training step takes, of time and of memory, how sure that is and what was guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from penstock.core.timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes of one device at its peak, by what they hold.

    ``working``: what a backward holds beyond what was kept and the loss, and workspaces of libraries. ``messages``:
    weights that are whole for a while, and buffers of collectives. ``reserve``: what the allocator holds and nobody
    uses. ``context``: what the driver and the libraries of collectives hold outside the allocator.
    """

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    loss: float = 0.0
    working: float = 0.0
    messages: float = 0.0
    reserve: float = 0.0
    context: float = 0.0

    def parts(self, what: str = "device") -> dict[str, float]:
        """Return those bytes by name that a framework's own figure counts: all of the ``device``, what the allocator
        has ``reserved``, what is ``allocated`` of it, or what is ``resting`` there between steps."""
        names = [field.name for field in fields(self)]
        resting = [name for name in names if name not in ("weights", "gradients", "optimizer")]
        left = {"device": (), "reserved": ("context",), "allocated": ("context", "reserve"), "resting": resting}[what]
        return {name: getattr(self, name) for name in names if name not in left}

    def counted(self, what: str) -> float:
        """Return the sum of ``parts``."""
        return float(sum(self.parts(what).values()))

    @property
    def total(self) -> float:
        """All of it."""
        return self.counted("device")

    @property
    def needed(self) -> float:
        """What must fit; the allocator gives back its reserve before it fails."""
        return self.total - self.reserve


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """One training step, predicted.

    Args:
        seconds: of the step.
        low_s, high_s: about four of five measured steps lie between them.
        parts: what the busiest rank spends its time on, in seconds; adds up to ``seconds``.
        rooms: memory of a device of each pipeline rank.
        memory_bytes: of a device.
        host_bytes: in host memory, for a device of each pipeline rank: activations, weights, gradients and optimizer
            state that wait there.
        host_memory_bytes: what a device has of its host's, if all of its node have as much.
        disk_bytes: on disks of its node, for a device of each pipeline rank: weights and optimizer state.
        disk_room_bytes: what a device has of these disks.
        model_flops: of a step over all devices, without recompute: products twice, whole score matrices by the mask.
        again_flops: of those products that recompute runs once more, likewise.
        peak_flops: of all devices, in the precision of the products.
        tokens: of a step.
        devices: all of them.
        checkpoint_bytes: of weights and of the optimizer's state, each once.
        checkpoint_s: to write them, each device its part, to the disks of the nodes; no step runs meanwhile.
        timeline: of one pipeline's micro-batches, before gradients are summed.
        guessed: levels of kernels that nobody measured on such a device, and a precision that stands for one that it
            has not, in words; ``explain`` has all constants.

    >>> from penstock import predict_step
    >>> found = predict_step("llama-3-70b", "h100:8", seq=4096, batch=8)
    >>> found.fits, found.peak.total > 10 * found.memory_bytes
    (False, True)
    """

    seconds: float
    low_s: float
    high_s: float
    parts: Mapping[str, float]
    rooms: tuple[Room, ...]
    memory_bytes: float
    host_bytes: tuple[float, ...]
    host_memory_bytes: float
    disk_bytes: tuple[float, ...]
    disk_room_bytes: float
    model_flops: float
    again_flops: float
    peak_flops: float
    tokens: int
    devices: int
    checkpoint_bytes: float
    checkpoint_s: float
    timeline: Timeline
    guessed: tuple[str, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all devices in a second."""
        return self.tokens / self.seconds

    @property
    def tokens_per_s_per_device(self) -> float:
        """Tokens of one device in a second."""
        return self.tokens_per_s / self.devices

    @property
    def flops_per_s_per_device(self) -> float:
        """Model FLOPs of one device in a second."""
        return self.model_flops / self.seconds / self.devices

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization, 0 to 1 (Chowdhery et al. 2022, arXiv:2204.02311), of scores what the mask leaves."""
        return self.model_flops / self.seconds / self.peak_flops

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilization: with what recompute runs again (Korthikanti et al. 2022, arXiv:2205.05198)."""
        return (self.model_flops + self.again_flops) / self.seconds / self.peak_flops

    @property
    def peak(self) -> Room:
        """Memory of the rank that needs most."""
        return max(self.rooms, key=lambda room: room.total)

    @property
    def fits(self) -> bool:
        """Whether every rank's memory is enough, and that of its host, and its disks."""
        return max(room.needed for room in self.rooms) <= self.memory_bytes and self.fits_host

    @property
    def fits_host(self) -> bool:
        """Whether hosts have room for what waits in their memory and on their disks."""
        return max(self.host_bytes) <= self.host_memory_bytes and max(self.disk_bytes) <= self.disk_room_bytes
