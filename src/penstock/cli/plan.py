"""The command ``penstock plan``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from penstock.cli.asks import NO_ASKS, Asks, answer, machines_of, refuse, training_of
from penstock.cli.plan_ask import question
from penstock.cli.predict import READ_COUNT, READ_LENGTH
from penstock.cli.special import NOT_SPECIAL, Special

Words = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
Clusters = Annotated[list[str], Parameter(name=("--cluster", "--clusters"), negative="")]
Rents = Annotated[tuple[float, ...], Parameter(negative="", show_default=False)]


def plan(
    *,
    model: str | None = None,
    cluster: Clusters,
    seq: Annotated[int | None, READ_LENGTH] = None,
    batch: str | None = None,
    framework: str | None = None,
    tokens: Annotated[float | None, READ_COUNT] = None,
    fix: Words = (),
    exclude: Words = (),
    precision: str | None = None,
    why: str | None = None,
    top: int = 20,
    headroom: float = 0.05,
    usd_per_hour: Rents = (),
    what_if: Annotated[bool, Parameter(negative="")] = False,
    asks: Annotated[Asks, Parameter(name="*")] = NO_ASKS,
    solve: float | None = None,
    order: Path | None = None,
    json: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    start: Annotated[Path | None, Parameter(name="--from")] = None,
    export: Annotated[list[str] | None, Parameter(negative="")] = None,
    pareto: Annotated[bool, Parameter(negative="")] = False,
    report: Annotated[list[Path] | None, Parameter(negative="")] = None,
    special: Special = NOT_SPECIAL,
) -> None:
    """Plan a training: the fastest strategies that fit, why others lost, and what they take.

    Args:
        model: as for penstock predict; left out, that of --from.
        cluster: as for penstock predict; several, with commas or repeated, are compared.
        seq: tokens of a sequence, 8k for 8,192; left out, those of --from.
        batch: sequences per step, of all ranks together, or several to choose from, as 512..2048 or 512/1024; left out,
            those of --from, else what published laws suggest.
        framework: as for penstock predict; left out, that of --from, else megatron-core.
        tokens: of the whole training, for its time and cost; for example 15T.
        fix: values that fields may have, for example tp=8,pp=4..16,recompute=none/full; all else is free.
        exclude: values that fields may not have, for example schedule=zb-v,tp=1.
        precision: of products, for example mxfp8; several, as bf16/fp8-current, or any are each planned by themselves,
            with what was published of their results [default: bf16, or that of --from].
        why: a choice of your own, for example tp=8,pp=4, to set beside the best.
        top: how many strategies are listed.
        headroom: share of a device's memory that stays free.
        usd_per_hour: rent of one node, in place of the catalogue's; of several clusters once for all, or once each.
        what_if: also plan on faster links and products, with more memory, longer sequences, more nodes, a slow rank.
        solve: seconds for better orders of passes of the best with a pipeline, for frameworks that run any order.
        order: write the best of these orders as a plan (.json or .txt) that penstock simulate and run read.
        json: print all figures as one JSON object in place of the text, or write them to a file beside it.
        start: a file of another framework, as for penstock predict: its setup is set beside the best, with what to
            change.
        export: write the best strategy as for penstock predict; may be repeated.
        pareto: also weigh time against memory of a device, number of devices, and cost.
        report: write all of it and where the time goes as one page (.html), or as .txt or .json; may be repeated.
    """
    from penstock.cli.export import checked
    from penstock.cli.json import json_file
    from penstock.cli.plan_usual import Usual, usual_answer
    from penstock.cli.predict import check_tokens
    from penstock.cli.report import report_files
    from penstock.cli.special import only_usual, special_answer, special_of
    from penstock.search.numbers import ANY, several

    check_tokens(tokens)
    fix = (*fix, f"precision={precision.replace(',', '/')}") if precision else fix
    rented, kind = machines_of(cluster, usd_per_hour), special_of(special)
    more = {"why": why, "what-if": what_if, "pareto": pareto, "report": report, "from": start}
    more |= {"solve": solve is not None, "order": order}
    if asks != NO_ASKS or len(rented) > 1:
        refuse(more | {kind: kind})
        training = training_of(model, framework, seq, batch, tokens, fix, exclude, top, headroom)
        return answer(asks, training, rented, json, export)
    json_file(json)
    usual = Usual(
        why=why, top=top, headroom=headroom, what_if=what_if, solve=solve, order=order, json=json,
        export=checked(export, [*(json or []), *(report or [])]), pareto=pareto, report=report_files(report),
    )  # fmt: skip
    ((name, machines),) = rented.items()
    flags = {"model": model, "cluster": name, "framework": framework, "seq": seq, "batch": batch, "tokens": tokens}
    ask = question(flags, machines, start, fix, exclude)
    if precision == ANY and not several(ask.space.fixed):
        what = f"{ask.space.stack.name} has no recipe of 8 or 4 bits for {ask.space.cluster.device.name}"
        print(f"penstock: {what}; planned in {ask.space.base.precision}", file=sys.stderr)
    if kind:
        only_usual(special, ask, more | {"export": export})
        return special_answer(special, ask.space, ask.asked, top=top, headroom=headroom, json=json)
    return usual_answer(ask, usual)
