"""What ``penstock plan`` is asked: by flags, by a file of another framework, and by laws for what nobody says."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.cli.columns import print_columns
from penstock.core.setup import FRAMEWORK
from penstock.units import human_s

if TYPE_CHECKING:
    from penstock.core.cluster import Cluster
    from penstock.cost.laws import Suggested
    from penstock.export.begin import Begun
    from penstock.search.choice import Choice
    from penstock.search.improve import Change
    from penstock.search.space import Space


@dataclass(frozen=True, kw_only=True)
class Question:
    """What flags, a file and laws ask: ``asked`` by the names that scripts read.

    ``yours`` is the setup of the file, ``suggested`` what laws say where no batch was given, ``span`` the batches
    that may be chosen as they were given, ``others`` the spaces of those that are tried beside the first, ``tried``
    what the best with each of them is, and ``laws`` what these say then.
    """

    space: Space
    asked: dict[str, Any]
    yours: Choice | None = None
    suggested: Suggested | None = None
    span: str = ""
    others: tuple[Space, ...] = ()
    tried: tuple[Choice, ...] = ()
    laws: Suggested | None = None


def question(
    flags: Mapping[str, Any], cluster: Cluster, start: Path | None, fix: Sequence[str], exclude: Sequence[str]
) -> Question:
    """Return what is asked of a planner; ``flags`` are ``model``, ``cluster``, ``framework``, ``seq``, ``batch`` and
    ``tokens`` as they were given.

    Raises:
        ValueError: something is missing, unknown, or cannot be.
    """
    return _by_file(flags, cluster, start, fix, exclude) if start else _by_flags(flags, cluster, fix, exclude)


def _by_flags(flags: Mapping[str, Any], cluster: Cluster, fix: Sequence[str], exclude: Sequence[str]) -> Question:
    from penstock.core.config.text import model_of
    from penstock.cost.laws import suggested
    from penstock.search.batches import batches_of
    from penstock.search.space import space_of

    model, seq, batch = (flags[name] for name in ("model", "seq", "batch"))
    if model is None:
        raise ValueError("--model is missing; name one, or a file with --from")
    if seq is None:
        raise ValueError("--seq is missing; say how many tokens a sequence has")
    framework = flags["framework"] or FRAMEWORK
    architecture = model_of(model)
    batches = batches_of(batch, architecture, seq, cluster.devices, flags["tokens"])
    sizes = batches.on(cluster.devices)
    spaces = [
        space_of(architecture, cluster, framework, seq=seq, batch=size, fix=fix, exclude=exclude) for size in sizes
    ]
    asked = {**flags, "batch": sizes[0], "framework": framework}
    span = "" if batches.law or batches.single else batches.text
    laws = suggested(architecture, seq, cluster.devices, flags["tokens"]) if span else None
    return Question(space=spaces[0], asked=asked, suggested=batches.law, span=span, others=tuple(spaces[1:]), laws=laws)


def _by_file(
    flags: Mapping[str, Any], cluster: Cluster, start: Path, fix: Sequence[str], exclude: Sequence[str]
) -> Question:
    """What of the file is not read, or not so, goes to the standard error."""
    from penstock.cli.export import read_setup
    from penstock.export.begin import begin

    batch = flags["batch"]
    if batch is not None and not batch.isdecimal():
        raise ValueError(f"--batch {batch}: give one number with --from, or leave it out")
    read = read_setup(start, cluster.devices)
    given = {"seq": flags["seq"], "batch": None if batch is None else int(batch)}
    found: Begun = begin(read, str(start), cluster, flags["model"], flags["framework"], given)
    for note in found.notes:
        print(f"penstock: {note}", file=sys.stderr)
    asked = {
        **flags,
        "model": flags["model"] or (read.model if isinstance(read.model, str) else found.model.name),
        "framework": flags["framework"] or read.framework,
        "seq": found.setup.seq,
        "batch": found.setup.batch,
        "from": str(start) if flags["model"] is None else f"{start} --model {flags['model']}",
        "from_says": read.fields,
    }
    return Question(space=found.space(fix, exclude), asked=asked, yours=found.mine())


def predict_words(one: Choice, space: Space, asked: Mapping[str, Any]) -> str:
    """Return the command that predicts a choice; ``asked`` as ``question`` returns it."""
    from penstock.search.choice import flags_of

    usual = {**space.stack.usual, **asked.get("from_says", {})}
    for name in ("stage_layers", "recompute_layers", "recompute_first"):
        usual.pop(name, None)
    names = ("from" if "from" in asked else "model", "cluster", "framework")
    words = " ".join(f"--{name} {asked[name]}" for name in names)
    return f"penstock predict {words} {flags_of(one.setup, usual)}"


def more_facts(ask: Question, changes: Sequence[Change]) -> dict[str, Any]:
    """Return what a file and laws add to the figures of a plan, by the names that scripts read."""
    listed = [
        {
            "was": change.was,
            "change": change.said,
            "seconds": change.after.seconds,
            "headroom": change.after.headroom,
            "why": change.why,
        }
        for change in changes
    ]
    return {
        "to_change": listed,
        "suggested": None if ask.suggested is None else suggested_facts(ask.suggested),
    }


def print_yours(mine: Choice, best: Choice | None, changes: Sequence[Change], headroom: float) -> None:
    """Print how a user's own setup stands beside the best, and what to change."""
    print(f"\n{_stands(mine, best, headroom)}")
    print(f"  {mine.split}")
    if changes:
        print("change, in this order")
        rows = [(f"  {each.was}", "->", each.said, human_s(each.after.seconds), each.why) for each in changes]
        print_columns(rows, left=(0, 1, 2, 4))


