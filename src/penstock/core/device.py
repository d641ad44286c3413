"""The noun ``Device``: what one accelerator, or one CPU package, can do at most by its datasheet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.core.curves import Curves
from penstock.core.tables import check_fields, check_positive
from penstock.core.words import suggest

PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")
"""Precisions of matrix products, by the bits of what is multiplied; sums are FP32 (INT32 for ``int8``)."""
_CPUS = frozenset({"cpu", "x86-64-v3", "sapphire-rapids", "zen4", "armv8-sve"})
"""Architectures of CPUs; ``cpu`` is one that was measured and has no datasheet here."""
_VENDORS = re.compile(r"^((nvidia|amd|intel|google|aws|huawei|fujitsu|instinct|geforce|tesla|radeon|corporation)-)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device as facts of its datasheet; a device is what frameworks count as one (a die, where a module has two).

    Args:
        memory_bytes: what programs can take, where the driver's figure is known, else what is sold.
        memory_bytes_per_s: peak rate of its memory, reads and writes together.
        matrix_flops: peak FLOP/s of matrix products by precision (``PRECISIONS``), dense: without sparsity.
        vector_flops: peak FLOP/s in FP32 outside the matrix units, fused multiply-adds as two.
        units: what share out the work: SMs, compute units, cores, matrix units of a TPU.
        clock_hz: the clock at which the peaks hold.
        l2_bytes: the last cache, or memory, on the chip that all units share.
        power_w: most that it draws; ``None`` where not public.
        node: the catalogue name of the node it usually sits in.
        source: where the facts stand.
        derived: facts that stand nowhere, by field, and how they were got.
        aliases: other names, as ``plain`` writes them.
        curves: what was measured of it, if a cluster file says so.

    >>> device("NVIDIA H100 80GB HBM3").matrix_flops["bf16"]
    989400000000000.0
    """

    name: str
    vendor: str
    architecture: str
    memory_bytes: int
    memory_bytes_per_s: float
    matrix_flops: Mapping[str, float] = field(hash=False)
    vector_flops: float
    units: int
    clock_hz: float
    l2_bytes: int
    power_w: float | None = None
    node: str = ""
    source: str
    derived: Mapping[str, str] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()
    curves: Curves | None = field(default=None, hash=False, repr=False)

    def __post_init__(self) -> None:
        check_positive(self, "memory_bytes", "memory_bytes_per_s", "matrix_flops", "vector_flops")
        check_positive(self, "units", "clock_hz", "l2_bytes", "power_w")
        if not self.matrix_flops:
            raise ValueError(f"matrix_flops is empty; give a peak for one of {', '.join(PRECISIONS)}")
        for precision in self.matrix_flops:
            if precision not in PRECISIONS:
                raise ValueError(
                    f"matrix_flops has the unknown precision {precision!r}; {suggest(precision, PRECISIONS)}"
                )
        check_fields(self, "derived")

    @property
    def is_cpu(self) -> bool:
        """Whether its host's own cores do its work: what the host does for an operator then adds to what it takes."""
        return self.architecture in _CPUS

    def peak_flops(self, precision: str) -> float:
        """Return the dense peak of matrix products in ``precision``, in FLOP/s.

        Raises:
            ValueError: the device has none in this precision.

        >>> device("v100").peak_flops("bf16")
        Traceback (most recent call last):
        ValueError: v100-32gb-sxm has no peak for 'bf16'; it has fp16, fp32, fp64
        """
        if precision not in self.matrix_flops:
            raise ValueError(f"{self.name} has no peak for {precision!r}; it has {', '.join(self.matrix_flops)}")
        return self.matrix_flops[precision]


def device(name: str) -> Device:
    """Return the device of the catalogue with this name, or one of its other names.

    Case, vendor and the order of words and how they are parted do not count; a node stands for its device.

    Raises:
        ValueError: no device is called so.
    """
    from penstock.core.catalogue import catalogue

    return catalogue().device(name)


def plain(name: str) -> str:
    """Return a name of a device as the catalogue writes it: small letters, words parted by ``-``, no vendor.

    >>> plain("NVIDIA A100-SXM4-80GB"), plain("AMD Instinct MI300X"), plain("A100-SXM (40/80 not printed)")
    ('a100-sxm4-80gb', 'mi300x', 'a100-sxm-40-80-not-printed')
    """
    words = _VENDORS.sub("", re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))
    return re.sub(r"(?<=\d)-(gb|w)(?=-|$)", r"\1", re.sub(r"(?<=-)(\d{2,3})-?g(?=-|$)", r"\1gb", words))
