"""One exam in time: when each stage worked in the median run, as a picture for the documents."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import scanside
from benchmarks import plots
from benchmarks.contest import standard_file
from benchmarks.done import require_folder
from benchmarks.exam import how_arguments, with_size
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import DOCS, WORK, Table
from scanside.bench.exam import STANDARD_SEED, bench_exam
from scanside.bench.plan import Plan
from scanside.bench.statistics import repetitions_for
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.exam.phantom.make import STANDARD_SHAPE

PERCENT = 50.0


def make_table(
    out: Path,
    pack: Path | None,
    shape: tuple[int, int, int],
    seed: int,
    repetitions: int,
    threads: int,
    work: Path,
    docs: Path,
    **how: Any,
) -> None:
    """Write trace-<conditions>.csv (busy time a stage) and its record into `out`, the picture into DOCS/images."""
    plan = Plan.of([PERCENT], repetitions=repetitions)
    exam = standard_file(shape, seed, work)
    with scanside.load(pack, threads=threads, **how) as predictor:
        found = bench_exam(predictor, exam, plan)
    name = f"trace-{with_size(found.conditions['name'], shape)}"
    record = {
        **conditions(),
        **how,
        "shape": shape,
        "seed": seed,
        "threads": threads,
        "runtime": found.conditions["runtime"],
        "ran_precision": found.conditions["precision"],
        "pack": found.conditions["pack"]["sha256"],
        "repetitions": repetitions,
        "median_ms": round(found.percentiles[0].value, 1),
        "overlap": found.figures["overlap"],
        "slowdowns": dict(found.slowdowns),
    }
    rows = [
        {"stage": s.name, "busy_ms": round(s.busy_ms, 1), "share_of_wall": round(s.share_of_wall, 4)}
        for s in found.stages
    ]
    write_csv(out / f"{name}.csv", rows)
    write_json(out / f"{name}.json", record)
    require_folder(docs / "images")
    plots.trace(found.trace, docs / "images" / f"{name}.png", name, record)
    for row in rows:
        print(row, flush=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--shape", type=shape_from, default=STANDARD_SHAPE, help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--seed", type=int, default=STANDARD_SEED, help="which phantom")
    parser.add_argument("--repetitions", type=int, default=repetitions_for(PERCENT), help="timed runs")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--work", type=Path, default=WORK, help="folder where phantoms are kept")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder whose images/ gets the picture")
    how_arguments(parser)


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly, from the seconds of a standard exam and phantom on two idle cores."""
    share = given["shape"][0] * given["shape"][1] * given["shape"][2] / (318 * 600 * 800)
    return share * (25 + (given["repetitions"] + 1) * 20) / 60


TABLE = Table("trace", "when each stage works: a picture of the median run", make_table, minutes, arguments)
