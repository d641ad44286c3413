"""What ``penstock predict`` prints and writes: a prediction by names for scripts, and as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from penstock.cli.columns import print_columns
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.mesh import ORDER
from penstock.core.setup import Setup
from penstock.predict import Prediction
from penstock.predict.energy import JOULES_PER_KWH, joules, rated_w
from penstock.predict.flops import model_flops
from penstock.units import HOUR_S, human_bytes, human_s

Rows = Sequence[tuple[str, ...]]
BILLION = 1e9


def facts_of(found: Prediction, model: Architecture, cluster: Cluster, setup: Setup, framework: str) -> dict[str, Any]:
    """Return a prediction by the names that scripts read, in SI units and shares; ``None`` for what is not known."""
    peak = found.peak
    return {
        "model": model.name,
        "parameters": model.parameters,
        "cluster": cluster.name,
        "devices": found.devices,
        "device": cluster.device.name,
        "framework": framework,
        "setup": asdict(setup),
        "seconds": found.seconds,
        "seconds_interval": [found.low_s, found.high_s],
        "tokens_per_s": found.tokens_per_s,
        "tokens_per_s_per_device": found.tokens_per_s_per_device,
        "tflops_per_device": found.flops_per_s_per_device / 1e12,
        "mfu": found.mfu,
        "mfu_whole_scores": model_flops(model, setup, whole=True) / found.seconds / found.peak_flops,
        "hfu": found.hfu,
        "bubble": found.timeline.bubble_sync,
        "parts_s": dict(found.parts),
        "fits": found.fits,
        "memory_bytes": asdict(peak) | {"total": peak.total},
        "memory_rank": found.rooms.index(peak),
        "memory_by_rank_bytes": [room.total for room in found.rooms],
        "device_memory_bytes": found.memory_bytes,
        "host_by_rank_bytes": list(found.host_bytes),
        "host_memory_bytes": found.host_memory_bytes,
        "disk_by_rank_bytes": list(found.disk_bytes),
        "disk_room_bytes": found.disk_room_bytes,
        "headroom_bytes": found.memory_bytes - peak.total,
        "checkpoint_bytes": found.checkpoint_bytes,
        "checkpoint_s": found.checkpoint_s,
        **_money(found, cluster),
        **_energy(found, cluster),
        "guessed": list(found.guessed),
    }


def usd_of(cluster: Cluster, devices: int, seconds: float) -> float | None:
    """Return the rent of some of a cluster's devices for a time; ``None`` where it is not known."""
    rent = cluster.usd_per_hour
    return None if rent is None else rent * (devices / cluster.devices) * seconds / HOUR_S


def _money(found: Prediction, cluster: Cluster) -> dict[str, Any]:
    """Rent of the devices that work, with its date."""
    dates = sorted({node.price_date for node, _ in cluster.groups if node.price_date})
    per_step = usd_of(cluster, found.devices, found.seconds)
    return {
        "usd_per_step": per_step,
        "usd_per_billion_tokens": None if per_step is None else per_step / found.tokens * BILLION,
        "price_date": ", ".join(dates),
    }


def _energy(found: Prediction, cluster: Cluster) -> dict[str, Any]:
    """In the mean, and at the most that nodes draw."""
    per_step, most = joules(cluster, found.devices, found.seconds), rated_w(cluster, found.devices)
    return {
        "joules_per_step": per_step,
        "joules_per_step_most": None if most is None else most * found.seconds,
        "kwh_per_billion_tokens": None if per_step is None else per_step / JOULES_PER_KWH / found.tokens * BILLION,
    }


def print_prediction(found: Prediction, facts: dict[str, Any], setup: Setup) -> None:
    """Print a prediction for people."""
    print_columns(head(facts, setup), left=(0, 1))
    print()
    print_columns(_speed(found, facts), left=(0, 1))
    print("\nwhere the time of the rank that ends last goes")
    parts = sorted(found.parts.items(), key=lambda part: -part[1])
    print_columns((f"  {name}", human_s(value), f"{value / found.seconds:.1%}") for name, value in parts)
    print(f"\nmemory of a device of pipeline rank {facts['memory_rank']}, the fullest")
    print_columns(_memory(found))
    if (most := max(found.host_bytes)) > 0:
        print(f"in host memory {human_bytes(most)} of {human_bytes(found.host_memory_bytes)} for each device")
    if (most := max(found.disk_bytes)) > 0:
        print(f"on disks {human_bytes(most)} of {human_bytes(found.disk_room_bytes)} for each device")
    if found.guessed:
        print("\nguessed")
        for text in found.guessed:
            print(f"  {text}")


def head(facts: dict[str, Any], setup: Setup) -> Rows:
    """Return what is predicted: model, devices, split and step."""
    split = " ".join(f"{name}={getattr(setup, name)}" for name in ("tp", "cp", "pp", "dp", "ep", "etp"))
    split += f" order={setup.order}" * (setup.order != ORDER)
    return [
        ("model", f"{facts['model']}, {facts['parameters'] / 1e9:.4g} B parameters"),
        ("devices", f"{facts['devices']:,} {facts['device']}, {facts['framework']}"),
        ("split", split),
        ("step", f"{setup.batch:,} sequences of {setup.seq:,} tokens, {setup.micros} micro-batches of {setup.micro}"),
    ]


def _speed(found: Prediction, facts: dict[str, Any]) -> Rows:
    rows = [
        ("step time", f"{human_s(found.seconds)} ({human_s(found.low_s)} to {human_s(found.high_s)})"),
        ("tokens", f"{found.tokens_per_s:,.0f} per second, {found.tokens_per_s_per_device:,.0f} per device"),
        ("TFLOP/s", f"{facts['tflops_per_device']:.4g} per device, MFU {facts['mfu']:.1%}, HFU {facts['hfu']:.1%}"),
        ("bubble", f"{facts['bubble']:.1%} of the busiest rank's time in the pipeline"),
    ]
    disks = f"{human_s(found.checkpoint_s)} to the disks of the nodes"
    rows.append(("checkpoint", f"{human_bytes(found.checkpoint_bytes)}, {disks}"))
    if facts["usd_per_step"] is not None:
        tokens = f"$ {facts['usd_per_billion_tokens']:,.4g} per billion tokens"
        rows.append(("cost", f"$ {facts['usd_per_step']:,.4g} per step, {tokens} (rents of {facts['price_date']})"))
    if facts["joules_per_step"] is not None:
        step, most = (facts[f"joules_per_step{which}"] / JOULES_PER_KWH for which in ("", "_most"))
        kwh = f"{facts['kwh_per_billion_tokens']:,.4g} kWh per billion tokens"
        rows.append(("energy", f"{step:,.4g} kWh per step, {kwh}; by the nodes' rating {most:,.4g} per step"))
    return rows


def _memory(found: Prediction) -> Rows:
    held = sorted(asdict(found.peak).items(), key=lambda part: -part[1])
    rows = [(f"  {name}", human_bytes(value), f"{value / found.memory_bytes:.1%}") for name, value in held if value]
    left = found.memory_bytes - found.peak.total
    total = (f"  all of {human_bytes(found.memory_bytes)}", human_bytes(found.peak.total))
    rows.append((*total, f"{found.peak.total / found.memory_bytes:.1%}"))
    rows.append(("  left" if left >= 0 else "  too much", human_bytes(abs(left)), "" if left >= 0 else "does not fit"))
    return rows
