"""Seconds of the optimizer opened up: on the device, and in the host's memory."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.cost.origins import constant, of_memory, of_stack
from penstock.predict.after import update_bytes
from penstock.predict.figure import Figure
from penstock.predict.step import Step


def updates(step: Step, r: int) -> Iterator[Figure]:
    """Give the seconds of a pipeline rank's updates, by where they are made."""
    rank, own, each = step.rank, float(step.owned[r]), update_bytes(step.rank)
    more = {
        "on the device": of_memory(rank.device),
        "on the host": [constant("host", "optimizer_share"), of_stack(rank.stack, "reduced_bytes")],
    }
    for name, seconds in step.updates_s.items():
        yield Figure(
            name=name, value=float(seconds[r]), unit="s",
            how=f"{own:,.4g} parameters, {each:g} bytes read and written for each",
            facts={"parameters": own, "bytes_of_each": each},
            constants=(*more[name], of_stack(rank.stack, "optimizer_bytes")),
        )  # fmt: skip
