"""What a row leaves out and the recipe that it was run by says: files of settings beside a published table."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from penstock.calibrate.rows import truth
from penstock.cost.dispatch import DISPATCHERS
from penstock.cost.stack import Stack
from penstock.predict.launching import PARTS

STEP = "step"
"""In the column ``graphs``: the whole step is one recorded graph."""
NONE = "none"
FILLED = (
    "vpp", "recompute", "offload", "attention", "graphs", "gradients", "dispatcher", "token_drop", "expert_overlap",
    "multi_token", "stage_layers", "torch", "lacks",
)  # fmt: skip
"""Cells that a recipe fills where a row leaves them empty."""
OWN_CHOICE = {"attention": r"\bTE\b"}
"""Words in a cell that leave the choice to a library, which is as good as empty: Transformer Engine takes the kernel of
attention that it has for heads and device."""
TUNED = ("packed", "adapters")
"""Those that a recipe fills as well where a row fine-tunes."""
TUNING = re.compile("sft|lora|peft|adapter|tun(e|ing)", re.IGNORECASE)
"""Words of the column ``task`` for that."""
WIDTHS = {"bf16": 2.0, "fp32": 4.0}
"""Bytes of a gradient, by words of the column ``gradients``."""
VERSION = re.compile(r"(?<!\d)(\d\d\.\d\d(?:\.\d\d)?)\b")
NEWEST = {
    "Megatron-Bridge model verification card": "26.08",
    "Megatron-Bridge skill nemo-mbridge-perf-cpu-offloading": "library",
    "Megatron-Bridge skill nemo-mbridge-perf-activation-recompute": "harness",
    "Megatron-Bridge skill nemo-mbridge-perf-memory-tuning": "harness",
    "MosaicML llm-foundry": "2023",
    "BigScience": "2022",
}
"""How titles without a version begin, whose runs are by the recipes of this one: a version, those of the library, those
of the harness that measures, or what there was in a year."""
STOPS_EARLY = (2, 1)
"""The first version of PyTorch whose checkpoints make nothing again that no gradient needs (``Stack.stops_early``)."""
KINDS = {"mx": "mxfp8", "fp8": "fp8", "fp4": "fp4", "bf16": "bf16"}
"""Words of the column ``precision``, the first that a row has counts."""


@cache
def recipes() -> tuple[Mapping[str, str], ...]:
    """Return ``data/measured/run_recipes.csv``: framework, versions from and to, model, device and precision, and what
    a recipe sets. An empty cell stands for all, the first that sets something counts."""
    text = (files("penstock") / "data" / "measured" / "run_recipes.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


SHOWN = ("tp_shown", "ep_shown", "cp_shown", "p2p_shown")
"""Shares of messages that compute hides nothing of where the host waits for each."""
BLOCKING = "blocking"
"""In the column ``launches``: each waits for its kernel."""
SAID = (
    ("dispatcher", r"\bHybridEP\b(?!/)", "hybridep"),
    ("dispatcher", r"\bDeepEP\b", "deepep"),
    ("dispatcher", r"\bdispatcher (?:NCCL )?(?:A2A|All-?to-?All)\b|\balltoall\b", "alltoall"),
    ("graphs", r"CUDA graphs router\+preprocess|\brouter/preprocess CG\b", "router"),
    ("graphs", r"\bfull CG\b", STEP),
    ("graphs", r"\bCG\b", "attention router"),
    ("token_drop", r"\btokendrop\b", "1"),
    ("expert_overlap", r"\bEP overlap(?! off)(?<!no EP overlap)|overlap of EP comm|\bexpert-\w+ comm\w+ overlap", "1"),
    ("multi_token", r"\b(?:no|without|w/o) MTP\b|\bMTP off\b", "0"),
    ("multi_token", r"\bMTP\b", "1"),
    ("vpp", r"\bVPP ?=?(\d+)\b", r"\1"),
    ("launches", r"\bCUDA_LAUNCH_BLOCKING=1\b", BLOCKING),
    ("stage_layers", r"\bstages (\d+[*+][\d*+]*)", r"\1"),
    ("series", r"\bseries (\S+)", r"\1"),
)
"""Cells that words of the column ``notes`` fill, the first that is there."""


SIMULATED = re.compile(r"\brecompute\b[^;(]*\bfrom\b[^;(]*\bsimulation configs?\b")
"""Notes by which the cell ``recompute`` is no fact of the run: it stands in the settings of somebody's simulation."""


