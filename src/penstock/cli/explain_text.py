"""What ``penstock explain`` prints: trees of seconds and bytes, and single figures with formulas and constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from penstock.cost.origins import Constant, shown
from penstock.predict.explain_kernels import PHASES
from penstock.predict.figure import Figure
from penstock.units import human_bytes, human_s, human_si

if TYPE_CHECKING:
    from penstock.predict.explain import Explanation

HEAD = ("", "time", "share", "forward", "input", "weight", "FLOPs", "bytes", "bound by", "of peak", "shape, or how")
MEMORY_HEAD = ("", "size", "share", "how")
LEFT = {"bound by", "shape, or how", "how", "fullest at", "in flight"}
"""Columns of words."""


def print_time(step: Figure) -> None:
    """Print the seconds of a step down to its operators, the longest first."""
    rows = [tuple(_time_row(figure, depth, step.value)) for depth, figure in _down(step, 3)]
    _print([HEAD, *rows])
    print(f"\n{step.how}")
    print(
        "forward, input, weight: seconds of the pass and of its two gradients; FLOPs, bytes: of all three, of one block"
    )
    print("and micro-batch; bound, share of its peak and shape: of the longest of the three")
    _print_guessed(step)


def _print_guessed(figure: Figure) -> None:
    """Print which constants were guessed, the one that has a part in most first."""
    guessed = {constant: value for constant, value in figure.touched().items() if constant.guessed}
    if guessed:
        print("\nguessed, and how much each has a part in")
    for constant, value in guessed.items():
        print(f"  {value / figure.value:6.1%}  {constant.name} = {shown(constant.value)}: {constant.source}")


def _down(figure: Figure, most: int, depth: int = 0) -> Iterator[tuple[int, Figure]]:
    """A figure and those below it, the largest first, phases of operators left out."""
    yield depth, figure
    if depth < most and not is_operator(figure):
        for part in sorted(figure.parts, key=lambda part: -part.value):
            yield from _down(part, most, depth + 1)


def is_operator(figure: Figure) -> bool:
    """Whether the parts of a figure are the phases of one operator."""
    return any("kind" in part.facts for part in figure.parts)


def _time_row(figure: Figure, depth: int, whole: float) -> Iterator[str]:
    yield f"{'  ' * depth}{figure.name}"
    yield human_s(figure.value)
    yield f"{figure.value / whole:.1%}"
    if not is_operator(figure):
        yield from (*[""] * 7, "" if depth == 0 else figure.how)
        return
    for phase in PHASES.values():
        value = sum(part.value for part in figure.parts if part.name.removeprefix("cast, ").startswith(phase))
        yield human_s(value) if value else ""
    each = [part.facts for part in figure.parts if "kind" in part.facts]
    facts = max(each, key=lambda facts: facts["each_s"])
    yield human_si(sum(facts["flops"] for facts in each)).rstrip()
    yield human_bytes(sum(facts["bytes"] for facts in each))
    yield from (facts["bound"], f"{facts['of_peak']:.0%}", f"{facts['shape']}{_in(facts)}")


def _in(facts: Any) -> str:
    return f" in {facts['precision']}" if facts["kind"] in ("matmul", "grouped_matmul", "attention") else ""


def print_memory(found: Explanation, rank: int) -> None:
    """Print the peak of each pipeline rank, and the bytes of one of them down to matrices and activations."""
    device_bytes = found.prediction.memory_bytes
    head = ("rank", "size", "share", "fullest at", "in flight")
    rows = [
        (
            figure.name.removeprefix("rank "), human_bytes(figure.value), f"{figure.value / device_bytes:.1%}",
            figure.facts["moment"], _in_flight(figure),
        )
        for figure in found.memory
    ]  # fmt: skip
    _print([head, *rows])
    print()
    figure = found.memory[rank]
    _print([MEMORY_HEAD, *(_memory_row(part, depth, device_bytes) for depth, part in _down(figure, 4))])
    if "activations_at_s" in figure.facts:
        when, op = human_s(figure.facts["activations_at_s"]), figure.facts["activations_at_op"]
        print(f"\nmost activations are kept {when} after the start, when {op} begins")


def _in_flight(figure: Figure) -> str:
    return ", ".join(f"{count:g} of stage {stage}" for stage, count in figure.facts.get("in_flight", {}).items())


def _memory_row(figure: Figure, depth: int, whole: float) -> tuple[str, ...]:
    share = f"{figure.value / whole:.1%}"
    return f"{'  ' * depth}{figure.name}", human_bytes(figure.value), share, figure.how


def print_opened(opened: Sequence[tuple[tuple[str, ...], Figure]], found: Explanation) -> None:
    """Print figures to the bottom: formulas, facts, and the constants with their sources."""
    constants: dict[str, Constant] = {}
    for number, (path, figure) in enumerate(opened):
        if number:
            print()
        whole, of = _whole(figure, found)
        print(f"{' / '.join(path)}: {_human(figure)}, {figure.value / whole:.2%} of {of}")
        for above, part in figure.walk():
            _print_one(part, len(above), figure is part)
            constants |= {constant.name: constant for constant in part.constants}
    if constants:
        print("\nconstants")
    for constant in constants.values():
        sure = [constant.range, "" if constant.error is None else f"error {constant.error:.0%}"]
        words = [f"{constant.name} = {shown(constant.value)}", *sure, "guessed" if constant.guessed else ""]
        print(f"  {', '.join(word for word in words if word)}")
        print(f"    {constant.meaning.rstrip('.')}; {constant.source}")


def _whole(figure: Figure, found: Explanation) -> tuple[float, str]:
    if figure.unit == "s":
        return found.time.value, "the step"
    return found.prediction.memory_bytes, "the device's memory"


def _print_one(figure: Figure, depth: int, first: bool) -> None:
    pad = "  " * (depth + 1)
    if not first:
        print(f"{pad[2:]}{figure.name}: {_human(figure)}")
    if figure.how:
        print(f"{pad}{figure.how}")
    facts = figure.facts
    if "bounds_s" in facts:
        bounds = ", ".join(f"{name} {human_s(value)}" for name, value in facts["bounds_s"].items())
        work = f"{human_si(facts['flops'])}FLOPs, {human_bytes(facts['bytes'])}"
        print(f"{pad}{facts['kind'].replace('_', ' ')} {facts['shape']} in {facts['precision']}: {work}, "
              f"error {facts['error']:.0%}")  # fmt: skip
        print(f"{pad}at least: {bounds}; bound by {facts['bound']}, {facts['of_peak']:.1%} of that peak")
        return
    words = [f"{name.removesuffix('_s').replace('_', ' ')} {_fact(name, value)}" for name, value in facts.items()]
    if words:
        print(f"{pad}{'; '.join(words)}")


def _fact(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each:g}" for key, each in value.items())
    if name.endswith("_s"):
        return human_s(value)
    if name == "bytes":
        return human_bytes(value)
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _human(figure: Figure) -> str:
    return human_s(figure.value) if figure.unit == "s" else human_bytes(figure.value)


def _print(lines: Sequence[tuple[str, ...]]) -> None:
    """Print columns under a head; the first, and those of words, set to the left."""
    head = lines[0]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [
            cell.ljust(width) if i == 0 or head[i] in LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
