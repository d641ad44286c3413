"""The committed sample of measured kernels and collectives, as arrays."""

import csv
from pathlib import Path

import numpy as np

MEASURED = Path(__file__).parent / "cost" / "data" / "measured_kernels.csv"


def rows(kind, precision=None):
    """Device or node -> one array per size, and the seconds last; of one precision, if given."""
    lines = [line for line in MEASURED.read_text().splitlines() if not line.startswith("#")]
    found = {}
    for row in csv.DictReader(lines):
        if row["kind"] == kind and precision in (None, row["precision"]):
            sizes = [float(word) for word in row["sizes"].split()]
            found.setdefault(row["device"], []).append([*sizes, float(row["seconds"])])
    return {name: np.array(each).T for name, each in found.items()}
