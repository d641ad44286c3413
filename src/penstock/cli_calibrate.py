"""The command ``penstock calibrate``: measure this machine, write a cluster file with curves."""

from __future__ import annotations

import tempfile
from pathlib import Path

from penstock.calibrate.settings import DeviceType, Settings

QUICK_S = 20.0
"""What ``--quick`` takes at most, start apart."""


def calibrate(
    *,
    out: Path = Path("this-machine.toml"),
    device: DeviceType = "auto",
    ranks: int = 0,
    threads: int = 1,
    seconds: float = 150.0,
    quick: bool = False,
    parts: str = "",
    rows: Path | None = None,
) -> None:
    """Measure this machine, and write a cluster file with what was measured; predictions for it then follow that.

    Matrix products, attention, memory, launches of operators, copies between host and device, and messages between
    ranks. What fails is said in the file and left out.

    Args:
        out: the cluster file; its name is that of the cluster.
        device: auto takes the GPU where there is one.
        ranks: processes that measure at once, as those of a run compute at once; 0 takes all GPUs, or as many as there
            are cores, at most 8.
        threads: compute threads of each.
        seconds: about how long it takes, without the start.
        quick: a rough look of at most 20 seconds.
        parts: only these, with commas between: launch, memory, transfer, sustained, attention, matmul, collective or
            disk.
        rows: nothing is measured: the rows of an earlier measurement (measured.jsonl) are written as a cluster file.
    """
    from penstock.calibrate.cluster_file import cluster_file, summary
    from penstock.calibrate.measure import measure, read_rows
    from penstock.core.files import writable, write_whole

    writable(out, ".toml")
    if rows is not None:
        if not rows.is_file():
            raise ValueError(f"--rows {rows}: there is no such file")
        found = read_rows(rows)
    else:
        chosen = tuple(filter(None, (part.strip() for part in parts.split(","))))
        limit_s = min(seconds, QUICK_S) if quick else seconds
        settings = Settings(device=device, ranks=ranks, threads=threads, seconds=limit_s, parts=chosen)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".calibrate-") as folder:
            found = measure(Path(folder), settings)
    write_whole(out, cluster_file(found, out.stem))
    print(summary(found))
    print(f"wrote {out}; give it as a cluster, for example: penstock machines {out}")
