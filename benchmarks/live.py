"""Sweeps in real time: how long after the last frame the report is there, what is left to do then, and memory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scanside
from benchmarks.contest import standard_file
from benchmarks.done import Rows
from benchmarks.exam import conditions_here, how_arguments, with_size
from benchmarks.record import conditions, source_tree, write_json
from benchmarks.table import WORK, Table, seed_range
from scanside.bench.live import STANDARD_RATE, bench_live
from scanside.bench.machine import Counters, slowdowns
from scanside.bench.measurement import Measurement
from scanside.bench.plan import Plan
from scanside.bench.statistics import repetitions_for
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.exam.phantom.make import STANDARD_SHAPE

PERCENT = 50.0


def make_table(
    out: Path,
    pack: Path | None,
    seeds: Sequence[int],
    rates: Sequence[float],
    repetitions: int,
    shape: tuple[int, int, int],
    threads: int,
    work: Path,
    **how: Any,
) -> None:
    """Write live-<conditions>.csv and its record into `out`."""
    plan = Plan.of([PERCENT], repetitions=repetitions)
    name, ran = conditions_here(pack, threads, how)
    name = with_size(name, shape)
    made_with = {
        **how,
        **ran,
        "seeds": list(seeds),
        "rates": list(rates),
        "repetitions": repetitions,
        "shape": shape,
        "threads": threads,
        "tree": source_tree(),
    }
    rows = Rows(out / f"live-{name}.csv", ("seed", "frames_per_s"), made_with)
    before = Counters.read()
    with scanside.load(pack, threads=threads, **how) as predictor:
        for seed in seeds:
            exam = standard_file(shape, seed, work)
            for rate in rates:
                if (seed, rate) not in rows:
                    rows.add({"seed": seed, "frames_per_s": rate, **line(bench_live(predictor, exam, plan, rate=rate))})
                    print(rows.rows[-1], flush=True)
    during = slowdowns(before, Counters.read())
    write_json(out / f"live-{name}.json", {**conditions(), **made_with, "slowdowns": during})
    rows.finish()


def line(found: Measurement) -> dict[str, Any]:
    """A measurement as a line of the table."""
    (median,) = found.percentiles
    figures = {
        key: round(value, 3) if isinstance(value, float) else "" if value is None else value
        for key, value in found.figures.items()
    }
    return {
        "median_s": round(median.value / 1e3, 3),
        "ci95_low_s": round(median.low / 1e3, 3),
        "ci95_high_s": round(median.high / 1e3, 3),
        **figures,
        "sweeps": len(found.samples_ms),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--shape", type=shape_from, default=STANDARD_SHAPE, help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--seeds", type=seed_range, default=range(5200, 5203), help="FIRST:END")
    rates = (STANDARD_RATE, 4 * STANDARD_RATE)
    parser.add_argument("--rates", type=float, nargs="+", default=rates, help="frames a second")
    parser.add_argument("--repetitions", type=int, default=repetitions_for(PERCENT), help="sweeps a row")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--work", type=Path, default=WORK, help="folder where phantoms are kept")
    how_arguments(parser)
    parser.set_defaults(policy="confirm")


def minutes(given: Mapping[str, Any]) -> float:
    """The sweeps' own time, and half a minute a row for the phantom and the offline run."""
    sweeps_s = sum(given["shape"][0] / rate for rate in given["rates"]) * given["repetitions"]
    return len(given["seeds"]) * (sweeps_s + 30 * len(given["rates"])) / 60


TABLE = Table(
    "live", "seconds from the last frame of a sweep in real time to its report", make_table, minutes, arguments
)
