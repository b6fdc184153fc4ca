"""How long `scanside evaluate` takes, start of the interpreter included.

It runs in one thread: on an idle machine the wall time is close to the processor time, on a busy one it says nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.invented import write_invented
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.errors import OutputError

SIZES = {"test A": (200, 300), "test B": (230, 270)}


def make_table(out: Path, repetitions: int) -> None:
    """Write evaluation-time.csv and evaluation-time.json into `out`.

    The invented cohort has 1,000 cases, eight classifiers in its first half, and six readers with three passes each.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_invented(folder, SIZES, 1)
        for readers in (False, True):
            rows += [_timed(folder, readers) for _ in range(repetitions)]
    write_csv(out / "evaluation-time.csv", rows)
    medians = {
        f"{'with' if readers else 'without'}_readers_median_{column}": round(
            statistics.median(row[column] for row in rows if row["readers"] == int(readers)), 2
        )
        for readers in (False, True)
        for column in ("seconds", "processor_seconds")
    }
    machine = {"cores": os.cpu_count(), "load_average_1_min": round(os.getloadavg()[0], 1)}
    cases = {"cases": sum(map(sum, SIZES.values())), "bootstrap_rounds": 2000}
    write_json(out / "evaluation-time.json", {**conditions(), **machine, **cases, **medians})
    print(medians)


def _timed(folder: Path, readers: bool) -> dict[str, Any]:
    """One run of the command: wall seconds and processor seconds."""
    command = [
        sys.executable,
        "-m",
        "scanside",
        "evaluate",
        str(folder / "predictions.csv"),
        "--out",
        str(folder / "o"),
    ]
    command += ["--readers", str(folder / "readers.csv")] if readers else []
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise OutputError("the evaluation failed", found=done.stderr.strip())
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"readers": int(readers), "seconds": round(seconds, 2), "processor_seconds": round(used, 2)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--repetitions", type=int, default=5)


TABLE = Table(
    "evaluation",
    "how long `scanside evaluate` takes for 1,000 cases",
    make_table,
    lambda given: 2,
    arguments,
    takes_pack=False,
)
