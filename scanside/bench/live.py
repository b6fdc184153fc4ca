"""A sweep in real time: an exam's frames come at the scanner's rate, each at its time whether or not we keep up.

What counts is the time from the last frame to the report. Frames are decoded beforehand, as a scanner has them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from scanside.bench.exam import require_same_findings
from scanside.bench.machine import Counters, peak_memory_mib, resident_mib, restart_peak_memory, slowdowns
from scanside.bench.measurement import Measurement, stage_table
from scanside.bench.parts import decoded
from scanside.bench.plan import OnRepetition, Plan, conditions_of
from scanside.bench.statistics import Spread
from scanside.bench.timing import Samples
from scanside.engine.predictor import Predictor
from scanside.errors import UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Voxels
from scanside.report.model import Lesion, Timing

STANDARD_RATE = 5.3
"""Frames a second: 318 in 60 s."""


@dataclass(frozen=True)
class LiveRun:
    """One sweep.

    `after_s` from the last frame to the report, `first_finding_s` from the first frame to the first lesion told (None:
    there is none), `late_s` how late the latest frame was pushed; sections and triplets in all, and those still to do
    when the last frame was in; `resident_mib` at the end.
    """

    after_s: float
    cpu_s: float
    pushed_s: float
    first_finding_s: float | None
    late_s: float
    sections: int
    sections_left: int
    triplets: int
    triplets_left: int
    resident_mib: float | None
    lesions: tuple[Lesion, ...]
    timing_ms: Timing
    trace: tuple[Mapping[str, Any], ...]


def bench_live(
    predictor: Predictor,
    exam: Path,
    plan: Plan,
    *,
    rate: float = STANDARD_RATE,
    progress: OnRepetition | None = None,
    cancel: Event | None = None,
) -> Measurement:
    """Replay the exam at `exam` as a sweep of `rate` frames a second, again and again.

    The warm-up is the offline analysis under the same policy: every sweep must find what it found. Peak memory counts
    the replayed frames too, which a scanner holds elsewhere (`replayed_mib`).

    Raises
    ------
    UsageError
        A rate that is none.
    EngineError
        A sweep found something else than the offline analysis, or a golden case came out wrong afterwards.
    ScansideError
        As `Predictor.analyze` and `Session.finish`.
    """
    if not 0 < rate < float("inf"):
        raise UsageError("frames must come at a rate", expected="frames a second, above 0", found=rate)
    for _ in range(plan.warm_up):
        expected = predictor.analyze(exam, cancel=cancel).lesions
    voxels, geometry = decoded(exam, predictor.threads)
    before = Counters.read()
    restart_peak_memory()
    runs: list[LiveRun] = []
    for number in range(plan.repetitions):
        runs.append(replayed(predictor, voxels, geometry, rate, cancel=cancel))
        require_same_findings(expected, runs[-1].lesions, f"sweep {number}")
        if progress is not None:
            progress(number + 1, plan.repetitions)
    peak, after = peak_memory_mib(), Counters.read()
    predictor.self_check()
    samples = Samples(tuple(run.after_s for run in runs), tuple(run.cpu_s for run in runs), len(runs))
    median = runs[samples.median_run]
    first = [run.first_finding_s for run in runs if run.first_finding_s is not None]
    return Measurement(
        what="live",
        conditions={**conditions_of(predictor), "shape": list(geometry.shape), "frames_per_s": rate},
        samples_ms=tuple(s * 1e3 for s in samples.wall_s),
        percentiles=samples.percentiles_ms(plan.percents),
        rate=len(voxels) * len(runs) / sum(run.pushed_s for run in runs),
        rate_unit="frames/s",
        checked=samples.checked,
        figures={
            "lesions": len(expected),
            "worst_ms": max(samples.wall_s) * 1e3,
            "first_finding_s": Spread.of(first).median if first else None,
            "sweep_s": Spread.of([run.pushed_s for run in runs]).median,
            "sections": median.sections,
            "sections_left": max(run.sections_left for run in runs),
            "triplets": median.triplets,
            "triplets_left": max(run.triplets_left for run in runs),
            "push_late_ms": max(run.late_s for run in runs) * 1e3,
            "cpu_s": sum(samples.cpu_s) / len(runs),
            "peak_rss_mib": peak,
            "replayed_mib": voxels.nbytes / 2**20,
            "resident_mib_per_sweep": growth([run.resident_mib for run in runs]),
        },
        stages=stage_table(median.timing_ms.stages, median.timing_ms.total, tuple(median.timing_ms.stages)),
        slowdowns=slowdowns(before, after),
        trace=median.trace,
    )


def replayed(
    predictor: Predictor, voxels: Voxels, geometry: Geometry, rate: float, *, cancel: Event | None = None
) -> LiveRun:
    """One sweep at `rate` frames a second."""
    told: list[float] = []

    def on_lesions(lesions: tuple[Lesion, ...]) -> None:
        if lesions:
            told.append(time.perf_counter())

    with predictor.start(geometry, on_lesions=on_lesions, cancel=cancel) as session:
        begun, cpu = time.perf_counter(), time.process_time()
        late_s = 0.0
        for k, frame in enumerate(voxels):
            due = begun + k / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            session.push(frame)
            late_s = max(late_s, time.perf_counter() - due)
        ended = time.perf_counter()
        report = session.finish()
        after_s = time.perf_counter() - ended
        cpu_s = time.process_time() - cpu
    return LiveRun(
        after_s=after_s,
        cpu_s=cpu_s,
        pushed_s=ended - begun,
        first_finding_s=told[0] - begun if told else None,
        late_s=late_s,
        sections=counted(report.trace, "segment"),
        sections_left=counted(report.trace, "segment", after_us=last_frame_us(report.trace)),
        triplets=counted(report.trace, "classify"),
        triplets_left=counted(report.trace, "classify", after_us=last_frame_us(report.trace)),
        resident_mib=resident_mib(),
        lesions=report.lesions,
        timing_ms=report.timing_ms,
        trace=report.trace,
    )


def last_frame_us(trace: Sequence[Mapping[str, Any]]) -> float:
    """When a sweep's last frame was in, on its trace's clock."""
    return max(event["ts"] + event["dur"] for event in trace if "frame" in event.get("args", {}))


def counted(trace: Sequence[Mapping[str, Any]], stage: str, *, after_us: float = -1.0) -> int:
    """How many sections or triplets `stage` answered later than `after_us`."""
    spans = (event for event in trace if event["name"] == stage and event["ph"] == "X")
    return sum(event["args"]["count"] for event in spans if event["ts"] + event["dur"] > after_us)


def growth(resident: Sequence[float | None]) -> float | None:
    """Slope of memory over the runs, in MiB a run; None for a single one or where the system does not say."""
    known = [mib for mib in resident if mib is not None]
    if len(known) < 2:
        return None
    return float(np.polyfit(range(len(known)), known, 1)[0])
