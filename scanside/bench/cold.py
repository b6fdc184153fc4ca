"""From nothing to the first section's mask, in a fresh process each time, split into parts.

`cold` asks the system to forget the cached pages of the pack and of the libraries before each start (a service after
boot); `warm` leaves them cached (the next exam). Pages that another running process maps stay in memory: measure with
no other Scanside process running.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scanside.bench.machine import Counters, slowdowns
from scanside.bench.measurement import Measurement
from scanside.bench.plan import OnRepetition, Plan
from scanside.bench.statistics import Spread
from scanside.bench.timing import Samples
from scanside.errors import EngineError, ScansideError, UsageError
from scanside.pack.load import DEFAULT_PACK

PARTS = ("interpreter", "import", "verify pack", "load networks", "first section")
CACHES = ("warm", "cold")
_PACKAGES = ("scanside", "numpy", "cv2", "onnxruntime", "onnxruntime_ep_openvino")


def bench_cold(
    how: Mapping[str, Any], plan: Plan, *, cache: str = "warm", progress: OnRepetition | None = None
) -> Measurement:
    """Start a process, load the pack, segment one transverse section of the standard exam's size; again and again.

    Parameters
    ----------
    how : mapping
        `pack` (path or None), `device`, `precision`, `policy`, `threads`, `allow_uncertified`, as for `scanside.load`.
    cache : str
        One of `CACHES`.

    Raises
    ------
    UsageError
        Another cache, or "cold" where the system cannot forget pages.
    ScansideError
        What `scanside.load` raised in the new process, with its exit code.
    """
    if cache not in CACHES:
        raise UsageError("unknown cache state", expected=" | ".join(CACHES), found=repr(cache))
    if cache == "cold" and not hasattr(os, "posix_fadvise"):
        raise UsageError("this system cannot forget cached pages", where="--cache cold", remedy="use --cache warm")
    files = list(_files(Path(how["pack"]) if how.get("pack") else DEFAULT_PACK)) if cache == "cold" else []
    before = Counters.read()
    parts: list[dict[str, float]] = []
    said: dict[str, Any] = {}
    for i in range(-plan.warm_up, plan.repetitions):
        forget(files)
        said = start(how)
        if i >= 0:
            parts.append(said["parts_ms"])
            if progress is not None:
                progress(i + 1, plan.repetitions)
    total = [sum(p.values()) for p in parts]
    samples = Samples(tuple(t / 1e3 for t in total), tuple(0.0 for _ in total), 0)
    return Measurement(
        what="cold",
        conditions={**said["conditions"], "cache": cache},
        samples_ms=tuple(total),
        percentiles=samples.percentiles_ms(plan.percents),
        rate=len(total) / sum(total) * 1e3,
        rate_unit="starts/s",
        checked=len(parts) + plan.warm_up,
        figures={
            **{f"{part.replace(' ', '_')}_ms": Spread.of([p[part] for p in parts]).median for part in PARTS},
            "peak_rss_mib": said["peak_rss_mib"],
        },
        slowdowns=slowdowns(before, Counters.read()),
    )


def start(how: Mapping[str, Any]) -> dict[str, Any]:
    """One fresh process: its parts in milliseconds, conditions and peak memory.

    Raises
    ------
    ScansideError
        What stopped it, with the same exit code.
    """
    begun = _now_ms()
    command = [sys.executable, "-m", "scanside.bench.child", json.dumps({**how, "pack": _text(how.get("pack"))})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise EngineError("the new process ended early", found=f"exit code {done.returncode}: {last}") from None
    if "error" in said:
        error = ScansideError(said["error"], where="a fresh process")
        error.exit_code = said["exit_code"]
        raise error
    stamps = [begun, *said["stamps_ms"]]
    said["parts_ms"] = {part: stamps[k + 1] - stamps[k] for k, part in enumerate(PARTS)}
    return said


def forget(files: list[Path]) -> None:
    """Ask the system to drop the cached pages of `files`."""
    for file in files:
        try:
            handle = os.open(file, os.O_RDONLY)
        except OSError:
            continue
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _files(pack: Path) -> Iterator[Path]:
    """The pack's files and those of the packages a start reads."""
    folders = [pack]
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        folders += [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        yield from (file for file in folder.rglob("*") if file.is_file())


def _text(pack: Any) -> str | None:
    return None if pack is None else str(pack)


def _now_ms() -> float:
    """The system-wide monotonic clock, comparable between processes (where there is one)."""
    clock: Callable[[], float] = time.monotonic
    return clock() * 1e3
