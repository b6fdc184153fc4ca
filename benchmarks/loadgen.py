"""What MLPerf LoadGen says: SingleStream for a section and for an exam, Offline for a volume's sections.

The settings are short (MLPerf's official runs take 600 s) and are in the record; LoadGen's own verdict is in the table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import scanside
from benchmarks.contest import standard_file
from benchmarks.done import Rows
from benchmarks.exam import conditions_here, how_arguments, with_size
from benchmarks.record import conditions, source_tree, write_json
from benchmarks.table import WORK, Table
from scanside.bench.exam import STANDARD_SEED
from scanside.bench.loadgen import SCENARIOS, LoadgenResult, require_loadgen, run_loadgen
from scanside.bench.machine import Counters, slowdowns
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.exam.phantom.make import STANDARD_SHAPE

FIGURES = ("p50_ms", "p90_ms", "p99_ms", "early_stopping_p90_ms", "samples_per_s")


def make_table(
    out: Path,
    pack: Path | None,
    shape: tuple[int, int, int],
    seed: int,
    seconds: float,
    queries: int,
    threads: int,
    work: Path,
    **how: Any,
) -> None:
    """Write loadgen-<conditions>.csv and its record into `out`."""
    require_loadgen()
    name, ran = conditions_here(pack, threads, how)
    name = with_size(name, shape)
    made_with = {
        **how,
        **ran,
        "shape": shape,
        "seed": seed,
        "seconds": seconds,
        "queries": queries,
        "threads": threads,
        "loadgen": version("mlcommons-loadgen"),
        "tree": source_tree(),
    }
    rows = Rows(out / f"loadgen-{name}.csv", ("what",), made_with)
    exam = standard_file(shape, seed, work)
    before = Counters.read()
    with scanside.load(pack, threads=threads, **how) as predictor:
        for what in SCENARIOS:
            if (what,) in rows:
                continue
            with tempfile.TemporaryDirectory(prefix="scanside-loadgen-") as logs:
                found = run_loadgen(predictor, exam, what, Path(logs), seconds=seconds, queries=queries)
            rows.add(
                {
                    "what": what,
                    "scenario": found.scenario,
                    "valid": int(found.valid),
                    **figures(found),
                    "remarks": " ".join(found.reasons),
                }
            )
            print(rows.rows[-1], flush=True)
    during = slowdowns(before, Counters.read())
    write_json(out / f"loadgen-{name}.json", {**conditions(), **made_with, "slowdowns": during})
    rows.finish()


def figures(found: LoadgenResult) -> dict[str, float | str]:
    """What a scenario is judged by: latencies of one query at a time, or samples a second."""
    told = ("samples_per_s",) if found.scenario == "Offline" else FIGURES[:-1]
    return {key: round(found.figures[key], 3) if key in told and key in found.figures else "" for key in FIGURES}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--shape", type=shape_from, default=STANDARD_SHAPE, help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--seed", type=int, default=STANDARD_SEED, help="which phantom")
    parser.add_argument("--seconds", type=float, default=60.0, help="least duration of each")
    parser.add_argument("--queries", type=int, default=64, help="least queries; 64 give LoadGen's 90th percentile")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--work", type=Path, default=WORK, help="folder where phantoms are kept")
    how_arguments(parser)


def minutes(given: Mapping[str, Any]) -> float:
    """The durations, and as many exams as there are queries."""
    share = given["shape"][0] * given["shape"][1] * given["shape"][2] / (318 * 600 * 800)
    return 1 + (2.5 * given["seconds"] + max(given["seconds"], given["queries"] * 20 * share)) / 60


TABLE = Table("loadgen", "MLPerf LoadGen: SingleStream and Offline", make_table, minutes, arguments)
