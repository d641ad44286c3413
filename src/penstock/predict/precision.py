"""Precisions on a device: that of products inside blocks, that of all else, and the recipe of the first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.device import Device
from penstock.core.recipes import Recipe, bits_of, check_recipe, recipe_of, wide_on
from penstock.core.setup import Setup
from penstock.cost.passes import CAST, LOW_PRODUCT
from penstock.predict.widened import low_shares

KEPT_BYTES = {"fp8": 1.0, "fp4": 0.56}
"""Of an element that a product in low precision keeps of its input, where no recipe says so: blocks of 16 share a scale
of 8 bits in fp4."""


class Precision(NamedTuple):
    """What a device computes in, where a setup asks for ``asked``: ``low`` bits of products inside blocks, ``wide`` of
    all else; and the recipe, if one is named."""

    asked: str
    low: str
    wide: str
    recipe: Recipe | None

    @classmethod
    def on(cls, device: Device, setup: Setup) -> Precision:
        """As a setup asks for it.

        Raises:
            ValueError: the device has no such recipe.
        """
        has = device.matrix_flops
        check_recipe(setup.precision, device.name, device.architecture, has)
        bits, wide = bits_of(setup.precision), wide_on(setup.precision, has)
        return cls(bits, bits if bits in has else wide, wide, recipe_of(setup.precision))

    @property
    def kept_bytes(self) -> float | None:
        """Of an element that a product keeps of its input, ``None`` for those of the input itself."""
        return self.recipe.value_bytes if self.recipe else KEPT_BYTES.get(self.low)

    def stand_ins(self, device: Device) -> frozenset[str]:
        """What is predicted in place of a precision that the device has not, in words."""
        there = self.asked in device.matrix_flops
        return frozenset() if there else frozenset({f"{self.low} stands for {self.asked}"})

    def gathered_bytes(self, model: Architecture, low_weights: bool, width_bytes: float) -> tuple[float, float]:
        """Of a weight as ZeRO gathers it, the mean over the model: of all but experts, and of experts."""
        if not low_weights or self.recipe is None:
            return width_bytes, width_bytes
        narrower = self.recipe.value_bytes - width_bytes
        dense, experts = (width_bytes + share * narrower for share in low_shares(model))
        return dense, experts


def slow_down(lasting: NDArray[np.float64], recipe: Recipe | None, device: Device) -> None:
    """Change the shares of rates that last, of each of ``CLASSES``, to those with a recipe, in place."""
    if recipe is not None:
        lasting[CAST] /= recipe.casts(device.architecture)
        lasting[LOW_PRODUCT] *= recipe.rate(device.architecture)