def with_notes(row: Mapping[str, str], guessed: list[str]) -> Mapping[str, str]:
    """Return a row with empty cells as its notes say them in words, and without what is from a simulation."""
    notes, told = row.get("notes", ""), dict[str, str]()
    if row.get("recompute") and SIMULATED.search(notes):
        guessed.append(f"recompute as usual, since {row['recompute']!r} is from the settings of a simulation")
        told["recompute"] = ""
    for name, text, word in SAID:
        if not row.get(name) and name not in told and (found := re.search(text, notes)):
            told[name] = found.expand(word)
    return {**row, **told}


def with_recipe(row: Mapping[str, str], framework: Stack, guessed: list[str]) -> Mapping[str, str]:
    """Return a row with empty cells as the recipe has them that framework, version, model, device and precision name;
    the version is in the title of the source, or in the name of the system.

    >>> row = {"system": "Megatron-Bridge", "source_title": "26.06 NeMo Container", "model_name": "Qwen3-30B-A3B"}
    >>> from penstock.cost.stack import stack
    >>> said = []
    >>> with_recipe(row | {"device": "GB300", "precision": "mxfp8"}, stack("megatron-bridge"), said)["graphs"], said[0]
    ('step', 'recompute=none, as in the recipe of 26.06')
    """
    title = row.get("source_title", "")
    found = VERSION.search(title) or VERSION.search(row.get("system", ""))
    version = found[1] if found else next((last for start, last in NEWEST.items() if title.startswith(start)), "")
    mine = [recipe for recipe in recipes() if version and _is_of(recipe, row, framework.name, version)]
    names = [name for name in (*FILLED, *TUNED * bool(TUNING.search(row.get("task", "")))) if _open(row, name)]
    more = {name: recipe[name] for recipe in reversed(mine) for name in names if recipe[name]}
    guessed += [f"{name}={more[name]}, as in the recipe of {version}" for name in names if name in more]
    return {**row, **more}


def _open(row: Mapping[str, str], name: str) -> bool:
    """Whether a row leaves a cell to the recipe."""
    return not row.get(name) or (name in OWN_CHOICE and bool(re.search(OWN_CHOICE[name], row[name])))


def _is_of(recipe: Mapping[str, str], row: Mapping[str, str], framework: str, version: str) -> bool:
    kind = next((kind for word, kind in KINDS.items() if word in row.get("precision", "").lower()), "")
    mine = {"framework": framework, "model_name": row.get("model_name", ""), "device": row["device"], "precision": kind}
    alike = all(recipe[name] in ("", value) for name, value in mine.items())
    return alike and recipe["from"] <= version <= (recipe["to"] or version)


def ways_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a stack that a row says: which parts of blocks run as recorded graphs, in which width
    gradients accumulate and travel, what dispatches tokens, whether launches wait for their kernels, what an older
    version does not do.

    Where experts take tokens up to a capacity and no more, nobody waits for counts of tokens (Megatron-LM's
    ``token_dispatcher.py``: no synchronization where it drops and pads).

    Raises:
        ValueError: the column ``graphs``, ``gradients``, ``launches`` or ``torch`` says something else.
    """
    text, ways = row.get("graphs", ""), dict[str, Any]()
    words = tuple(text.replace(",", " ").split())
    if text not in ("", STEP, NONE):
        if unknown := [word for word in words if word not in PARTS]:
            raise ValueError(f"graphs={unknown[0]!r} is not known; use {STEP}, {NONE}, or of {', '.join(PARTS)}")
        ways["graphed"] = words
    if width := row.get("gradients"):
        if width not in WIDTHS:
            raise ValueError(f"gradients={width!r} are not known; use {' or '.join(WIDTHS)}")
        ways |= {"gradient_bytes": WIDTHS[width], "reduced_bytes": WIDTHS[width]}
    if dispatcher := row.get("dispatcher", "").lower():
        ways["dispatcher"] = dispatcher if dispatcher in DISPATCHERS else DISPATCHERS[0]
    if truth(row, "token_drop"):
        ways["drops_tokens"] = True
    if torch := row.get("torch"):
        if not (said := re.match(r"(\d+)\.(\d+)", torch)):
            raise ValueError(f"torch={torch!r} is no version; write it as 2.1")
        ways |= {"stops_early": False} if (int(said[1]), int(said[2])) < STOPS_EARLY else {}
    if lacks := row.get("lacks"):
        ways["lacks"] = tuple(lacks.split())
    if launches := row.get("launches"):
        if launches not in (BLOCKING, NONE):
            raise ValueError(f"launches={launches!r} are not known; use {BLOCKING}, or {NONE} that wait")
        ways |= {"blocking": True} | dict.fromkeys(SHOWN, 1.0) if launches == BLOCKING else {}
    return ways
