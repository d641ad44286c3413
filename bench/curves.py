"""How well a few measured products predict all others: curves through some shapes of tables measured on GPUs.

For each GPU of the wheel aiconfigurator-core (pip install --no-deps aiconfigurator-core, and pyarrow), shapes of
training in BF16 (m, n and k from 512, m up to 16384) are drawn at random; a curve through them predicts 3,000 others.
Mean relative errors in percent, over three draws: of the level of the catalogue, of a level and a floor fitted to the
drawn shapes, of the curve, and what the curve says its error is.

    PYTHONPATH=FOLDER_OF_THE_WHEEL:src python bench/curves.py [--shapes 50]
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from penstock.calibrate import measured
from penstock.core.device import Device, device
from penstock.cost.bounds import matmul_bound_s
from penstock.cost.curves import fitted
from penstock.cost.kernels import matmul

Floats = npt.NDArray[np.float64]


def off(predicted: Floats, seconds: Floats) -> float:
    return float(np.mean(np.abs(predicted / seconds - 1))) * 100


def errors(chip: Device, sizes: Floats, seconds: Floats, count: int, draw: int) -> list[float]:
    """The four errors of one draw."""
    rng = np.random.default_rng(draw)
    order = rng.permutation(len(seconds))
    seen, rest = order[:count], order[count : count + 3000]
    bound_s = matmul_bound_s(chip, "bf16", *sizes)
    curve = fitted("drawn", seconds[seen], bound_s[seen], sizes[:, seen])
    found = curve.at(bound_s[rest], *sizes[:, rest]).seconds
    level = bound_s[rest] / curve.level + curve.floor_s
    known = matmul(chip, "bf16", *sizes[:, rest]).seconds
    return [*(off(each, seconds[rest]) for each in (known, level, found)), curve.error * 100]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=50)
    count = parser.parse_args().shapes
    print(f"{'BF16 products, ' + str(count) + ' shapes':30}{'catalogue':>10}{'level':>8}{'curve':>8}{'it says':>9}")
    for gpu, name in measured.DEVICES.items():
        for precision, columns in measured.matmuls(measured.wheel(), gpu):
            sizes = np.array([columns[side] for side in "mnk"], float)
            keep = (sizes >= 512).all(0) & (sizes[0] <= 16384)
            if precision != "bf16" or keep.sum() < 2 * count:
                continue
            seconds = columns["latency"][keep] * 1e-3
            each = [errors(device(name), sizes[:, keep], seconds, count, draw) for draw in range(3)]
            known, level, curve, said = np.mean(each, 0)
            print(f"{name:30}{known:10.1f}{level:8.1f}{curve:8.1f}{said:9.1f}")


if __name__ == "__main__":
    main()
