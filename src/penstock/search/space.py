"""The noun ``Space``: all strategies for a model, machines and a batch, but for those that were excluded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.filling import filling
from penstock.core.mesh import ORDER
from penstock.core.mixers import Attention
from penstock.core.setup import FRAMEWORK, Setup
from penstock.core.words import all_divisors
from penstock.cost.stack import Stack
from penstock.cost.stack_file import named
from penstock.predict import Grid
from penstock.predict.disk import check_disk_of
from penstock.predict.grid import COUNTS
from penstock.predict.kept_bytes import check_names
from penstock.predict.micro import Rank
from penstock.schedules import SCHEDULES
from penstock.search import switches
from penstock.search.meshes import check_experts, experts_of, meshes_of
from penstock.search.numbers import asked, several
from penstock.search.offloads import bases
from penstock.search.wishes import COLUMNS, RECOMPUTE, SEARCHED, Wished, Wishes, wishes

SCHEDULES_TRIED = ("1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "interleaved-zb")
"""Unless schedules are fixed: those whose scores are close to their timelines."""
MOST_CHUNKS = 12
LEAST_TOKENS = 1024
"""Of a sequence on one rank of context parallelism, unless ``cp`` is fixed."""
MOST_TOKENS = 65_536
"""Of a micro-batch on one rank, unless ``micro`` is fixed: then it may also be no power of two."""
LONG_TOKENS = 8192
"""Of a sequence on one rank, where a first answer looks at more ranks of context parallelism than two."""
AT_ONCE = 16
"""Splits whose strategies are looked through at once: enough for calls to take little of the time."""
Split = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Space:
    """Strategies to choose from.

    Args:
        model, cluster, stack: what is trained, where, and with which framework.
        base: a setup with all that is not searched.
        fixed: values that searched fields may have; all others are free.
        excluded: values that they may not have.
        used: how many of the cluster's devices are used, the first ones; 0: all.
        usual: values that free fields are kept to, where any of these are free.
    """

    model: Architecture
    cluster: Cluster
    stack: Stack
    base: Setup
    fixed: Wishes
    excluded: Wishes
    used: int = 0
    usual: Wishes = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """Those that strategies take."""
        return self.used or self.cluster.devices

    @property
    def node_devices(self) -> int:
        """Those of the smallest node."""
        return min(node.devices for node, _ in self.cluster.groups)

    @property
    def alone(self) -> str:
        """What the framework splits alone, in words behind others; empty if it lacks no axis."""
        return f", and {self.stack.name} splits {' and '.join(self.stack.axes)} alone" if self.stack.axes else ""

    def values(self, name: str, free: Iterable[Any]) -> list[Any]:
        """Return the values of a field: those fixed, else the free ones that the framework has, and of these the usual
        ones; less those excluded."""
        chosen = dict.fromkeys(self.fixed.get(name, (value for value in free if value not in self.stack.lacks)))
        left = [value for value in chosen if value not in self.excluded.get(name, ())]
        if name in self.fixed or name not in self.usual:
            return left
        return [value for value in left if value in self.usual[name]] or left

    def free(self, name: str) -> bool:
        """Whether nobody fixed a field."""
        return name not in self.fixed

    def bars(self, **values: Any) -> bool:
        """Return whether any of some values is excluded."""
        return bool(self.excluded) and any(value in self.excluded.get(name, ()) for name, value in values.items())

    def splits(self, any_batch: bool = False) -> list[Split]:
        """Return all (tp, cp, pp, dp) that take all devices, and whose ``dp`` divides the batch unless any may."""
        divisors = all_divisors(self.devices)
        longest = max(1, self.base.seq // LEAST_TOKENS)
        ranges = {
            "tp": [d for d in divisors if d <= self.node_devices],
            "cp": [d for d in divisors if (d <= longest and self.base.seq % (2 * d) == 0) or d == 1],
            "pp": [d for d in divisors if d <= self.model.layers],
        }
        found = []
        able = {name: values if self.stack.splits(name) else [1] for name, values in ranges.items()}
        for tp, cp, pp in product(*(self.values(name, free) for name, free in able.items())):
            dp, rest = divmod(self.devices, max(1, tp * cp * pp))
            if (
                rest == 0
                and dp in self.values("dp", (dp,) if self.stack.splits("dp") else (1,))
                and (any_batch or self.base.batch % dp == 0)
            ):
                found.append((tp, cp, pp, dp))
        return found

    def shares(self) -> list[list[Split]]:
        """Return the splits in shares whose work on a micro-batch differs."""
        found: dict[int, list[Split]] = {}
        for split in self.splits():
            found.setdefault(split[0], []).append(split)
        return [*found.values()]

    def offloads(self) -> list[tuple[Space, ...]]:
        """Return the space, or one for each share of what waits in host memory or on disks, as ``bases`` has them."""
        return [tuple(replace(self, base=base) for base in each) for each in bases(self)]

    @property
    def schedules(self) -> tuple[str, ...]:
        """Those of ``SCHEDULES_TRIED`` that the framework has."""
        return tuple(name for name in SCHEDULES_TRIED if name in (self.stack.schedules or SCHEDULES_TRIED))

    def zero_stages(self, pp: int) -> tuple[int, ...]:
        """Stages of ZeRO that the framework has beside so many pipeline ranks; weights wait on hosts with the last."""
        able = self.stack.piped_zero_stages if pp > 1 else self.stack.zero_stages
        return tuple(stage for stage in able if stage == 3 or not self.base.weight_offload)

    def grid(self, splits: Iterable[Split]) -> Grid:
        """Return all strategies of some splits."""
        choices = {
            "schedule": tuple(self.values("schedule", self.schedules)) or ("1f1b",),
            "recompute": tuple(self.values("recompute", RECOMPUTE)),
            "order": tuple(self.values("order", self.stack.orders)),
            **switches.choices(self),
            **{name: tuple(self.values(name, ((),))) for name in COUNTS},
        }
        each, tables = [*splits], [np.zeros((len(COLUMNS), 0), dtype=np.int64)]
        for begin in range(0, len(each), AT_ONCE):
            rows = np.concatenate([self._rows(one, choices) for one in each[begin : begin + AT_ONCE]], axis=1)
            columns = dict(zip(COLUMNS, rows, strict=True))
            tables.append(rows[:, switches.has_sense(self, columns, choices)])
        whole = np.concatenate(tables, axis=1)
        return Grid(self.base, dict(zip(COLUMNS, whole, strict=True)), choices)

    def _rows(self, split: Split, choices: dict[str, tuple[Any, ...]]) -> Any:
        """Columns of all strategies of a split, in the order of ``COLUMNS``, whatever their switches."""
        tp, cp, pp, dp = split
        pipes = self._pipes(pp)
        ways = self.context_ways(tp, cp)
        meshes = meshes_of(self, split, experts_of(self, tp, cp * dp), choices["order"])
        axes = {
            "micro": self._micros(cp, dp),
            "pipe": range(len(pipes)),
            "mesh": range(len(meshes)),
            "zero": self.values("zero", self.zero_stages(pp) if dp * cp > 1 or self.base.weight_offload else (0,)),
            "sp": self.values("sp", (False, True) if tp > 1 and "sp" not in self.stack.lacks else (False,)),
            "context": range(len(ways)),
            "shards": self.values("shards", (0,)),
            "vocabulary": self.values("vocabulary", (0,)),
            **{name: range(len(choices[name])) for name in ("recompute", *switches.TURNED, *COUNTS)},
        }
        at = np.indices([len(axis) for axis in axes.values()]).reshape(len(axes), -1)
        found = {
            name: np.array([*axis], dtype=np.int64)[place] for (name, axis), place in zip(axes.items(), at, strict=True)
        }
        found["schedule"], found["chunks"] = np.array(pipes, dtype=np.int64).reshape(-1, 2)[found["pipe"]].T
        mesh = np.array(meshes, dtype=np.int64).reshape(-1, 3)[found["mesh"]].T
        found["ep"], found["etp"], found["order"] = mesh
        found["cp_heads"], found["cp_inner"] = np.array(ways, dtype=np.int64).reshape(-1, 2)[found["context"]].T
        found |= {name: np.full(at.shape[1], size) for name, size in zip(("tp", "cp", "pp", "dp"), split, strict=True)}
        return np.stack([found[name] for name in COLUMNS])

    def _micros(self, cp: int, dp: int) -> list[int]:
        each = self.base.batch // dp
        most = max(1, MOST_TOKENS * cp // self.base.seq)
        free = [size for size in range(1, min(each, most) + 1) if size & (size - 1) == 0]
        return [size for size in self.values("micro", free) if each % size == 0]

    def context_ways(self, tp: int, cp: int) -> list[tuple[bool, int]]:
        """Return the ways of context parallelism, ``cp_heads`` and ``cp_inner``; for those by heads, all ranks get some
        of keys and values."""
        mixers = (block.attention for block in self.model.kinds())
        kv_heads = [mixer.kv_heads for mixer in mixers if isinstance(mixer, Attention)]
        able = [size for size in range(2, cp + 1) if cp % size == 0 and not any(n % (tp * size) for n in kv_heads)]
        able = able if kv_heads else []
        heads = [way for way in self.stack.context_heads if not way or cp in able] if cp > 1 else [False]
        inner = [0, *(size for size in able if size < cp and self.stack.context_hybrid)]
        chosen = product(self.values("cp_heads", heads), self.values("cp_inner", inner))
        found = [(way, size) for way, size in chosen if not size or not (way or cp % size or size >= cp)]
        return found if self.base.cp_overlap == "own" else [way for way in found if way == (False, 0)]

    def _pipes(self, pp: int) -> list[tuple[int, int]]:
        """Pairs of a place among the schedules and a number of chunks; without a pipeline one is enough."""
        schedules = self.values("schedule", self.schedules)
        if pp == 1:
            plain = "chunks" not in self.fixed or 1 in self.fixed["chunks"]
            return [(schedules.index("1f1b") if "1f1b" in schedules else 0, 1)] if plain else []
        layers = (self.model.layers, self.model.layers + 2)
        even = [v for v in range(3, MOST_CHUNKS + 1) if any(count % (pp * v) == 0 for count in layers)]
        found = []
        for place, name in enumerate(schedules):
            several = SCHEDULES[name].chunks
            least = SCHEDULES[name].least_chunks(pp, 2 * pp)
            free = (least, *(v for v in (2, *even) if v > max(1, least))) if several else (1,)
            if name.startswith("interleaved"):
                free = tuple(v for v in free if v > 1)
            found += [(place, v) for v in self.values("chunks", free)]
        return found

    def typical(self) -> Space:
        """Return a small part of the space, where good strategies are usual: for a first answer."""
        usual: Wishes = {"zero": (1, 2, 3), "recompute": ("none", "full"), "schedule": ("1f1b", "interleaved")}
        long = tuple(2**power for power in range(2, 6) if 2**power * LONG_TOKENS <= self.base.seq)
        usual |= {"cp": (1, 2, *long), "micro": (1, 2), "ep": (1, 8, 64), "order": (ORDER,)}
        return replace(self, usual=usual)

    def check(self) -> None:
        """Do nothing where there are strategies.

        Raises:
            ValueError: there are none; it names the nearest that there would be.
        """
        if self.offloads() and any(len(self.grid([split])) for split in self.splits()):
            return
        sizes = sorted({dp for *_, dp in self.splits(any_batch=True)})
        batch = self.base.batch
        near = min((max(1, round(batch / dp)) * dp for dp in sizes), key=lambda one: abs(one - batch), default=0)
        if near and near != batch:
            raise ValueError(f"batch={batch} is no multiple of a dp that {self.devices} devices leave; use {near}")
        first = {name: values[0] for name, values in self.fixed.items() if len(values) == 1}
        filling(self.devices, **{"seq": self.base.seq, "batch": self.base.batch} | first)
        raise ValueError(
            f"no strategy for {self.devices} devices is left by {_said(self.fixed, self.excluded)}{self.alone}; fix or "
            f"exclude less{', or take another --framework' if self.alone else ''}"
        )


def space_of(
    model: str | Path | Architecture,
    cluster: str | Path | Cluster,
    framework: str | Stack = FRAMEWORK,
    *,
    seq: int,
    batch: int,
    fix: Wished = None,
    exclude: Wished = None,
) -> Space:
    """Return what ``plan`` chooses from, with its arguments.

    Raises:
        ValueError: a name is unknown, a field that is not searched has several values, or the batch cannot be.
    """
    architecture = model if isinstance(model, Architecture) else model_of(str(model))
    machines = cluster if isinstance(cluster, Cluster) else Cluster.read(cluster)
    software = framework if isinstance(framework, Stack) else named(framework)
    fixed, excluded = asked(wishes(fix), machines.device, software), wishes(exclude)
    single = {name: values for name, values in fixed.items() if name not in SEARCHED}
    for name, values in (*single.items(), *((n, v) for n, v in excluded.items() if n not in SEARCHED)):
        if (len(values) > 1 and name not in several(fixed)) or name in excluded:
            raise ValueError(f"{name}={'/'.join(map(str, values))}: {name} is not searched; fix one value of it")
    usual = {name: value for name, value in software.usual.items() if name not in SEARCHED}
    usual |= {name: values[0] for name, values in single.items()}
    usual |= {name: fixed.get(name, (0.0,))[0] for name in ("offload", "optimizer_offload", "weight_offload")}
    base = Setup(seq=seq, batch=batch, **usual)
    check_experts(architecture, fixed)
    switches.check_fixed(software, base, fixed)
    for disk in fixed.get("disk", ()):
        check_disk_of(software, machines, disk)
    for named_one in [{}, *({name: one} for name in ("recompute", "offload") for one in fixed.get(name, ()))]:
        check_names(Rank(architecture, machines, replace(base, **named_one), software))
    searched = {name: values for name, values in fixed.items() if name in SEARCHED} | several(fixed)
    return Space(architecture, machines, software, base, searched, excluded)


def _said(fixed: Wishes, excluded: Wishes) -> str:
    words = [f"{name}={'/'.join(map(str, values))}" for name, values in fixed.items()]
    words += [f"no {name}={'/'.join(map(str, values))}" for name, values in excluded.items()]
    return ", ".join(words) or "the model and the batch"
