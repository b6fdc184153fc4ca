"""One contestant in a process of its own: load once, then run the exam whenever a line arrives on stdin.

    python benchmarks/worker.py CONTESTANT '{"exam": ..., "pack": ..., "threads": ..., "how": {...}}'

`scanside` is the product itself, whichever copy of it the path has (`compare` puts another commit's there); any other
name is a module of `benchmarks.peers`. Answers are JSON, one a line, on the original stdout; whatever libraries print
goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Analyze = Callable[[], dict[str, Any]]
"""One exam: `lesions`, and what else there is to say (`stages_ms`, `settings`)."""


def scanside_contestant(job: dict[str, Any]) -> tuple[Analyze, dict[str, Any]]:
    """Analyse with `scanside.load` and `Predictor.analyze` alone, which every version has."""
    import scanside

    predictor = scanside.load(job["pack"], threads=job["threads"], **job["how"])

    def analyze() -> dict[str, Any]:
        report = predictor.analyze(Path(job["exam"]))
        lesions = [
            {
                "box_mm": [list(lesion.box_mm.min), list(lesion.box_mm.max)],
                "centroid_mm": list(lesion.centroid_mm),
                "detection_score": lesion.detection_score,
                "probability": lesion.probability,
            }
            for lesion in report.lesions
        ]
        return {"lesions": lesions, "stages_ms": dict(report.timing_ms.stages)}

    device = predictor.device
    about = {"runtime": device.runtime, "precision": device.precision, "device_name": device.name}
    return analyze, {**about, "version": scanside.__version__, "fallbacks": list(device.fallbacks)}


def peer_contestant(name: str, job: dict[str, Any]) -> tuple[Analyze, dict[str, Any]]:
    """A peer of `benchmarks.peers`."""
    from dataclasses import asdict
    from importlib import import_module

    from scanside.pack import load_pack

    module = import_module(f"benchmarks.peers.{name}")
    peer = module.make(load_pack(job["pack"]), job["threads"])
    about = {"about": module.__doc__.split("\n")[0], "precision": peer.precision}

    def analyze() -> dict[str, Any]:
        lesions = [asdict(found) for found in peer.analyze(Path(job["exam"]))]
        return {"lesions": lesions, "settings": getattr(peer, "settings", {})}

    return analyze, about


def cannot_run(error: Exception) -> bool:
    """Whether what a peer needs is not here: its package, a compiler, a GPU. Anything else is a fault."""
    if isinstance(error, ModuleNotFoundError):
        return (error.name or "").partition(".")[0] not in ("scanside", "benchmarks")
    return getattr(error, "cannot_run", False)


def restart_peak() -> None:
    """Count peak memory from now on: what a first run compiles or tries out is not the exams' (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_mib() -> float | None:
    """Peak resident memory (written out here: an old commit has no `scanside.bench`)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    name, job = sys.argv[1], json.loads(sys.argv[2])
    begun = time.perf_counter()
    try:
        analyze, about = scanside_contestant(job) if name == "scanside" else peer_contestant(name, job)
        say({"loaded_s": time.perf_counter() - begun, **about})
        warm = False
        for _ in sys.stdin:
            cpu, wall = time.process_time(), time.perf_counter()
            answer = analyze()
            wall_s = time.perf_counter() - wall
            cpu_s = time.process_time() - cpu
            say({"wall_s": wall_s, "cpu_s": cpu_s, "peak_rss_mib": peak_rss_mib(), **answer})
            if not warm:
                restart_peak()
                warm = True
    except Exception as error:  # the other process has to hear of anything that went wrong, whatever its class
        said = f"{type(error).__name__}: {error}"
        say({"error": said, "exit_code": getattr(error, "exit_code", 1), "cannot_run": cannot_run(error)})


if __name__ == "__main__":
    main()