def _stands(mine: Choice, best: Choice | None, headroom: float) -> str:
    from penstock.search.beside import reason

    took = human_s(mine.seconds)
    lacks = f", but {reason(mine, mine, headroom)}" if mine.headroom < headroom else ""
    if best is None:
        return f"yours: {took}{lacks}"
    by = 1 - best.seconds / mine.seconds
    how = f"{by:.1%} shorter" if by >= 0 else f"{-by:.1%} longer{'' if lacks else '; keep yours'}"
    return f"yours: {took}{lacks}; the best: {human_s(best.seconds)}, {how}"


def suggested_facts(found: Suggested) -> dict[str, Any]:
    """Return what laws say, by the names that scripts read."""
    laws = [
        {
            "law": one.law.name,
            "source": one.law.source,
            "batch_tokens": one.batch_tokens,
            "learning_rate": one.rate,
            "within": {name: [*ends] for name, ends in one.law.within.items()},
            "times_beyond": dict(one.beyond),
        }
        for one in found.said
    ]
    return {
        "batch": found.batch,
        "learning_rate": found.rate,
        "law": found.law,
        "tokens": found.tokens,
        "tokens_assumed": found.assumed,
        "tokens_over_20_a_parameter": found.over,
        "laws": laws,
    }


def print_suggested(found: Suggested, seq: int) -> None:
    """Print what laws say, and what of it was taken."""
    print("suggested, since there is no --batch")
    print_columns([*_laws(found)], left=(0, 3, 4))
    tokens = found.batch * seq
    print(
        f"  taken: {found.batch:,} sequences, {count(tokens)} tokens, rounded to the devices, by {found.law}, whose "
        f"range is nearest"
    )
    if found.assumed:
        print(f"  of {count(found.tokens)} tokens, 20 a parameter (Hoffmann et al. 2022), since there is no --tokens")
    else:
        print(f"  of {count(found.tokens)} tokens, {found.over:.3g} times 20 a parameter (Hoffmann et al. 2022)")
    if said := beyond(found, tokens):
        print(f"  {said}")
    print()


def beyond(laws: Suggested, batch_tokens: float) -> str:
    """Return what a step of more tokens than the critical batch costs, in words; empty where it has no more."""
    times = batch_tokens / laws.critical_tokens
    if times <= 1:
        return ""
    return (
        f"{count(batch_tokens)} tokens a step are {times:.2g} times the critical batch for {count(laws.tokens)} tokens "
        f"(Zhang et al. 2024): the same loss takes about {laws.more(batch_tokens):.0%} more tokens than with small "
        f"batches, {laws.more(laws.critical_tokens):.0%} at that one (McCandlish et al. 2018, arXiv:1812.06162)"
    )


def _laws(found: Suggested) -> Iterator[tuple[str, ...]]:
    yield ("  law", "batch", "rate", "range", "source")
    for one in found.said:
        yield (
            f"  {one.law.name}",
            "" if one.batch_tokens is None else f"{count(one.batch_tokens)} tokens",
            "" if one.rate is None else f"{one.rate:.1e}",
            ", ".join(_range(name, *ends, one.beyond.get(name)) for name, ends in one.law.within.items()),
            one.law.source.partition(";")[0],
        )


def _range(name: str, low: float, high: float, times: float | None) -> str:
    """A range that a quantity lies in, or the end that it lies beyond so many times."""
    if times is None:
        return f"{name} {count(low)} to {count(high)}"
    end, sign = (high, ">") if times > 1 else (low, "<")
    return f"{name} {count(end * times)} {sign} {count(end)}"


def count(number: float) -> str:
    """A count in thousands, millions, ...

    >>> count(4.19e6)
    '4.19 M'
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if size <= number < 1000 * size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"
