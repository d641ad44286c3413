"""The command ``penstock calibrate``: measure this machine, or fit a framework to runs, and write it to a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from penstock.calibrate.settings import DeviceType, Settings

QUICK_S = 20.0
"""What ``--quick`` takes at most, start apart."""
CLUSTER_FILE, FRAMEWORK_FILE = Path("this-machine.toml"), Path("my-framework.toml")
"""What is written where nobody says so."""


def calibrate(
    *,
    out: Path | None = None,
    device: DeviceType = "auto",
    ranks: int = 0,
    threads: int = 1,
    seconds: float = 150.0,
    quick: bool = False,
    parts: str = "",
    rows: Path | None = None,
    runs: Path | None = None,
    framework: str = "",
    like: str = "",
) -> None:
    """Measure this machine, and write a cluster file with what was measured; predictions for it then follow that.

    Matrix products, attention, memory, launches of operators, blocks of a model on a CPU, copies between host and
    device, and messages between ranks. What fails is said in the file and left out. With --runs nothing is measured:
    the constants of a framework are fitted to a table of runs, and written as a file that --framework of penstock
    predict takes.

    Args:
        out: the file, this-machine.toml for a cluster or my-framework.toml; its name is that of the cluster.
        device: auto takes the GPU where there is one.
        ranks: processes that measure at once, as those of a run compute at once; 0 takes all GPUs, or as many as there
            are cores, at most 8.
        threads: compute threads of each.
        seconds: about how long it takes, without the start.
        quick: a rough look of at most 20 seconds.
        parts: only these, with commas between: launch, memory, transfer, sustained, block, attention, matmul,
            collective or disk.
        rows: nothing is measured: the rows of an earlier measurement (measured.jsonl) are written as a cluster file.
        runs: a table of measured runs, as penstock validate reads it.
        framework: name of the framework that is fitted to the runs; left out, that of the file.
        like: the framework it begins as; left out, what most rows name.
    """
    if runs is not None:
        _fit(runs, framework, like, out or FRAMEWORK_FILE)
        return
    if framework or like:
        raise ValueError(f"--{'framework' if framework else 'like'} says what to fit; give --runs FILE.csv too")
    out = out or CLUSTER_FILE
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


def _fit(runs: Path, framework: str, like: str, out: Path) -> None:
    """Fit a framework to runs, and write it."""
    from penstock.calibrate.own_runs import fit_own, text_of, toml_of
    from penstock.core.files import writable, write_whole
    from penstock.cost.stack import stack

    writable(out, ".toml")
    found = fit_own(runs, framework or out.stem, stack(like) if like else None)
    write_whole(out, toml_of(found))
    print(text_of(found))
    print(f"wrote {out}; give it as a framework, for example: penstock validate {runs} --framework {out}")
