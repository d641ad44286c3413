"""penstock plan --solve and --order: what is checked before orders are solved for, and the file of the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from penstock.units import human_s

if TYPE_CHECKING:
    from penstock.search.choice import Planned
    from penstock.search.space import Space


def check_order(space: Space, solve: float | None, order: Path | None) -> None:
    """Check that orders can be solved for and written, where they are asked for.

    Raises:
        ValueError: they cannot.
    """
    from penstock.cli.solve import check_plan_file
    from penstock.search.orders import check

    check_plan_file(order, "--order")
    if order is not None and solve is None:
        raise ValueError(f"--order {order}: no order is looked for; add --solve 10")
    if solve is not None:
        check(space, solve)


def write_order(path: Path | None, found: Planned) -> None:
    """Write the order of the fastest step that orders were solved for, if a file is given and a plan fits.

    Raises:
        ValueError: there is none.
    """
    from penstock.core.files import write_whole

    if path is None or not found.choices:
        return
    if not found.orders:
        raise ValueError(f"--order {path}: none of the best has a pipeline; fix one, for example --fix pp=2..64")
    best = found.orders[0].plan
    write_whole(path, best.to_json() if path.suffix == ".json" else best.to_text())


def print_orders(found: Planned) -> None:
    """Print what orders were found."""
    if found.orders:
        print("\norders of passes")
    for one in found.orders:
        says = f"{human_s(one.choice.seconds)}, {one.gain:.1%} less than" if one.gain > 0 else "none is faster than"
        print(f"  {one.choice.split}: {says} {human_s(one.named_s)} by its schedule; none beats {human_s(one.bound_s)}")
