"""The command ``penstock check``."""

from __future__ import annotations

import sys
from pathlib import Path

ILLEGAL = 1
"""Exit code for a plan that cannot run."""


def check(plan: Path, /) -> None:
    """Say whether a plan can run; if not, every reason found, one per line, and exit code 1.

    Args:
        plan: a plan of Penstock (.json or .txt), or PyTorch's CSV of either format (.csv).
    """
    from penstock.api import problems, read_plan
    from penstock.export import torch_problems

    try:
        found_plan = read_plan(plan)
        found = problems(found_plan) or (torch_problems(found_plan) if plan.suffix == ".csv" else [])
        reasons = [f"{plan}: {problem}" for problem in found]
    except ValueError as error:
        reasons = [str(error) if str(error).startswith(str(plan)) else f"{plan}: {error}"]
    for reason in reasons:
        print(reason)
    if reasons:
        sys.exit(ILLEGAL)
    placement = found_plan.placement
    print(
        f"{plan}: legal; {placement.ranks} ranks, {placement.stages} stages, {found_plan.micros} micro-batches, "
        f"{len(found_plan)} ops"
    )
