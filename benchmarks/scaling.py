"""Cost against size: an exam's time as its sections, its bytes and its lesions grow tenfold, and over threads.

Each row changes one thing. `sweep` shortens the sweep at the standard voxel size: sections and bytes shrink together.
`voxels` keeps the extent, so the sections, and makes the voxels coarser. `lesions` puts more of them into the phantom.
`threads` runs the standard size on fewer cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scanside
from benchmarks.done import Rows
from benchmarks.exam import conditions_here, how_arguments, with_size
from benchmarks.record import conditions, source_tree, write_json
from benchmarks.table import Table
from scanside.bench.machine import Counters, peak_memory_mib, restart_peak_memory, slowdowns
from scanside.bench.statistics import Spread
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.engine.predictor import Predictor
from scanside.exam.phantom import make_phantom
from scanside.exam.phantom.make import STANDARD_EXTENT_MM
from scanside.exam.planes import SectionGrid
from scanside.exam.volume import Volume

SHARES = (0.1, 0.2, 0.5, 1.0)
LESIONS = (1, 3, 10)
SEED = 5200


@dataclass(frozen=True)
class Case:
    """One row: what it varies and to what."""

    varied: str
    value: float
    shape: tuple[int, int, int]
    extent_mm: tuple[float, float, float]
    lesions: int
    threads: int


def cases(shape: tuple[int, int, int], threads: int) -> list[Case]:
    """All rows for a standard of `shape` on `threads` threads."""
    sweep, depth, lateral = shape
    extent, found = STANDARD_EXTENT_MM, []
    for share in SHARES:
        frames = max(8, round(sweep * share))
        short = (extent[0] * frames / sweep, *extent[1:])
        found.append(Case("sweep", share, (frames, depth, lateral), short, 1, threads))
    for share in SHARES[:-1]:
        each = share ** (1 / 3)
        coarse = tuple(max(8, round(n * each)) for n in shape)
        found.append(Case("voxels", share, coarse, extent, 1, threads))  # type: ignore[arg-type]
    found += [Case("lesions", n, shape, extent, n, threads) for n in LESIONS]
    counts = sorted({1, threads, *(2**k for k in range(1, 8) if 2**k < threads)})
    return found + [Case("threads", n, shape, extent, 1, n) for n in counts]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--shape", type=shape_from, default=shape_from("318x600x800"), help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="most threads")
    parser.add_argument("--repetitions", type=int, default=3, help="timed runs a row")
    how_arguments(parser)


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly, from the seconds of a standard exam and phantom on two idle cores."""
    share = given["shape"][0] * given["shape"][1] * given["shape"][2] / (318 * 600 * 800)
    return len(cases(given["shape"], given["threads"])) * share * (25 + (given["repetitions"] + 1) * 20) / 60


def make_table(
    out: Path,
    pack: Path | None,
    shape: tuple[int, int, int],
    threads: int,
    repetitions: int,
    device: str,
    precision: str,
    policy: str,
    allow_uncertified: bool,
) -> None:
    """Write scaling-<conditions>.csv and its record into `out`."""
    how = {"device": device, "precision": precision, "policy": policy, "allow_uncertified": allow_uncertified}
    name, ran = conditions_here(pack, threads, how)
    name = with_size(name, shape)
    made_with = {**how, **ran, "shape": shape, "threads": threads, "repetitions": repetitions, "tree": source_tree()}
    rows = Rows(out / f"scaling-{name}.csv", ("varied", "value"), made_with)
    before = Counters.read()
    for case in cases(shape, threads):
        if (case.varied, case.value) in rows:
            continue
        with scanside.load(pack, threads=case.threads, **how) as predictor:
            rows.add(measured(predictor, case, repetitions))
        print(rows.rows[-1], flush=True)
    write_json(
        out / f"scaling-{name}.json",
        {
            **conditions(),
            **made_with,
            "slowdowns": slowdowns(before, Counters.read()),
        },
    )
    rows.finish()


def measured(predictor: Predictor, case: Case, repetitions: int) -> dict[str, Any]:
    """One row: median and range of the run's seconds, and the busy seconds of its stages (medians)."""
    phantom = make_phantom(SEED, shape=case.shape, extent_mm=case.extent_mm, lesions=case.lesions)
    volume = Volume.from_array(phantom.voxels, phantom.geometry.spacing_mm, source=f"phantom {SEED}")
    predictor.analyze(volume)
    restart_peak_memory()
    reports = [predictor.analyze(volume) for _ in range(repetitions)]
    seconds = Spread.of([report.timing_ms.total / 1e3 for report in reports])
    return {
        "varied": case.varied,
        "value": case.value,
        "threads": case.threads,
        "shape": "x".join(map(str, case.shape)),
        "sections": _sections(predictor, volume),
        "mb": round(phantom.voxels.nbytes / 1e6, 2),
        "lesions": len(reports[0].lesions),
        "median_s": round(seconds.median, 4),
        "low_s": round(seconds.low, 4),
        "high_s": round(seconds.high, 4),
        **{f"{stage}_s": round(_median(reports, stage), 4) for stage in reports[0].timing_ms.stages},
        "peak_rss_mib": round(peak_memory_mib() or 0),
    }


def _sections(predictor: Predictor, volume: Volume) -> int:
    spec = predictor.segmenter.spec
    grids = (SectionGrid.over(volume.geometry, p, spec.pitch_mm, spec.every_mm) for p in predictor.segmenter.planes)
    return sum(map(len, grids))


def _median(reports: Sequence[Any], stage: str) -> float:
    return Spread.of([report.timing_ms.stages[stage] / 1e3 for report in reports]).median


TABLE = Table("scaling", "cost against sections, bytes, lesions and threads", make_table, minutes, arguments)
