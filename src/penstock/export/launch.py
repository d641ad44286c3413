"""How torchrun starts the processes of a setup: on so many nodes, so many on each, under Slurm or by hand."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.core.cluster import Cluster
from penstock.core.setup import Setup


@dataclass(frozen=True, slots=True)
class Start:
    """Lines of a shell script, and the command that they make ready."""

    lines: tuple[str, ...]
    command: str


def nodes_of(cluster: Cluster, setup: Setup) -> tuple[int, int]:
    """Return how many nodes a setup takes, and how many processes each.

    Raises:
        ValueError: the nodes differ in devices, or the setup does not fill those it takes, or there are too few.
    """
    sizes = {node.devices for node, _ in cluster.groups}
    if len(sizes) > 1:
        raise ValueError(f"nodes of {cluster.name} have {sorted(sizes)} devices; torchrun needs as many on each")
    each = min(sizes.pop(), setup.devices)
    if setup.devices > cluster.devices or setup.devices % each:
        raise ValueError(
            f"{setup.devices} devices of the setup do not fill nodes of {each} on {cluster.name}, which has "
            f"{cluster.devices}; use a multiple of {each} up to so many"
        )
    return setup.devices // each, each


def torchrun(cluster: Cluster, setup: Setup) -> Start:
    """Return how a script starts torchrun on every node; under Slurm it finds nodes and numbers by itself.

    Raises:
        ValueError: as ``nodes_of``.
    """
    nodes, each = nodes_of(cluster, setup)
    lines = (f"NODES={nodes}", f"DEVICES_PER_NODE={each}", "HEAD=${HEAD:-localhost}")
    where = '--rdzv-id "${SLURM_JOB_ID:-1}" --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500"'
    return Start(lines, f'torchrun --nnodes "$NODES" --nproc-per-node "$DEVICES_PER_NODE" {where}')
