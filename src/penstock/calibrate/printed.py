"""What the notes of a row of runs say: what its memory figure means, and of the setup what has no column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.calibrate.rows import NO, whole
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
    it is of, -1 the last one; ``None``, or one that there is not: that which needs most.
    """

    unit_bytes: float
    counts: str
    stage: int | None = None

    def of(self, prediction: Prediction) -> float:
        """Return the figure that the row would print for a prediction, in its own gigabytes."""
        return self.room(prediction).counted(self.counts) / self.unit_bytes

    def room(self, prediction: Prediction) -> Room:
        """Return the memory of the rank that is meant."""
        rooms = prediction.rooms
        if self.stage is not None and self.stage < len(rooms):
            return rooms[self.stage]
        return max(rooms, key=lambda room: room.counted(self.counts))

    def parts(self, room: Room) -> dict[str, float]:
        """Return what the figure is made of, in its own gigabytes."""
        return {name: size_bytes / self.unit_bytes for name, size_bytes in room.parts(self.counts).items()}


def printed(row: Mapping[str, str], stack: Stack) -> Printed:
    """Read it from the column ``pipeline_rank`` and the notes; where they do not say, gigabytes are of 2**30 bytes, and
    the framework's own figure is meant, of the rank that needs most."""
    notes = row.get("notes", "")
    converted = ("GiB" in notes and not re.search(r"as printed.*GiB", notes)) or "MB/1000" in notes
    return Printed(GB if converted else GIB, _counts(notes, stack), _stage(row, notes.lower()))


def _stage(row: Mapping[str, str], notes: str) -> int | None:
    """The pipeline rank that a figure is of: by its column, as a stage in the notes, or as one of all devices there,
    among which stages are neighbours."""
    if row.get("pipeline_rank"):
        return whole(row, "pipeline_rank")
    if said := re.search(r"(?:pp|pipeline)[- ]?(?:stage|rank)[ =]?(\d+)", notes):
        return int(said[1])
    if ends := re.search(r"\b(first|last) (?:pp |pipeline )?(?:stage|rank)\b", notes):
        return -1 if ends[1] == "last" else 0
    said = re.search(r"(?:memory|peak) of (?:global )?rank[ -]?(\d+)", notes) or re.search(r"\brank-?(\d+) peak", notes)
    if said is None:
        return None
    return int(said[1]) * (whole(row, "pp") or 1) // max(1, whole(row, "devices") or 1)


def _counts(notes: str, stack: Stack) -> str:
    for word, counts in WORDS.items():
        if word in notes:
            return counts
    return stack.counts


def offloads(text: str, layers: int, guessed: list[str]) -> tuple[float | tuple[str, ...], float]:
    """Return the share or the storages of activations that are offloaded, and the share of the optimizer's state; of a
    model of so many layers.

    >>> offloads("optimizer-cpu 25%", 32, []), offloads("activation:8 layers", 32, [])
    ((0.0, 0.25), (0.25, 0.0))
    """
    small = text.lower()
    if not text or small in NO:
        return 0.0, 0.0
    share = re.search(r"(\d+) ?%", small)
    part = int(share[1]) / 100 if share and int(share[1]) <= 100 else 1.0
    if "activation" in small and "opt" not in small:
        count, names = re.search(r"(\d+) layers?", small), small.partition(":")[2].replace(" ", "").split(",")
        if set(names) <= OFFLOADED.keys():
            return tuple(storage for name in names for storage in OFFLOADED[name]), 0.0
        return min(1.0, int(count[1]) / layers) if count else part, 0.0
    if not re.match(r"optimizer-cpu( \d+%.*)?$", small):
        guessed.append(f"offload={text!r}: the optimizer's state in host memory, and nothing else")
    return 0.0, part


def adapter_on(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return the operators that have adapters, as in ``Setup.adapter_on``, by the column ``adapters``."""
    return tuple(name for name in re.split("[ ,;]+", row.get("adapters", "")) if name)


def adapter(row: Mapping[str, str], guessed: list[str]) -> int:
    """Return the rank of low-rank adapters, if they are what is trained; else 0."""
    if not re.search("lora|peft|adapter", row.get("task", "").lower()):
        return 0
    said = re.search(r"\b(?:rank|r) ?[=:]? ?(\d+)", row.get("notes", ""))
    if said:
        return int(said[1])
    guessed.append(f"adapters of rank 16 on {' and '.join(adapter_on(row)) or 'all matrices of blocks'}")
    return 16


def frozen_bytes(row: Mapping[str, str]) -> float:
    """Return the bytes of a frozen parameter: 16 bits, or 4 and a share of the scales of its block (Dettmers et al.
    2023, arXiv:2305.14314)."""
    return 0.52 if re.search("qlora|4-?bit", f"{row.get('task', '')} {row.get('notes', '')}".lower()) else 2.0


def vocabulary(schedule: str) -> int:
    """Return how the vocabulary is split, as in ``Setup.vocabulary``."""
    if "vocab" not in schedule:
        return 0
    return 3 if "interlaced" in schedule else 2 if "vocab-2" in schedule else 1


NATURAL = 1.8
"""Tokens of the fullest rank of experts over the mean where no balance is forced: with it, four pairs of runs that
differ in this alone differ as they did (Megatron-LM's recipe of Qwen3 235B on 256 H100, 16,384 to 131,072 tokens)."""


def imbalance(row: Mapping[str, str]) -> float:
    """Return how uneven the notes say that tokens go to their experts."""
    return NATURAL if re.search(r"\bdropless natural\b|\bnatural routing\b", row.get("notes", "")) else 1.0


def dense_layers(row: Mapping[str, str]) -> int | None:
    """Return how many layers have no experts, where the notes say so."""
    said = re.search(r"dense_layers=(\d+)", row.get("notes", ""))
    return int(said[1]) if said else None


def gated(model: Architecture) -> bool:
    """Return whether feed-forwards have a gate, as those of models that are trained without dropout do."""
    mlp = model.blocks[-1].mlp
    return mlp is not None and (mlp.expert if isinstance(mlp, Experts) else mlp).gated
