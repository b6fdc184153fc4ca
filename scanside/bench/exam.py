"""A whole exam, from its file to its findings: decoding included, sessions loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from scanside.bench.machine import Counters, gpus, peak_memory_mib, restart_peak_memory, slowdowns
from scanside.bench.measurement import Measurement, stage_table
from scanside.bench.plan import OnRepetition, Plan, conditions_of
from scanside.bench.timing import Clock, measure
from scanside.demo import Stages, write_phantom
from scanside.engine.flow import Progress
from scanside.engine.predictor import Predictor
from scanside.errors import EngineError
from scanside.exam.phantom.make import STANDARD_SHAPE
from scanside.report.model import Lesion, Timing

STANDARD_SEED = 5000
MAX_PROBABILITY_DIFFERENCE = 1e-3
"""Between two runs of one exam on one machine: sums in another order move the last digits alone."""


@contextmanager
def standard_exam(
    shape: tuple[int, int, int] = STANDARD_SHAPE, seed: int = STANDARD_SEED, stages: Stages | None = None
) -> Iterator[Path]:
    """The DICOM file of the phantom every benchmark analyses, in a temporary folder."""
    with TemporaryDirectory(prefix="scanside-bench-") as folder:
        yield write_phantom(folder, seed=seed, shape=shape, stages=stages)[0]


class Firsts:
    """When a run first has a section's mask, and when its first lesion is classified. A progress callback."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._begun = clock.wall()

    def __call__(self, step: Progress) -> None:
        self._seen.setdefault(step.stage, self._clock.wall())

    def ms(self, stage: str) -> float | None:
        """Milliseconds from the start to the first word of `stage`, None if it said nothing."""
        return None if stage not in self._seen else (self._seen[stage] - self._begun) * 1e3


@dataclass(frozen=True)
class _Run:
    """What one timed run leaves."""

    timing_ms: Timing
    trace: tuple[Mapping[str, Any], ...]
    firsts: Firsts
    shape: tuple[int, int, int]


def bench_exam(
    predictor: Predictor,
    exam: Path,
    plan: Plan,
    *,
    progress: OnRepetition | None = None,
    cancel: Event | None = None,
    clock: Clock | None = None,
) -> Measurement:
    """Analyse the exam at `exam` again and again.

    Each timed run opens and decodes the file anew (the file itself is in the page cache after the warm-up). The
    findings of a sample of the timed runs are compared with the first run's, and the golden cases are replayed at
    the end.

    Raises
    ------
    EngineError
        A run found something else than the first one, or a golden case came out wrong afterwards.
    ScansideError
        As `Predictor.analyze`.
    """
    clock = clock or Clock()
    first: list[tuple[Lesion, ...]] = []
    runs: list[_Run] = []

    def work(i: int) -> tuple[Lesion, ...]:
        firsts = Firsts(clock)
        report = predictor.analyze(exam, progress=firsts, cancel=cancel)
        if i >= 0:  # the report itself is let go: its mask would count as memory of the next runs
            runs.append(_Run(report.timing_ms, report.trace, firsts, report.exam.shape))
        return report.lesions

    def check(i: int, lesions: tuple[Lesion, ...]) -> None:
        if not first:
            first.append(lesions)
        require_same_findings(first[0], lesions, f"repetition {i}")

    before = Counters.read()
    restart_peak_memory()
    samples = measure(
        work, repetitions=plan.repetitions, warm_up=plan.warm_up, check=check, progress=progress, clock=clock
    )
    peak = peak_memory_mib()
    after = Counters.read()
    predictor.self_check()
    run = runs[samples.median_run]
    wall_ms = samples.wall_s[samples.median_run] * 1e3
    busy = run.timing_ms.stages
    conditions = conditions_of(predictor)
    on_cpu = conditions["device"] == "cpu"
    return Measurement(
        what="exam",
        conditions={**conditions, "shape": list(run.shape), "file_bytes": exam.stat().st_size},
        samples_ms=tuple(s * 1e3 for s in samples.wall_s),
        percentiles=samples.percentiles_ms(plan.percents),
        rate=len(samples.wall_s) / sum(samples.wall_s) * 3600,
        rate_unit="exams/h",
        checked=samples.checked,
        figures={
            "lesions": len(first[0]),
            "first_section_ms": run.firsts.ms("segment"),
            "first_finding_ms": run.firsts.ms("classify"),
            "cpu_s": sum(samples.cpu_s) / len(samples.cpu_s),
            "overlap": samples.overlap(predictor.threads) if on_cpu else None,
            "wall_over_busiest_stage": wall_ms / max(busy.values()),
            "peak_rss_mib": peak,
            "gpu_memory_mib": None if on_cpu else _gpu_memory_mib(),
        },
        stages=stage_table(busy, wall_ms, tuple(busy)),
        slowdowns=slowdowns(before, after),
        trace=run.trace,
    )


def require_same_findings(expected: Sequence[Lesion], found: Sequence[Lesion], where: str) -> None:
    """Raise unless two runs of one exam found the same boxes with the same probabilities.

    Raises
    ------
    EngineError
        They differ.
    """
    if [lesion.box_index for lesion in expected] != [lesion.box_index for lesion in found]:
        raise EngineError(
            "a timed run found other lesions than the first run",
            where=where,
            expected=[str(lesion.box_index) for lesion in expected],
            found=[str(lesion.box_index) for lesion in found],
            remedy="do not trust this runtime here: try --device cpu --precision fp32",
        )
    for a, b in zip(expected, found, strict=True):
        if not abs(a.probability - b.probability) <= MAX_PROBABILITY_DIFFERENCE:
            raise EngineError(
                "a timed run gave a lesion another probability than the first run",
                where=f"{where}, lesion {a.id}",
                expected=f"{a.probability:.6f}",
                found=f"{b.probability:.6f}",
                remedy="do not trust this runtime here: try --device cpu --precision fp32",
            )


def _gpu_memory_mib() -> float | None:
    used = [gpu.get("memory_mib", "") for gpu in gpus()]
    return float(used[0]) if used and used[0].replace(".", "").isdigit() else None
