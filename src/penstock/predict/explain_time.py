"""Seconds of a step opened up: parts, kinds of blocks, operators, phases; each sum is that of the step itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from penstock.core.architecture import Block
from penstock.core.mesh import replicas
from penstock.core.op import Kind
from penstock.core.parts import Experts
from penstock.cost.origins import Constant, constant, of_memory, of_stack
from penstock.cost.passes import CLASSES
from penstock.predict.after import hides
from penstock.predict.explain_blocks import Mine, blocks_of
from penstock.predict.explain_kernels import (
    PHASES,
    Kernel,
    cast_constants,
    kernels_of,
    kernels_of_end,
    lasting_constants,
)
from penstock.predict.explain_messages import collective_constants, links, messages_of
from penstock.predict.explain_update import updates
from penstock.predict.figure import Figure, total
from penstock.predict.host import away_bytes, copy_rate, copy_s
from penstock.predict.launching import launching
from penstock.predict.micro import Rank
from penstock.predict.part import Part, overlap
from penstock.predict.parts import added_s
from penstock.predict.step import Step
from penstock.predict.works import end_work
from penstock.units import human_bytes, human_s


class Opened:
    """A step and the rank of its pipeline that ends last, whose seconds are opened."""

    def __init__(self, step: Step) -> None:
        self.step, self.rank, self.setup, self.stack, self.r = step, step.rank, step.setup, step.stack, step.slowest
        self.seconds = float(step.seconds[self.r])

    def time(self) -> Figure:
        """Return the seconds of the step as a tree."""
        values = self.step.parts(self.r, self.seconds)
        parts = tuple(self._part(name, value) for name, value in values.items())
        how = f"of pipeline rank {self.r}, which ends last; its parts add up to the step"
        return Figure(name="step", value=self.seconds, unit="s", parts=parts, how=how)

    def _part(self, name: str, value: float) -> Figure:
        axis = name.removesuffix(" parallel messages")
        if axis != name:
            return Figure(name=name, value=value, unit="s", parts=tuple(self._messages(axis)))
        make: dict[str, Callable[[], Iterable[Figure]]] = {
            "blocks": self._device,
            "recompute": self._again,
            "embedding and head": self._ends,
            "waiting for launches": self._waits,
            "copies to the host": self._copies,
            "gathering weights": self._gathers,
            "bubble": self._bubble,
            "gradients and weights": self._sums,
            "optimizer": lambda: updates(self.step, self.r),
        }
        if name in make:
            return Figure(name=name, value=value, unit="s", parts=tuple(part for part in make[name]() if part.value))
        return Figure(name=name, value=value, unit="s", **self._plain()[name])

    # -- what blocks do

    def _each(self) -> Iterator[Mine]:
        yield from blocks_of(self.step, self.r)

    def _device(self) -> Iterable[Figure]:
        for mine in self._each():
            rank, work, times = mine.rank, mine.work, mine.times
            added = adding(rank, work, rank.bits_in(mine.block), times)
            yield total(
                mine.name, "s", [*operators(rank, kernels_of(rank, mine.block), times), added],
                how=mine.often, facts={"blocks": mine.blocks, "error_s": mine.part.error_s},
            )  # fmt: skip

    def _again(self) -> Iterable[Figure]:
        for mine in self._each():
            rank, part, times = mine.rank, mine.part, mine.times
            some = [kernel for kernel in kernels_of(rank, mine.block) if kernel.again]
            found = operators(rank, some, times)
            host_s = times * part.again_s - sum(figure.value for figure in found)
            how = "what launches by the host add to the device's time"
            if abs(host_s) > 1e-9 * times * part.again_s:
                found.append(Figure(name="waiting for launches", value=host_s, unit="s", how=how,
                                    constants=self._launching(part, mine.block)))  # fmt: skip
            yield total(mine.name, "s", found, how=mine.often)

    def _waits(self) -> Iterable[Figure]:
        for mine in self._each():
            (f, i, w, _), sums = mine.work.launches, mine.rank.summed(mine.block)[1]
            facts = {"launches_forward": f + sums, "launches_backward": i + w + sums}
            counts = self.stack.counting if isinstance(mine.block.mlp, Experts) and not self.setup.graphs else ()
            forward_s, backward_s = self.rank.launches_s
            each = human_s(forward_s) + (f" and {human_s(backward_s)}" if backward_s != forward_s else "")
            how = f"what launches of {each} add to the device's time" + (", and counts of tokens" if counts else "")
            yield total(
                mine.name, "s", waits(mine.part, mine.times), how=how,
                facts=facts | {"launch_s": forward_s, "launch_backward_s": backward_s},
                constants=(*self._launching(mine.part, mine.block), *self._of(*counts)),
            )  # fmt: skip

    def _copies(self) -> Iterable[Figure]:
        rate = copy_rate(self.rank.cluster.node_of(0))
        for mine in self._each():
            size, each_s = away_bytes(mine.rank, mine.block), copy_s(mine.rank, mine.block)
            how = f"{human_bytes(size)} of a block take {human_s(each_s)} each way, at {rate / 1e9:.4g} GB/s"
            how += f"; what its passes do not hide; {mine.often}"
            parts = (("forward", "backward"), mine.part.copies_s)
            yield total(
                mine.name, "s",
                [Figure(name=name, value=mine.times * s, unit="s") for name, s in zip(*parts, strict=True) if s],
                how=how, facts={"bytes": size, "each_s": each_s}, constants=(constant("host", "copy_share"),),
            )  # fmt: skip

    def _messages(self, axis: str) -> Iterable[Figure]:
        bytes_of, group, words, shown = messages_of(self.rank, axis)
        for mine in self._each():
            full = mine.rank.setup.recompute == "full"
            size, again = bytes_of(mine.block), ", and once more by recompute" if full else ""
            yield Figure(
                name=mine.name, value=mine.times * mine.part.messages_s.get(axis, 0.0), unit="s",
                how=f"{words.format(human_bytes(size))}{again}; the part that nothing hides; {mine.often}",
                facts={"bytes": size, "links": links(group)}, constants=(*collective_constants(), *self._of(*shown)),
            )  # fmt: skip

    def _ends(self) -> Iterable[Figure]:
        rank, micros = self.rank, self.setup.micros
        shares: dict[str, float] = defaultdict(float)
        for stage in self.step.on[self.r]:
            for which, share in self.step.end_shares(stage):
                shares[which] += share
        for which, share in shares.items():
            part, times = self.step.ends[which], micros * share
            low = rank.bits_in_end(which)
            work = end_work(rank.model, rank.batch_of_end(which), which, rank.device, low, rank.wide)
            sums = Figure(name="tensor parallel messages", value=times * sum(part.messages_s.values()), unit="s",
                          how=f"all-reduce of {human_bytes(rank.row_bytes)}", facts={"links": links(rank.tensor)},
                          constants=(*collective_constants(), *self._of("tp_shown")))  # fmt: skip
            found = operators(rank, kernels_of_end(rank, which), times)
            late = Figure(name="waiting for launches", value=times * part.host_s, unit="s",
                          constants=self._launching(part), parts=tuple(waits(part, times)))  # fmt: skip
            yield total(which, "s", [*found, adding(rank, work, low, times), sums, late])

    # -- what the pipeline and the step do

    def _gathers(self) -> Iterable[Figure]:
        own = self.setup.overlap == "own"
        asked = "" if own else f", with overlap={self.setup.overlap}"
        slows = ("fsdp_shown",) * (self.setup.overlap != "none")
        beyond = " or its disks" * self.setup.on_disk("weight_offload")
        away = f"copies to and from the host{beyond} where they take longer, " * bool(self.setup.weight_offload)
        for name, seconds in zip(("forward", "backward"), self.step.gathers_s, strict=True):
            value = self.setup.micros * float(seconds[self.step.on[self.r]].sum())
            yield Figure(
                name=name, value=value, unit="s",
                how=f"{away}gathers of weights, sums of gradients that nothing hides, and what they slow{asked}",
                facts={"links": links(self.rank.group(replicas(self.setup).part(self.setup.sharded)))},
                constants=(*collective_constants(), *self._of(*slows, "reduced_bytes")),
            )  # fmt: skip

    def _bubble(self) -> Iterable[Figure]:
        first_s, own_s = float(self.step.timeline.first_s[self.r]), self._busy_s()
        first = "until the first micro-batch is there"
        yield Figure(name="before the first op", value=first_s, unit="s", how=first)
        rest_s = float(self.step.timeline.last_s[self.r]) - own_s - first_s
        yield Figure(name="between ops", value=rest_s, unit="s", how="for other ranks, and their messages")

    def _busy_s(self) -> float:
        seconds = self.step.op_s[[Kind.F, Kind.B]][:, self.step.on[self.r]]
        return self.setup.micros * float(seconds.sum())

    def _sums(self) -> Iterable[Figure]:
        for one in self.step.sums:
            width = () if one.kind == "all_gather" else ("reduced_bytes",)
            whole, size = (float(column[self.r]) for column in (one.whole_s, one.whole_bytes))
            hidden = hides(self.setup, one.name.partition(",")[0])
            shown = (
                "what the backward does not hide of it" if hidden else f"all of it shows: overlap={self.setup.overlap}"
            )
            yield Figure(
                name=one.name, value=float(one.shown_s[self.r]), unit="s",
                how=f"{one.kind} of {human_bytes(size)} takes {human_s(whole)}; {shown}",
                facts={"bytes": size, "whole_s": whole, "links": links(self.rank.group(one.row))},
                constants=(*collective_constants(), *self._of(*("dp_hidden", "dp_most") * hidden, *width)),
            )  # fmt: skip

    def _plain(self) -> dict[str, dict[str, Any]]:
        """What is one product of a few numbers."""
        setup, size, parts = self.setup, self.rank.boundary_bytes, self.rank.boundary_parts
        hops = 2 * setup.chunks * setup.micros
        whole = f"{human_bytes(size)} in {parts} parts" if parts > 1 else human_bytes(size)
        return {
            "between stages": {
                "how": f"{hops} messages of {whole}, {human_s(self.rank.next_stage_s)} each; what shows",
                "facts": {"messages": hops, "bytes": size, "parts": parts, "each_s": self.rank.next_stage_s},
                "constants": (*collective_constants(), *self._of("p2p_shown")),
            },
            "host per micro-batch": {"how": f"{setup.micros} micro-batches", "constants": self._of("micro_s")},
            "host per step": {"how": "norms, losses, data", "constants": self._of("step_s")},
        }  # fmt: skip

    def _launching(self, part: Part, block: Block | None = None) -> tuple[Constant, ...]:
        adds = () if self.rank.device.is_cpu else (constant("host", overlap(bool(part.messages_s))),)
        routed = block is not None and isinstance(block.mlp, Experts)
        return *adds, *self._of(*launching(self.setup, self.stack, routed))

    def _of(self, *names: str) -> tuple[Constant, ...]:
        return tuple(of_stack(self.stack, name) for name in names)


def operators(rank: Rank, kernels: Sequence[Kernel], times: float) -> list[Figure]:
    """Return a figure for each operator, with its phases, done ``times`` a step."""
    names = dict.fromkeys(kernel.operator.name for kernel in kernels)
    return [
        total(name, "s", _phases(rank, [each for each in kernels if each.operator.name == name], times))
        for name in names
    ]


def _phases(rank: Rank, kernels: Sequence[Kernel], times: float) -> Iterable[Figure]:
    seen: Counter[str] = Counter()
    for kernel in kernels:
        phase = PHASES[kernel.operator.phase]
        seen[phase] += 1
        name = phase if seen[phase] == 1 else f"{phase} {seen[phase]}"
        yield Figure(
            name=name, value=times * kernel.seconds, unit="s", how=f"{kernel.how}; {times:,.7g} times",
            facts=facts_of(kernel, times), constants=kernel.constants,
        )  # fmt: skip
        if kernel.cast_s:
            yield Figure(name=f"cast, {name}", value=times * kernel.cast_s, unit="s",
                         how=f"its operand to {rank.low}, {human_s(kernel.cast_s)}; {times:,.7g} times",
                         constants=cast_constants(rank))  # fmt: skip


def facts_of(kernel: Kernel, times: float) -> dict[str, Any]:
    """Return what is known of a kernel, by name."""
    op = kernel.operator
    return {
        "kind": op.kind, "shape": kernel.shape, "precision": kernel.precision, "flops": op.needed_flops,
        "bytes": kernel.moved_bytes, "launches": op.launches, "times": times, "alone_s": kernel.alone_s,
        "each_s": kernel.seconds, "error": kernel.error, "bound": kernel.bound, "bounds_s": kernel.bounds_s,
        "of_peak": kernel.reached,
    }  # fmt: skip


def adding(rank: Rank, work: Any, low: str, times: float) -> Figure:
    """Return the seconds of adding gradients to those of micro-batches before."""
    share = float(rank.lasting(low, 1.0)[CLASSES.index("memory")])
    seconds = float(added_s([rank], [work])[0]) / share
    names = ("passing_bytes", rank.stack.sums_in(rank.setup.precision), "turns_gradients")
    widths = (of_stack(rank.stack, name) for name in names)
    made = (*of_memory(rank.device), *lasting_constants(rank, "memory", low), *widths)
    how = f"{work.weights:,.4g} elements of gradients, but for the first micro-batch"
    return Figure(name="adding gradients", value=times * seconds, unit="s", how=how, constants=made)


def waits(part: Part, times: float) -> list[Figure]:
    """Return in which directions a device waits for its host."""
    each = zip(("forward", "backward"), part.waits_s, strict=True)
    return [Figure(name=name, value=times * seconds, unit="s") for name, seconds in each if seconds]
