"""Rows as a GPU would give them, from known levels."""

from penstock.calibrate.shapes import products, sizes
from penstock.core.device import device
from penstock.cost.bounds import matmul_bound_s

LEVEL, RATE, FLOOR_S = 0.7, 2.6e12, 2e-6


def rows(name="NVIDIA H100 80GB HBM3", model="h100"):
    chip = device(model)
    facts = {"part": "facts", "type": "cuda", "device": name, "ranks": 1, "threads": 1, "date": "2026-11-26 04:00 UTC"}
    facts |= {"memory_bytes": 85_000_000_000, "host_memory_bytes": 1 << 37, "units": 132, "cache_bytes": 50 << 20}
    facts |= {"capability": "9.0", "torch": "2.11.0+cu130", "clock_khz": 1_980_000}
    found = [facts]
    shapes = products(2e13, large=True)
    bounds_s = matmul_bound_s(chip, "bf16", *([shape[side] for shape in shapes] for side in (2, 3, 4)))
    for shape, bound_s in zip(shapes, bounds_s.tolist(), strict=True):
        seconds = bound_s / LEVEL + FLOOR_S
        found.append({"part": "matmul", "precision": "bf16", **shape._asdict(), "spread": 0.01, "seconds": seconds})
    for size in sizes(1 << 16, 1 << 30):
        row = {"part": "memory", "kind": "copy", "precision": "bf16", "moved_bytes": 2 * size, "kernels": 1}
        found.append({**row, "seconds": 2 * size / RATE + FLOOR_S})
    found += [
        {"part": "transfer", "way": way, "bytes": size, "seconds": 1e-5 + size / 5e10}
        for size in (1 << 16, 1 << 26)
        for way in ("to_device", "both")
    ]
    found.append({"part": "attention", "precision": "bf16", "seq": 4096, "failed": "OutOfMemoryError: CUDA"})
    return found
