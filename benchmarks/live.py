"""A sweep in real time: how long after its last frame the report is there, and what memory does meanwhile.

Frames come at the scanner's rate, each at its time whether or not the analysis keeps up.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import scanside
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table, seed_range
from scanside.console.options import shape_from
from scanside.engine.predictor import Predictor
from scanside.exam.phantom import Phantom, make_phantom
from scanside.report.model import Lesion

STANDARD_RATE = 5.3
"""Frames a second: 318 in 60 s."""


def make_table(
    seeds: Sequence[int],
    out: Path,
    pack: Path | None,
    precision: str,
    policy: str,
    rates: Sequence[float],
    shape: tuple[int, int, int],
) -> None:
    """Write live.csv and live.json into `out`."""
    rows = []
    with scanside.load(pack, precision=precision, policy=policy) as predictor:
        for seed in seeds:
            phantom = make_phantom(seed, shape=shape)
            for rate in rates:
                rows.append({"seed": seed, "frames_a_second": rate, **swept(predictor, phantom, rate)})
                print(rows[-1], flush=True)
        device, manifest = predictor.device, predictor.pack.manifest
    write_csv(out / "live.csv", rows)
    record = {"name": manifest.name, "version": manifest.version, "runtime": device.runtime}
    write_json(
        out / "live.json",
        {
            **conditions(),
            "pack": record,
            "precision": device.precision,
            "policy": policy,
            "shape": shape,
        },
    )


def swept(predictor: Predictor, phantom: Phantom, rate: float) -> dict[str, Any]:
    """One sweep at `rate` frames a second."""
    early: list[float] = []
    resident: list[float] = []
    ended = [float("inf")]

    def on_lesions(lesions: tuple[Lesion, ...]) -> None:
        early.append(time.monotonic() - ended[0] if ended[0] < float("inf") else -1.0)

    with predictor.start(phantom.geometry, on_lesions=on_lesions) as session:
        begun, cpu = time.monotonic(), time.process_time()
        late_s = 0.0
        for k, frame in enumerate(phantom.voxels):
            due = begun + k / rate
            time.sleep(max(0.0, due - time.monotonic()))
            session.push(frame)
            late_s = max(late_s, time.monotonic() - due)
            resident.append(resident_mb())
        ended[0] = time.monotonic()
        before = session.looked_at
        report = session.finish()
        after_s = time.monotonic() - ended[0]
        cpu_s = time.process_time() - cpu
    after = sum(report.device.sections.values())
    third = max(1, len(resident) // 3)
    return {
        "seconds_after_last_frame": round(after_s, 3),
        "sections": after,
        "sections_after_last_frame": after - sum(before.values()),
        "lesions": len(report.lesions),
        "changes_told_before_last_frame": sum(t < 0 for t in early),
        "cpu_s": round(cpu_s, 2),
        "push_late_s": round(late_s, 3),
        "resident_mb_middle": round(float(np.median(resident[third : 2 * third])), 1),
        "resident_mb_end": round(resident_mb(), 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def resident_mb() -> float:
    """Memory of this process in MiB, now (Linux; NaN elsewhere)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("nan")
    return pages * resource.getpagesize() / 2**20


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--precision", default="auto", help="as for scanside analyze")
    parser.add_argument("--shape", type=shape_from, default=(318, 600, 800), help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--seeds", type=seed_range, default=range(5200, 5203), help="FIRST:END")
    parser.add_argument("--policy", choices=("exact", "confirm"), default="confirm")
    rates = (STANDARD_RATE, 4 * STANDARD_RATE)
    parser.add_argument("--rates", type=float, nargs="+", default=rates, help="frames a second")


def minutes(given: Mapping[str, Any]) -> float:
    """The sweeps' own time, and half a minute each for the phantom and the offline run."""
    sweeps_s = sum(given["shape"][0] / rate for rate in given["rates"])
    return len(given["seeds"]) * (sweeps_s / 60 + 0.5)


TABLE = Table(
    "live", "seconds from the last frame of a sweep in real time to its report", make_table, minutes, arguments
)
