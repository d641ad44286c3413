"""What the configs of decoder-only models say: by family, to an ``Architecture``; and models from numbers."""

from penstock.core.config.described import Described, described
from penstock.core.config.numbers import gpt
from penstock.core.config.read import architecture_from_config, catalogue, read_architecture

__all__ = ["Described", "architecture_from_config", "catalogue", "described", "gpt", "read_architecture"]
