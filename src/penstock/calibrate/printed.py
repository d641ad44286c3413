"""What the memory figure of a row of runs means: its unit, what it counts, and of which rank it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.cost.stack import Stack
from penstock.predict.prediction import Prediction

GIB, GB = 2.0**30, 1e9
OFFLOADED = {
    "expert_fc1": ("experts.rows",),
    "moe_act": ("experts.gate_up.y", "experts.up.y"),
    "attn_norm": ("input",),
    "act_norm": ("input",),
    "mlp_norm": ("attention.sum",),
    "qkv_linear": ("attention_norm.y",),
    "core_attn": ("attention.query.rotated", "attention.key.rotated", "attention.value.y"),
    "attn_proj": ("attention.result",),
}
"""Modules whose input Megatron-Core can move to the host, and our storages."""


@dataclass(frozen=True, slots=True)
class Printed:
    """How a row prints memory.

    ``unit_bytes``: of one of its gigabytes. ``counts``: as in ``Room.counted``. ``stage``: the pipeline rank it is of; ``None``: that which needs most.
    """

    unit_bytes: float
    counts: str
    stage: int | None = None

    def of(self, prediction: Prediction) -> float:
        """Return the figure that the row would print for a prediction, in its own gigabytes."""
        rooms = prediction.rooms if self.stage is None else prediction.rooms[self.stage : self.stage + 1]
        return max(room.counted(self.counts) for room in rooms) / self.unit_bytes


def printed(row: Mapping[str, str], stack: Stack) -> Printed:
    """Read it from the notes; where they do not say, gigabytes are of 2**30 bytes, and the framework's own figure is
    meant, of the rank that needs most."""
    notes = row.get("notes", "")
    converted = ("GiB" in notes and not re.search(r"as printed.*GiB", notes)) or "MB/1000" in notes
    stage = re.search(r"PP stage (\d+)", notes)
    rank = 0 if re.search(r"rank-?0 peak", notes) else None
    return Printed(GB if converted else GIB, _counts(notes, stack), int(stage[1]) if stage else rank)


def _counts(notes: str, stack: Stack) -> str:
    for word, counts in (("post-optimizer", "resting"), ("alloc", "allocated"), ("nvidia-smi", "device"), ("'x/", "device"), ("reserved", "reserved")):  # fmt: skip
        if word in notes:
            return counts
    return stack.counts


def offloads(text: str) -> tuple[tuple[str, ...], float]:
    """Return the storages of activations that are offloaded, and the share of the optimizer's state.

    Raises:
        ValueError: the text says something else.

    >>> offloads("optimizer-cpu 25%")
    ((), 0.25)
    """
    kind, _, rest = text.partition(":")
    if kind == "activation":
        names = rest.split(",")
        if set(names) <= OFFLOADED.keys():
            return tuple(storage for name in names for storage in OFFLOADED[name]), 0.0
    share = re.match(r"optimizer-cpu (\d+)%", text)
    if share:
        return (), int(share[1]) / 100
    raise ValueError(f"offload={text} is not known; activations of {', '.join(OFFLOADED)} and optimizer-cpu are")
