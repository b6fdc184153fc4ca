"""MLPerf LoadGen drives the measurement: SingleStream for a section or an exam, Offline for a volume's sections.

LoadGen issues the queries, keeps the time and judges whether a run is valid (early stopping, minimum duration); its
log stays in the folder the caller names. The package is `mlcommons-loadgen`, the extra `bench`.
"""

from __future__ import annotations

import array
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from scanside.bench.parts import SectionWork, decoded
from scanside.engine.predictor import Predictor
from scanside.engine.sections import native_slices, padded_shape
from scanside.errors import EngineError, OutputError, UsageError
from scanside.exam.planes import Plane, SectionGrid

SCENARIOS = {"section": "SingleStream", "exam": "SingleStream", "volume": "Offline"}
SUMMARY = "mlperf_log_summary.txt"
_RATE_MARGIN = 1.5
_FIELDS = {
    "p50_ms": (r"^50\.00 percentile latency \(ns\)\s*: (\d+)", 1e-6),
    "p90_ms": (r"^90\.00 percentile latency \(ns\)\s*: (\d+)", 1e-6),
    "p99_ms": (r"^99\.00 percentile latency \(ns\)\s*: (\d+)", 1e-6),
    "early_stopping_p90_ms": (r"^ \* Early stopping 90\.0th percentile estimate: (\d+)", 1e-6),
    "samples_per_s": (r"^Samples per second: ([\d.eE+]+)", 1.0),
}


@dataclass(frozen=True)
class LoadgenResult:
    """What LoadGen's summary says: its verdict with its remarks, percentiles, and samples a second when Offline."""

    what: str
    scenario: str
    valid: bool
    reasons: tuple[str, ...]
    figures: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "schema": "scanside-loadgen/1",
            "what": self.what,
            "scenario": self.scenario,
            "valid": self.valid,
            "reasons": list(self.reasons),
            "figures": self.figures,
        }


