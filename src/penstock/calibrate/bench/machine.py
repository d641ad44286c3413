"""What this machine is: names, sizes, versions, and its clock and power under load."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from penstock.calibrate.bench.pieces import Facts, Machine, host_memory_bytes

_QUERY = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,persistence_mode"
_LOAD = "clocks.sm,power.draw,temperature.gpu"


def facts(machine: Machine, threads: int) -> Facts:
    """The machine with date and versions, as one row; what cannot be had is left out."""
    found: Facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "type": machine.device.type,
        "ranks": machine.ranks,
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "host_cpu": _cpu_name(),
        "host_cores": len(os.sched_getaffinity(0)),
        "host_memory_bytes": host_memory_bytes(),
    }
    return found | (_gpu(machine) if machine.cuda else _cpu())


def _gpu(machine: Machine) -> Facts:
    told = torch.cuda.get_device_properties(machine.device)
    names = {
        "device": "name",
        "memory_bytes": "total_memory",
        "units": "multi_processor_count",
        "cache_bytes": "L2_cache_size",
        "clock_khz": "clock_rate",
    }
    found = {key: getattr(told, name) for key, name in names.items() if hasattr(told, name)}
    found |= {"capability": f"{told.major}.{told.minor}", "gpus": torch.cuda.device_count()}
    found |= {"cuda": str(torch.version.cuda), "cudnn": str(_quietly(torch.backends.cudnn.version))}
    found |= {"nccl": str(_quietly(lambda: torch.cuda.nccl.version()))}
    return found | _smi(machine.device.index or 0, _QUERY)


def _cpu() -> Facts:
    return {
        "device": _cpu_name(),
        "memory_bytes": host_memory_bytes(),
        "capability": str(_quietly(torch.backends.cpu.get_cpu_capability)),
        "clock_hz": _cpu_clock_hz(),
        "cache_bytes": _cpu_cache_bytes(),
    }


def _cpu_name() -> str:
    return str(_cpu_row("model name") or platform.processor() or platform.machine())


def _cpu_clock_hz() -> float:
    return float(_cpu_row("cpu MHz") or 2000) * 1e6


def _cpu_row(name: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(name)), "")
    except OSError:
        return ""


def _cpu_cache_bytes() -> int:
    """Of the last cache that one core sees; 16 MiB where the system does not say."""
    for level in (3, 2):
        try:
            with open(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size", encoding="ascii") as file:
                return int(file.read().strip().removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return 16 << 20


def _smi(index: int, fields: str) -> Facts:
    """What ``nvidia-smi`` says of a GPU, as text; nothing where it is missing."""
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    keys = [name.replace(".", "_") for name in fields.split(",")]
    return dict(zip(keys, (value.strip() for value in told.strip().split(",")), strict=False))


def watched(machine: Machine) -> Callable[[], Facts]:
    """Start to look at clock, power and temperature; the result ends that and gives the last look."""
    seen: list[Facts] = [{}]
    done = threading.Event()
    if not machine.cuda:
        return dict

    def look() -> None:
        while not done.wait(0.3):
            seen.append(_smi(machine.device.index or 0, _LOAD))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()

    def end() -> Facts:
        done.set()
        thread.join(15)
        return seen[-1]

    return end


def _quietly(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception:  # versions of what is not there
        return ""
