"""Published laws of batch and learning rate: what each says of a training, and which one is taken where nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from math import isfinite, log, prod
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.tables import read_toml
from penstock.core.words import all_divisors

OVER = "over-training"
"""The law of tokens; its ``tokens`` are what others are held against."""
CRITICAL = "critical-batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Powers of quantities, each over what it is counted ``per``, times a scale and a unit; at most ``most``.

    >>> round(Power(scale=2.0, powers={"tokens": 0.5}, per={"tokens": 1e6}, unit=512).of({"tokens": 4e6}))
    2048
    """

    scale: float
    powers: Mapping[str, float]
    per: Mapping[str, float] = field(default_factory=dict)
    unit: float = 1.0
    most: float = float("inf")

    def of(self, quantities: Mapping[str, float]) -> float:
        """Return the value for these quantities."""
        each = ((quantities[name] / self.per.get(name, 1)) ** power for name, power in self.powers.items())
        value: float = self.unit * self.scale * prod(each)
        return min(self.most, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """One law: its source, within which quantities it was found, and what it gives (tokens of a batch, or a rate).

    ``more``: share of tokens that the same loss takes more at that batch than at small ones.
    """

    name: str
    source: str
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    batch: Power | None = None
    rate: Power | None = None
    tokens: Power | None = None
    more: float = 0.0

    def beyond(self, quantities: Mapping[str, float]) -> dict[str, float]:
        """Return each quantity outside of its range, as a multiple of the nearer end."""
        found = {}
        for name, (low, high) in self.within.items():
            value = quantities[name]
            if not low <= value <= high:
                found[name] = value / (low if value < low else high)
        return found

    def distance(self, quantities: Mapping[str, float]) -> float:
        """Return how far outside of its range quantities lie: the sum of logarithms of those multiples; 0 within."""
        return sum(abs(log(times)) for times in self.beyond(quantities).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one law says: tokens of a batch and a learning rate, ``None`` where it says none; ``beyond`` its range."""

    law: Law
    batch_tokens: float | None
    rate: float | None
    beyond: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested:
    """A batch and a learning rate to begin with.

    Args:
        batch: sequences per step.
        rate: the learning rate of Adam at its highest.
        law: whose they are: of those that say both, the one whose range is nearest.
        taken_tokens: of a step by that law, not rounded.
        tokens: of the whole training; ``assumed`` where nobody gave them.
        over: the same over 20 a parameter.
        said: what all laws say.
    """

    batch: int
    rate: float
    law: str
    taken_tokens: float
    tokens: float
    assumed: bool
    over: float
    said: tuple[Said, ...]

    @property
    def critical_tokens(self) -> float:
        """Tokens of a batch beyond which more of them save less and less steps."""
        return next(one.batch_tokens for one in self.said if one.law.name == CRITICAL and one.batch_tokens)

    def more(self, batch_tokens: float) -> float:
        """Share of tokens that the same loss takes more with steps of so many than with small ones.

        It grows with the batch (McCandlish et al. 2018, arXiv:1812.06162: examples are 1 + batch / noise scale times
        the fewest), from what it is by definition at the critical one.
        """
        return laws()[CRITICAL].more * batch_tokens / self.critical_tokens


@cache
def laws() -> Mapping[str, Law]:
    """Return the laws of ``data/laws.toml`` by name."""
    table = read_toml(files("penstock") / "data" / "laws.toml")
    return {name: _law(name, given) for name, given in table.items()}


def _law(name: str, given: Mapping[str, Any]) -> Law:
    powers = {kind: Power(**given[kind]) for kind in ("batch", "rate", "tokens") if kind in given}
    within = {quantity: (float(low), float(high)) for quantity, (low, high) in given.get("within", {}).items()}
    return Law(name=name, source=given["source"], within=within, more=given.get("more", 0.0), **powers)


def suggested(model: Architecture, seq: int, devices: int, tokens: float | None = None) -> Suggested:
    """Return the batch and the learning rate that published laws suggest for a pre-training.

    The batch is rounded to a divisor of the devices, or to 1, 2, 3, 4, 6, 8, 12, ... times as many.

    Args:
        model: what is trained; laws count it without embedding and head.
        seq: tokens of a sequence.
        devices: that share the batch.
        tokens: of the whole training; 20 an active parameter if left out.

    Raises:
        ValueError: a number is not above 0.

    >>> from penstock.core.config import gpt
    >>> found = suggested(gpt(layers=16, hidden=2048, heads=16, vocab=65536), seq=2048, devices=64, tokens=1e11)
    >>> found.batch, f"{found.rate:.1e}", found.law
    (512, '1.9e-03', 'step-law')
    """
    if seq < 1 or devices < 1 or (tokens is not None and not (isfinite(tokens) and tokens > 0)):
        raise ValueError(f"seq={seq}, devices={devices}, tokens={tokens}: give numbers above 0")
    known = laws()
    usual = known[OVER].tokens
    assert usual is not None
    enough = usual.of({"parameters": model.active_parameters})
    whole = enough if tokens is None else float(tokens)
    quantities = quantities_of(model, seq, whole)
    both = [(law, law.batch, law.rate) for law in known.values() if law.batch and law.rate]
    best, sizes, rates = min(both, key=lambda each: each[0].distance(quantities))
    taken = sizes.of(quantities)
    batch = rounded(taken / seq, devices)
    quantities["batch"] = batch * seq
    said = tuple(_said(law, quantities) for law in known.values() if law.name != OVER)
    return Suggested(
        batch=batch,
        rate=rates.of(quantities),
        law=best.name,
        taken_tokens=taken,
        tokens=whole,
        assumed=tokens is None,
        over=whole / enough,
        said=said,
    )


def _said(law: Law, quantities: Mapping[str, float]) -> Said:
    batch, rate = (None if power is None else power.of(quantities) for power in (law.batch, law.rate))
    return Said(law=law, batch_tokens=batch, rate=rate, beyond=law.beyond(quantities))


def quantities_of(model: Architecture, seq: int, tokens: float) -> dict[str, float]:
    """Return what laws count: parameters without embedding and head, tokens, and FLOPs of a training.

    FLOPs of a token: 6 a parameter that works on it, and 12 x layers x hidden x seq for attention (arXiv:2401.02954).
    """
    ends = model.embedding.parameters + model.head.parameters
    each = 6 * (model.active_parameters - ends) + 12 * model.layers * model.hidden * seq
    return {"parameters": float(model.parameters - ends), "tokens": tokens, "compute": each * tokens}


def rounded(sequences: float, devices: int) -> int:
    """Return what divides the devices, or is 1, 2, 3, 4, 6, 8, 12, ... times as many, nearest in proportion.

    >>> rounded(900, 128), rounded(100, 128), rounded(5, 24)
    (1024, 128, 6)
    """
    choices = all_divisors(devices)
    times = 1
    while choices[-1] < sequences:
        times *= 2
        choices += [devices * times] if times == 2 else [devices * times * 3 // 4, devices * times]
    return min(choices, key=lambda size: abs(log(size / sequences)))
