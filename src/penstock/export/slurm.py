"""A setup as a batch file of Slurm: nodes, devices on each, and torchrun on every node."""

from __future__ import annotations

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.export.job import job_keys, job_left
from penstock.export.launch import nodes_of, torchrun
from penstock.export.written import Left, Written, comments


def slurm(model: Architecture, cluster: Cluster, setup: Setup) -> Written:
    """Return a file for ``sbatch``.

    A setup that is a pipeline and nothing else is trained by ``penstock run``. Others run the script of another export
    that is given behind the file: ``sbatch job.sbatch train.sh``.

    Raises:
        ValueError: the nodes cannot be filled evenly.
    """
    nodes, each = nodes_of(cluster, setup)
    if setup.pp == setup.devices:
        left = job_left(model, setup)
        said = comments(left, "penstock run")
        command = [f"srun {torchrun(cluster, setup).command} \\", f"    -m penstock run {_flags(model, setup)}"]
    else:
        give = "the script of another export"
        left = [Left("setup", f"all but nodes and devices; give sbatch {give}, sbatch FILE train.sh")]
        said = [f"# Give {give}: sbatch FILE train.sh"]
        command = ['srun bash "$@"']
    text = "\n".join([
        "#!/bin/bash",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={each}",
        *said,
        f"export NODES={nodes} DEVICES_PER_NODE={each}",
        'export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        *command,
        "",
    ])  # fmt: skip
    return Written({"": text}, tuple(left))


def _flags(model: Architecture, setup: Setup) -> str:
    words = {name: ",".join(map(str, v)) if isinstance(v, list) else v for name, v in job_keys(model, setup).items()}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in words.items())
