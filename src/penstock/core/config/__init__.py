"""What the configs of decoder-only models say: by family, to an ``Architecture``; and models from numbers."""

from penstock.core.config.numbers import gpt
from penstock.core.config.read import architecture_from_config, catalogue, read_architecture

__all__ = ["architecture_from_config", "catalogue", "gpt", "read_architecture"]
