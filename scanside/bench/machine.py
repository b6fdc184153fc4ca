"""The machine while it is measured: what it is, its clocks, whether it was slowed down, and peak memory."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scanside.engine.capabilities import processor_flags, processor_name, usable_cores

PROC, SYS = Path("/proc"), Path("/sys")
_MIB = 2**20


def instruction_set(flags: frozenset[str] | None = None) -> str:
    """The widest vector instructions in one word, for file names: avx512amx, avx512, avx2, or the architecture."""
    flags = processor_flags() if flags is None else flags
    if "amx_bf16" in flags:
        return "avx512amx"
    for name, word in (("avx512f", "avx512"), ("avx2", "avx2")):
        if name in flags:
            return word
    return re.sub(r"\W", "", platform.machine().lower()) or "unknown"


def conditions_name(device: str, threads: int, precision: str, policy: str) -> str:
    """Conditions as results files are named: `cpu2-avx512amx-bf16-exact`, `cuda-rtxa2000-fp16-exact`."""
    if device == "cuda":
        names = [gpu["name"] for gpu in gpus()]
        place = "cuda-" + (re.sub(r"[^a-z0-9]", "", names[0].lower().replace("nvidia", "")) if names else "gpu")
    else:
        place = f"cpu{threads}-{instruction_set()}"
    return f"{place}-{precision}-{policy}"


@dataclass(frozen=True)
class Counters:
    """What tells that a machine slowed down: counts since it started, where the system gives them."""

    throttled_by_quota: int | None
    thermal_throttles: int | None
    stolen_ticks: int | None
    clocks_mhz: tuple[float, ...]
    load: float | None

    @classmethod
    def read(cls, proc: Path = PROC, sys_: Path = SYS) -> Counters:
        """The counters now."""
        quota = _field(sys_ / "fs/cgroup/cpu.stat", r"^nr_throttled (\d+)")
        if quota is None:
            quota = _field(sys_ / "fs/cgroup/cpu/cpu.stat", r"^nr_throttled (\d+)")
        counts = [_whole(f) for f in sys_.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")]
        thermal = [count for count in counts if count is not None]
        steal = _field(proc / "stat", r"^cpu +(?:\d+ +){7}(\d+)")
        load = _text(proc / "loadavg").split()
        return cls(
            throttled_by_quota=quota,
            thermal_throttles=sum(thermal) if thermal else None,
            stolen_ticks=steal,
            clocks_mhz=clocks_mhz(proc, sys_),
            load=float(load[0]) if load else None,
        )


def clocks_mhz(proc: Path = PROC, sys_: Path = SYS) -> tuple[float, ...]:
    """The clock of each core in MHz now: the governor's where there is one, else as /proc/cpuinfo says; or empty."""
    files = sorted(sys_.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    kilohertz = [value for value in map(_whole, files) if value is not None]
    if kilohertz:
        return tuple(value / 1e3 for value in kilohertz)
    return tuple(float(value) for value in re.findall(r"^cpu MHz\s*: ([\d.]+)", _text(proc / "cpuinfo"), re.MULTILINE))


def slowdowns(before: Counters, after: Counters) -> dict[str, Any]:
    """What happened between two readings, for the record: counts that rose, clocks, and the load at the start."""

    def rise(name: str) -> int | None:
        first, last = getattr(before, name), getattr(after, name)
        return None if first is None or last is None else last - first

    return {
        "throttled_by_quota": rise("throttled_by_quota"),
        "thermal_throttles": rise("thermal_throttles"),
        "stolen_ticks": rise("stolen_ticks"),
        "clocks_mhz": [round(clock) for clock in after.clocks_mhz],
        "load_before": before.load,
    }


def machine_record() -> dict[str, Any]:
    """The processor, its cores and instructions, and the system."""
    return {
        "processor": processor_name(),
        "cores": usable_cores(),
        "instructions": instruction_set(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
    }


def gpus() -> tuple[Mapping[str, str], ...]:
    """Each GPU's name, memory used (MiB), clock (MHz) and throttle reasons, as nvidia-smi says; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return ()
    fields = ("name", "memory.used", "clocks.sm", "clocks_event_reasons.active")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return ()
    names = ("name", "memory_mib", "clock_mhz", "throttle_reasons")
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return tuple(dict(zip(names, row, strict=False)) for row in rows)


def restart_peak_memory(proc: Path = PROC) -> None:
    """Count this process's peak memory from now on (Linux; elsewhere the peak stays that of its whole life)."""
    try:
        (proc / "self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mib(proc: Path = PROC) -> float | None:
    """Peak resident memory of this process in MiB, or None where the system does not say."""
    kib = _field(proc / "self/status", r"^VmHWM:\s+(\d+) kB")
    if kib is not None:
        return kib / 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024


def resident_mib(proc: Path = PROC) -> float | None:
    """Memory of this process in MiB now, or None where the system does not say."""
    kib = _field(proc / "self/status", r"^VmRSS:\s+(\d+) kB")
    return None if kib is None else kib / 1024


def package_versions() -> dict[str, str]:
    """Python and the packages that decide about answers and times."""
    packages = ("numpy", "onnxruntime", "opencv-python-headless", "pydicom")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(file: Path, pattern: str) -> int | None:
    found = re.search(pattern, _text(file), re.MULTILINE)
    return int(found[1]) if found else None


def _whole(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None
