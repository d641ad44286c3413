"""Seconds of the optimizer opened up: on the device, in the host's memory, and what its disks take longer."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.cost.origins import constant, of_memory, of_stack
from penstock.predict.after import DISK_WAIT, update_bytes
from penstock.predict.disk import moved_bytes, rates
from penstock.predict.figure import Figure
from penstock.predict.host import state_bytes
from penstock.predict.step import Step
from penstock.units import human_bytes, human_s


def updates(step: Step, r: int) -> Iterator[Figure]:
    """Give the seconds of a pipeline rank's updates, by where they are made."""
    rank, own, each = step.rank, float(step.owned[r]), update_bytes(step.rank)
    more = {
        "on the device": of_memory(rank.device),
        "on the host": [constant("host", "optimizer_share"), of_stack(rank.stack, "reduced_bytes")],
    }
    for name, where in more.items():
        if name in step.updates_s:
            yield Figure(
                name=name, value=float(step.updates_s[name][r]), unit="s",
                how=f"{own:,.4g} parameters, {each:g} bytes read and written for each",
                facts={"parameters": own, "bytes_of_each": each},
                constants=(*where, of_stack(rank.stack, "optimizer_bytes")),
            )  # fmt: skip
    if DISK_WAIT in step.updates_s:
        yield _disks(step, r)


def _disks(step: Step, r: int) -> Figure:
    """What disks take longer with than the host's memory."""
    rank, own, each_s = step.rank, float(step.owned[r]), float(step.updates_s[DISK_WAIT][r])
    moved, rate = moved_bytes(rank, state_bytes(rank) * own, own), rates(rank.cluster.node_of(0))
    whole_s = sum(size / per_s for size, per_s in zip(moved, rate, strict=True))
    words = (f"{human_bytes(size)} at {per_s / 1e9:.4g} GB/s" for size, per_s in zip(moved, rate, strict=True))
    return Figure(
        name=DISK_WAIT, value=each_s, unit="s",
        how=f"reading {' and writing '.join(words)} takes {human_s(whole_s)}, part of it beside the update",
        facts={"read_bytes": float(moved[0]), "written_bytes": float(moved[1]), "whole_s": float(whole_s)},
        constants=(constant("disk", "gradient_bytes"),),
    )  # fmt: skip
