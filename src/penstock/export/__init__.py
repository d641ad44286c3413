"""Plans for other systems, and from them."""

from penstock.export.torch_csv import read_csv, to_csv

__all__ = ["read_csv", "to_csv"]
