"""Cold and warm start: from a new process to its first section, in parts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.exam import how_arguments
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.bench.cold import CACHES, bench_cold
from scanside.bench.plan import Plan
from scanside.bench.statistics import repetitions_for
from scanside.engine.capabilities import usable_cores

PERCENT = 50.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--repetitions", type=int, default=repetitions_for(PERCENT) + 5, help="starts a row")
    how_arguments(parser)


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly five seconds a start."""
    return len(CACHES) * (given["repetitions"] + 1) * 5 / 60


def make_table(
    out: Path,
    pack: Path | None,
    threads: int,
    repetitions: int,
    device: str,
    precision: str,
    policy: str,
    allow_uncertified: bool,
) -> None:
    """Write start-<conditions>.csv and its record into `out`."""
    plan = Plan.of([PERCENT], repetitions=repetitions)
    how = {
        "pack": pack,
        "device": device,
        "precision": precision,
        "policy": policy,
        "threads": threads,
        "allow_uncertified": allow_uncertified,
    }
    found = {cache: bench_cold(how, plan, cache=cache) for cache in CACHES}
    name = found["warm"].conditions["name"]
    table = []
    for cache, measurement in found.items():
        (median,) = measurement.percentiles
        parts = {key: round(value, 1) for key, value in measurement.figures.items() if isinstance(value, float)}
        table.append(
            {
                "cache": cache,
                "starts": len(measurement.samples_ms),
                "median_ms": round(median.value, 1),
                "ci95_low_ms": round(median.low, 1),
                "ci95_high_ms": round(median.high, 1),
                **parts,
            }
        )
    record = {"conditions": dict(found["warm"].conditions), "slowdowns": dict(found["cold"].slowdowns)}
    write_json(out / f"start-{name}.json", {**conditions(), **record, "repetitions": repetitions})
    write_csv(out / f"start-{name}.csv", table)


TABLE = Table("start", "from a new process to its first section, cold and warm", make_table, minutes, arguments)
