"""Many exams in one process: does memory grow, is a thread or a file left over, do reports repeat bit by bit?

It is one process from the first exam to the last: an interrupted soak begins again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import scanside
from benchmarks.exam import how_arguments, with_size
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.bench.machine import peak_memory_mib, resident_mib, restart_peak_memory
from scanside.bench.plan import conditions_of
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.exam.phantom import make_phantom
from scanside.exam.write import write_dicom
from scanside.report.json import report_text, to_json
from scanside.report.model import Report
from scanside.study import analyze_to_folder

SEEDS = (5300, 5301, 5302)
WARM_UP = 10
"""Exams not counted in the slope: pools and sessions are made in them."""


def make_table(
    exams: int,
    out: Path,
    pack: Path | None,
    threads: int,
    shape: tuple[int, int, int],
    **how: Any,
) -> None:
    """Write soak-<conditions>.csv and its record into `out`."""
    rows: list[dict[str, Any]] = []
    digests: dict[int, set[str]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="scanside-soak-") as folder,
        scanside.load(pack, threads=threads, **how) as predictor,
    ):
        files = make_exams(Path(folder), shape)
        restart_peak_memory()
        for number in range(exams):
            report = analyze_to_folder(predictor, files[number % len(SEEDS)], Path(folder) / "report")
            assert isinstance(report, Report)
            digests.setdefault(number % len(SEEDS), set()).add(digest(report))
            rows.append(
                {
                    "exam": number,
                    "seconds": round(report.timing_ms.total / 1000, 3),
                    "resident_mib": round(resident_mib() or float("nan"), 2),
                    "threads": threading.active_count(),
                    "open_files": open_files(),
                }
            )
            if number % 10 == 9:
                print(rows[-1], flush=True)
        ran = conditions_of(predictor)
        peak = peak_memory_mib()
    name = f"soak-{with_size(ran['name'], shape)}"
    write_csv(out / f"{name}.csv", rows)
    summary = {**summarise(rows, digests), "peak_mib": None if peak is None else round(peak, 1)}
    write_json(
        out / f"{name}.json",
        {
            **conditions(),
            **how,
            "seeds": list(SEEDS),
            "shape": shape,
            "threads": threads,
            "runtime": ran["runtime"],
            "ran_precision": ran["precision"],
            "pack": ran["pack"]["sha256"],
            **summary,
        },
    )
    print(summary)


def make_exams(folder: Path, shape: tuple[int, int, int]) -> list[Path]:
    """One DICOM file a seed, written by another process: what making them takes is not this one's memory."""
    files = [folder / f"exam-{seed}.dcm" for seed in SEEDS]
    for seed, file in zip(SEEDS, files, strict=True):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
            elsewhere.submit(make_exam, seed, file, shape).result()
    return files


def make_exam(seed: int, file: Path, shape: tuple[int, int, int]) -> None:
    """A phantom as a DICOM file."""
    phantom = make_phantom(seed, shape=shape)
    write_dicom(file, phantom.voxels, phantom.geometry)


def summarise(rows: list[dict[str, Any]], digests: dict[int, set[str]]) -> dict[str, Any]:
    """Slope of memory after the warm-up, what was left over, and how many different reports one exam had."""
    counted = rows[min(WARM_UP, len(rows) // 2) :]
    slope = np.polyfit([row["exam"] for row in counted], [row["resident_mib"] for row in counted], 1)[0]
    return {
        "exams": len(rows),
        "resident_mib_per_100_exams": round(float(slope) * 100, 2),
        "threads_more": rows[-1]["threads"] - counted[0]["threads"],
        "open_files_more": rows[-1]["open_files"] - counted[0]["open_files"],
        "different_reports_an_exam": max(len(found) for found in digests.values()),
    }


def digest(report: Report) -> str:
    """SHA-256 of a report and its mask without the times."""
    content = to_json(report)
    del content["timing_ms"]
    text = report_text(json.loads(json.dumps(content)))
    return hashlib.sha256(text.encode() + report.mask.labels.tobytes()).hexdigest()


def open_files() -> int:
    """Open file descriptors of this process (Linux; 0 elsewhere)."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    how_arguments(parser)
    parser.set_defaults(policy="confirm")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--shape", type=shape_from, default=(318, 600, 800), help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--exams", type=int, default=300)


def minutes(given: Mapping[str, Any]) -> float:
    """About 8 s an exam."""
    return given["exams"] * 8 / 60


TABLE = Table("soak", "memory, threads and files over many exams in one process", make_table, minutes, arguments)
