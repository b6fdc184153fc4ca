"""Exams, sections and triplets are measured whole, and a wrong answer in a timed run is an error, not a number."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scanside.bench.exam import Firsts, bench_exam, require_same_findings
from scanside.bench.measurement import write_trace
from scanside.bench.parts import bench_section, bench_triplet
from scanside.bench.plan import Plan
from scanside.bench.plot import plot_measurement
from scanside.bench.timing import Clock
from scanside.engine.flow import STAGES, Progress
from scanside.engine.predictor import Predictor
from scanside.errors import EngineError, OutputError, UsageError

SIX = Plan.of([50])


@pytest.fixture(autouse=True)
def _cheap_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"memory_gb_per_s": 1.0, "gemm_gop_per_s": 10.0, "gemm_by": "a test"}
    monkeypatch.setattr("scanside.bench.parts.rates_of", lambda *_, **__: rates)


def test_plans() -> None:
    assert Plan.of([90, 50]) == Plan((50, 90), 36, 1)
    assert Plan.of([50], repetitions=10).repetitions == 10
    for wrong in ({"percents": []}, {"percents": [99], "repetitions": 367}, {"percents": [50], "warm_up": 0}):
        with pytest.raises(UsageError):
            Plan.of(**wrong)  # type: ignore[arg-type]


def test_an_exam(predictor: Predictor, exam: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = bench_exam(predictor, exam, SIX, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert len(found.samples_ms) == 6
    (median,) = found.percentiles
    assert median.low == min(found.samples_ms) <= median.value <= median.high == max(found.samples_ms)
    assert found.figures["lesions"] == 2
    assert 0 < found.figures["first_section_ms"] < found.figures["first_finding_ms"]  # type: ignore[operator]
    assert found.figures["first_finding_ms"] <= max(found.samples_ms)  # type: ignore[operator]
    assert tuple(stage.name for stage in found.stages) == STAGES
    assert found.conditions["shape"] == [24, 80, 96]
    assert found.name.startswith("exam-cpu1-")
    assert found.name.endswith("-fp32-exact")
    shown = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert shown["repetitions"] == 6
    assert shown["latency_ms"]["p50"]["ci95_low"] == median.low
    write_trace(found, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events} >= set(STAGES)
    plot_measurement(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(OutputError):
        plot_measurement(found, tmp_path / "absent" / "plot.png")


def test_a_run_that_finds_something_else(predictor: Predictor, exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = predictor.analyze(exam)
    require_same_findings(report.lesions, report.lesions, "here")
    fewer = replace(report, lesions=report.lesions[:1])
    answers = itertools.chain([report, report], itertools.repeat(fewer))
    monkeypatch.setattr(predictor, "analyze", lambda *_, **__: next(answers))
    with pytest.raises(EngineError, match="other lesions than the first run"):
        bench_exam(predictor, exam, SIX)
    other = replace(report.lesions[0], probability=report.lesions[0].probability + 0.01)
    with pytest.raises(EngineError, match="another probability"):
        require_same_findings(report.lesions, (other, *report.lesions[1:]), "here")
    nan = replace(other, probability=float("nan"))
    with pytest.raises(EngineError, match="another probability"):
        require_same_findings(report.lesions, (nan, *report.lesions[1:]), "here")


def test_firsts() -> None:
    ticks = iter([10.0, 10.5, 11.0, 12.0])
    firsts = Firsts(Clock(lambda: next(ticks)))
    for stage in ("segment", "segment", "classify"):
        firsts(Progress(stage, 1, 9))
    assert (firsts.ms("segment"), firsts.ms("classify"), firsts.ms("decode")) == (500.0, 2000.0, None)


@pytest.mark.parametrize(("plane", "batch", "network_input"), [("transverse", 1, [64, 96]), ("coronal", 3, [32, 96])])
def test_a_section(predictor: Predictor, exam: Path, plane: str, batch: int, network_input: list[int]) -> None:
    found = bench_section(predictor, exam, SIX, plane=plane, batch=batch)
    assert found.conditions["network_input"] == network_input
    assert found.rate == pytest.approx(batch * 6e3 / sum(found.samples_ms))
    pixels = network_input[0] * network_input[1]
    # The tiny network: a 3 x 3 convolution, and seven layers of one operation a pixel.
    assert found.figures["gop_each"] == pytest.approx(pixels * (2 * 9 + 6) / 1e9, rel=0.1)
    assert found.figures["share_of_gemm"] == pytest.approx(found.figures["gop_per_s"] / 10)  # type: ignore[operator]
    with pytest.raises(UsageError, match="trace"):
        write_trace(found, "nowhere")


def test_a_triplet(predictor: Predictor, exam: Path) -> None:
    found = bench_triplet(predictor, exam, SIX, batch=2)
    assert found.rate_unit == "triplets/s"
    assert found.conditions["crop"] == 32
    assert found.rate == pytest.approx(2 * 6e3 / sum(found.samples_ms))


@pytest.mark.parametrize("bench", [bench_section, bench_triplet])
def test_an_answer_that_changes(bench, predictor: Predictor, exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)

    def noise(pixels: np.ndarray, probability: np.ndarray) -> None:
        probability[...] = rng.integers(0, 256, probability.shape)

    monkeypatch.setattr(predictor.segmenter, "run", noise)
    monkeypatch.setattr(predictor.classifier, "run", lambda crops: rng.random(1, dtype=np.float32))
    with pytest.raises(EngineError, match="another answer than the first one at the same place"):
        bench(predictor, exam, Plan((50.0,), 400, 1))


def test_planes_and_batches_that_do_not_exist(predictor: Predictor, exam: Path) -> None:
    with pytest.raises(UsageError, match="transverse"):
        bench_section(predictor, exam, SIX, plane="oblique")
    with pytest.raises(UsageError, match="empty batch"):
        bench_triplet(predictor, exam, SIX, batch=0)
