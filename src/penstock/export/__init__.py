"""Plans for other systems, and from them."""

from penstock.export.torch_csv import read_csv, to_csv
from penstock.export.torch_rules import torch_problems

__all__ = ["read_csv", "to_csv", "torch_problems"]
