"""A setup as a batch file of Slurm: nodes, devices on each, and torchrun on every node."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.keys import shipped_models
from penstock.core.setup import Setup
from penstock.export.launch import nodes_of, torchrun
from penstock.export.written import Left, Written, comments, named, unsaid

PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}
"""Of ours, those that ``penstock run`` trains in, by its names."""
NEVER = {
    "zero": "there is one replica",
    "shards": "there is one replica",
    "optimizer_offload": "the optimizer's state stays on the device",
    "flash": "PyTorch chooses the kernel",
    "graphs": "no graphs",
    "optimizer": "it trains with AdamW",
    "dropout": "it trains without",
    "fused_loss": "the loss reads a copy",
    "adapter": "all weights are trained",
    "frozen_bytes": "all weights are trained",
    "multi_token": "multi-token heads are not trained",
    "imbalance": "a fact of data and router",
}
"""Fields of a setup that ``penstock run`` has no keys for."""


def slurm(model: Architecture, cluster: Cluster, setup: Setup) -> Written:
    """Return a file for ``sbatch``.

    A setup that is a pipeline and nothing else is trained by ``penstock run``. Others run the script of another export
    that is given behind the file: ``sbatch job.sbatch train.sh``.

    Raises:
        ValueError: the nodes cannot be filled evenly.
    """
    nodes, each = nodes_of(cluster, setup)
    piped = setup.pp == setup.devices
    left = (
        [*unsaid(setup, NEVER), *_left(model, setup)]
        if piped
        else [
            Left("setup", "all but nodes and devices; give sbatch the script of another export, sbatch FILE train.sh")
        ]
    )
    said = comments(left, "penstock run") if piped else ["# Give the script of another export: sbatch FILE train.sh"]
    command = [f"srun {torchrun(cluster, setup).command} \\", f"    -m penstock run {_flags(model, setup)}"]
    text = "\n".join([
        "#!/bin/bash",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={each}",
        *said,
        f"export NODES={nodes} DEVICES_PER_NODE={each}",
        'export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        *(command if piped else ['srun bash "$@"']),
        "",
    ])  # fmt: skip
    return Written({"": text}, tuple(left))


def _left(model: Architecture, setup: Setup) -> Iterator[Left]:
    if model.name not in shipped_models():
        yield Left("model", "penstock run reads a config.json; put its path in place of the name")
    if setup.precision not in PRECISIONS:
        yield Left("precision", f"it trains in {' or '.join(PRECISIONS.values())}; written as bfloat16")
    if named(setup):
        yield Left("recompute", "operators cannot be named; written as selective")
    if isinstance(setup.offload, tuple):
        yield Left("offload", "storages cannot be named; not written")
    if setup.vocabulary == 3:
        yield Left("vocabulary", "it has algorithms 1 and 2; not written")
    if setup.ep > 1 or setup.etp > 1 or setup.sp or setup.cp_heads:
        yield Left("ep", "there is one rank for each stage, and nothing else is split")


def _flags(model: Architecture, setup: Setup) -> str:
    flags: dict[str, object] = {
        "model": model.name,
        "ranks": setup.pp,
        "schedule": setup.schedule,
        "chunks": setup.chunks,
        "batch": setup.batch,
        "micro-batches": setup.micros,
        "seq-length": setup.seq,
        "precision": PRECISIONS.get(setup.precision, "bfloat16"),
    }
    if setup.stage_layers:
        flags["stage-layers"] = ",".join(map(str, setup.stage_layers))
    if setup.recompute != "none":
        flags["recompute"] = "full" if setup.recompute == "full" else "selective"
    if isinstance(setup.offload, float) and setup.offload:
        flags["offload"] = setup.offload
    if setup.vocabulary in (1, 2):
        flags["vocabulary"] = setup.vocabulary
    return " ".join(f"--{name} {value}" for name, value in flags.items())
