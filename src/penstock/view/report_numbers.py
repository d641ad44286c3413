"""What a plan says of precisions: the best in each, and what was published of results beside those in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.core.recipes import UNNAMED
from penstock.units import human_bytes, human_s
from penstock.view.report_section import Facts, Listing

HEAD = ("precision", "optimizer", "step time", "tokens/s", "memory", "gradients", "split")

NOT_EQUAL = "gradients in 8 and 4 bits are not those of 16 bits, and the same tokens may reach another loss"


def by_numbers(numbers: Sequence[Facts]) -> Listing:
    """Return the table of the best in each precision, beside the first of them."""
    first = next((one["choice"]["seconds"] for one in numbers if one["choice"]), None)
    rows = [(one["precision"], one["optimizer"], *_cells(one, first)) for one in numbers]
    return Listing(title="The best in each precision", head=HEAD, rows=rows, left=(0, 1, 5, 6))


def _cells(one: Facts, first_s: float | None) -> tuple[str, ...]:
    best = one["choice"]
    gradients = "as in 16 bits" if one["gradient_equal"] else "not equal"
    if best is None:
        return "", "", "", gradients, "none fits"
    change = "" if first_s is None or best["seconds"] == first_s else f" ({best['seconds'] / first_s - 1:+.1%})"
    return (
        f"{human_s(best['seconds'])}{change}", f"{best['tokens_per_s_per_device']:,.0f}",
        human_bytes(best["memory_bytes"]["needed"]), gradients, best["split"],
    )  # fmt: skip


def notes(numbers: Sequence[Facts]) -> list[str]:
    """Return what is known of results in each precision, and with each optimizer, that is not that of 16 bits."""
    lines = [*dict.fromkeys(line for one in numbers for line in _notes(one))]
    return lines if all(one["gradient_equal"] for one in numbers) else [NOT_EQUAL, *lines]


def _notes(one: Facts) -> Iterator[str]:
    names = [] if one["gradient_equal"] else [one["precision"]]
    if len(one["published"]) > len(names):
        names.append(one["optimizer"])
    published = one["published"]
    for name, each in zip(names[len(names) - len(published) :], published, strict=True):
        yield f"  {name}: {each['results']} ({each['source']})"
    if not one["gradient_equal"] and one["precision"] in UNNAMED:
        yield f"  {one['precision']}: no recipe is named, and so nothing is known of its results"