def require_loadgen() -> ModuleType:
    """The LoadGen module.

    Raises
    ------
    EngineError
        It is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError:
        raise EngineError(
            "MLPerf LoadGen is not installed", remedy='pip install "scanside[bench]" (package mlcommons-loadgen)'
        ) from None
    return mlperf_loadgen


def run_loadgen(
    predictor: Predictor, exam: Path, what: str, out_dir: Path, *, seconds: float = 10.0, queries: int = 100
) -> LoadgenResult:
    """Let LoadGen measure `what` of the exam at `exam`.

    Parameters
    ----------
    what : str
        "section": native slice to components, one at a time. "exam": file to findings, one at a time. "volume": all
        sections of all planes as one Offline query, in the pack's batches.
    out_dir : Path
        Gets LoadGen's log files.
    seconds, queries : float, int
        Least duration and least number of queries; MLPerf's official runs take 600 s. Fewer than 64 queries cannot
        give LoadGen's 90th percentile: the result then says that it is not valid, and why.

    Raises
    ------
    UsageError
        Another `what`, or a duration or count below what makes sense.
    EngineError
        LoadGen is not installed, or left no summary.
    OutputError
        `out_dir` cannot be written.
    ScansideError
        What a query raised.
    """
    if what not in SCENARIOS:
        raise UsageError("LoadGen measures no such thing", expected=" | ".join(SCENARIOS), found=repr(what))
    if seconds <= 0 or queries < 1:
        raise UsageError("LoadGen needs a duration and queries", found=f"{seconds} s, {queries} queries")
    loadgen = require_loadgen()
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / SUMMARY).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError("LoadGen's log cannot be written", where=out_dir, found=error.strerror) from error
    samples, answer = _work(predictor, exam, what)
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, SCENARIOS[what])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(seconds * 1e3)
    settings.min_query_count = 1 if what == "volume" else queries
    if what != "volume":  # LoadGen makes min_duration / this queries: too long an expectation runs out of them
        begun = time.perf_counter()
        answer(range(1))
        settings.single_stream_expected_latency_ns = max(1, round((time.perf_counter() - begun) / _RATE_MARGIN * 1e9))
    if what == "volume":  # LoadGen makes one query of 1.1 x this rate x the duration: it must last long enough
        begun = time.perf_counter()
        answer(range(samples))
        rate = samples / (time.perf_counter() - begun)
        settings.offline_expected_qps = max(_RATE_MARGIN * rate, samples / seconds)
    _drive(loadgen, settings, samples, answer, out_dir)
    summary = out_dir / SUMMARY
    if not summary.is_file():
        raise EngineError("LoadGen left no summary", where=out_dir, expected=SUMMARY)
    return parsed(what, summary.read_text(encoding="utf-8", errors="replace"))


def parsed(what: str, summary: str) -> LoadgenResult:
    """The result in LoadGen's summary text.

    Raises
    ------
    EngineError
        It names no result.
    """
    verdict = re.search(r"^Result is : (\w+)", summary, re.MULTILINE)
    if verdict is None:
        raise EngineError("LoadGen's summary names no result", where=SUMMARY, expected="Result is : VALID or INVALID")
    figures = {}
    for name, (pattern, scale) in _FIELDS.items():
        found = re.search(pattern, summary, re.MULTILINE)
        if found:
            figures[name] = float(found[1]) * scale
    reasons = tuple(re.findall(r"^\s*\* (.+)$", summary, re.MULTILINE))
    return LoadgenResult(what, SCENARIOS[what], verdict[1] == "VALID", reasons, figures)


def _work(predictor: Predictor, exam: Path, what: str) -> tuple[int, Callable[[Sequence[int]], None]]:
    """How many different samples there are, and what answers a query of some of them."""
    if what == "exam":
        predictor.analyze(exam)  # the first run makes the sessions

        def exams(indices: Sequence[int]) -> None:
            for _ in indices:
                predictor.analyze(exam)

        return 1, exams
    voxels, geometry = decoded(exam, predictor.threads)
    spec = predictor.segmenter.spec
    if what == "section":
        one = SectionWork(predictor, voxels, geometry, Plane.TRANSVERSE, 1)
        one(0)

        def sections(indices: Sequence[int]) -> None:
            for i in indices:
                one(i)

        return len(one.grid), sections
    grids = {p: SectionGrid.over(geometry, p, spec.pitch_mm, spec.every_mm) for p in predictor.segmenter.planes}

    def volumes(indices: Sequence[int]) -> None:
        """Sections in plane order, batch by batch; LoadGen's indices wrap around the volume."""
        left = len(indices)
        while left > 0:
            for grid in grids.values():
                count = min(left, len(grid))
                _segment(predictor, voxels, grid, count)
                left -= count

    return sum(map(len, grids.values())), volumes


def _segment(predictor: Predictor, voxels: Any, grid: SectionGrid, count: int) -> None:
    spec = predictor.segmenter.spec
    natives = native_slices(voxels, grid.plane, grid.indices.tolist())
    for first in range(0, count, spec.batch):
        size = min(spec.batch, count - first)
        pixels = np.zeros((size, 1, *padded_shape(grid.shape, spec.size_multiple)), np.uint8)
        for k in range(size):
            grid.section_of(next(natives), out=pixels[k, 0])
        predictor.segmenter.run(pixels, np.empty_like(pixels))


def _drive(
    loadgen: ModuleType, settings: Any, samples: int, answer: Callable[[Sequence[int]], None], out_dir: Path
) -> None:
    failed: list[BaseException] = []
    done = array.array("B", b"\x01")  # LoadGen reads it while the test runs: it must live until then
    address, size = done.buffer_info()

    def issue(queries: Sequence[Any]) -> None:
        try:
            if not failed:
                answer([query.index for query in queries])
        except BaseException as error:  # an exception must not cross LoadGen's C++; it is raised after the test
            failed.append(error)
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, address, size) for query in queries])

    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(out_dir), False
    log = loadgen.LogSettings()
    log.log_output, log.enable_trace = output, False
    sut = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(samples, samples, lambda _: None, lambda _: None)
    try:
        loadgen.StartTestWithLogSettings(sut, library, settings, log, "audit.config")
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
    if failed:
        raise failed[0]
