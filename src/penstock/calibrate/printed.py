"""What the notes of a row of runs say: what its memory figure means, and of the setup what has no column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.core.architecture import Architecture
from penstock.core.parts import Experts
from penstock.cost.stack import Stack
from penstock.predict.prediction import Prediction, Room

GIB, GB = 2.0**30, 1e9
WORDS = {
    "post-optimizer": "resting",
    "alloc": "allocated",
    "nvidia-smi": "device",
    "'x/": "device",
    "reserved": "reserved",
}
"""Words in notes that tell what a figure counts, the surest first."""
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

    ``unit_bytes``: of one of its gigabytes. ``counts``: as in ``Room.counted``. ``stage``: the pipeline rank
    it is of; ``None``: that which needs most.
    """

    unit_bytes: float
    counts: str
    stage: int | None = None

    def of(self, prediction: Prediction) -> float:
        """Return the figure that the row would print for a prediction, in its own gigabytes."""
        return self.room(prediction).counted(self.counts) / self.unit_bytes

    def room(self, prediction: Prediction) -> Room:
        """Return the memory of the rank that is meant."""
        rooms = prediction.rooms if self.stage is None else prediction.rooms[self.stage : self.stage + 1]
        return max(rooms, key=lambda room: room.counted(self.counts))

    def parts(self, room: Room) -> dict[str, float]:
        """Return what the figure is made of, in its own gigabytes."""
        return {name: size_bytes / self.unit_bytes for name, size_bytes in room.parts(self.counts).items()}


def printed(row: Mapping[str, str], stack: Stack) -> Printed:
    """Read it from the notes; where they do not say, gigabytes are of 2**30 bytes, and the framework's own figure is
    meant, of the rank that needs most."""
    notes = row.get("notes", "")
    converted = ("GiB" in notes and not re.search(r"as printed.*GiB", notes)) or "MB/1000" in notes
    stage = re.search(r"PP stage (\d+)", notes)
    rank = 0 if re.search(r"rank-?0 peak", notes) else None
    return Printed(GB if converted else GIB, _counts(notes, stack), int(stage[1]) if stage else rank)


def _counts(notes: str, stack: Stack) -> str:
    for word, counts in WORDS.items():
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
    if not text:
        return (), 0.0
    kind, _, rest = text.partition(":")
    if kind == "activation":
        names = rest.split(",")
        if set(names) <= OFFLOADED.keys():
            return tuple(storage for name in names for storage in OFFLOADED[name]), 0.0
    share = re.match(r"optimizer-cpu (\d+)%", text)
    if share:
        return (), int(share[1]) / 100
    raise ValueError(f"offload={text} is not known; activations of {', '.join(OFFLOADED)} and optimizer-cpu are")


def adapter(row: Mapping[str, str], guessed: list[str]) -> int:
    """Return the rank of low-rank adapters, if they are what is trained; else 0."""
    if "lora" not in row.get("task", ""):
        return 0
    said = re.search(r"\b(?:rank|r) ?[=:]? ?(\d+)", row.get("notes", ""))
    if said:
        return int(said[1])
    guessed.append("adapters of rank 16 on all matrices of blocks")
    return 16


def frozen_bytes(row: Mapping[str, str]) -> float:
    """Return the bytes of a frozen parameter: 16 bits, or 4 and a share of the scales of its block (Dettmers et al.
    2023, arXiv:2305.14314)."""
    return 0.52 if re.search("qlora|4-?bit", row.get("notes", "").lower()) else 2.0


def vocabulary(schedule: str) -> int:
    """Return how the vocabulary is split, as in ``Setup.vocabulary``."""
    if "vocab" not in schedule:
        return 0
    return 3 if "interlaced" in schedule else 2 if "vocab-2" in schedule else 1


def dense_layers(row: Mapping[str, str]) -> int | None:
    """Return how many layers have no experts, where the notes say so."""
    said = re.search(r"dense_layers=(\d+)", row.get("notes", ""))
    return int(said[1]) if said else None


def gated(model: Architecture) -> bool:
    """Return whether feed-forwards have a gate, as those of models that are trained without dropout do."""
    mlp = model.blocks[-1].mlp
    return mlp is not None and (mlp.expert if isinstance(mlp, Experts) else mlp).gated
