"""MLPerf LoadGen drives real runs of the tiny pack, and its absence or a failing query is one clear error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scanside.bench.loadgen import SUMMARY, parsed, run_loadgen
from scanside.engine.predictor import Predictor
from scanside.errors import EngineError, OutputError, UsageError

SINGLE_STREAM = """
================================================
MLPerf Results Summary
================================================
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 1500000
Result is : INVALID
  Min duration satisfied : Yes
  Min queries satisfied : NO
Recommendations:
 * The test exited early, before enough queries were issued.
50.00 percentile latency (ns)   : 1000000
90.00 percentile latency (ns)   : 1500000
99.00 percentile latency (ns)   : 2500000
"""


def test_the_summary_is_read() -> None:
    found = parsed("section", SINGLE_STREAM)
    assert not found.valid
    assert found.reasons == ("The test exited early, before enough queries were issued.",)
    assert found.figures == {"p90_ms": 1.5, "p50_ms": 1.0, "p99_ms": 2.5}
    with pytest.raises(EngineError, match="names no result"):
        parsed("section", "nothing")


def test_without_loadgen(predictor: Predictor, exam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(EngineError, match=r"scanside\[bench\]"):
        run_loadgen(predictor, exam, "section", tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("what", "figure"), [("section", "p90_ms"), ("exam", "p90_ms"), ("volume", "samples_per_s")])
def test_loadgen_measures(predictor: Predictor, exam: Path, tmp_path: Path, what: str, figure: str) -> None:
    pytest.importorskip("mlperf_loadgen")
    found = run_loadgen(predictor, exam, what, tmp_path, seconds=0.1, queries=3)
    assert found.figures[figure] > 0
    assert (tmp_path / SUMMARY).is_file()


def test_an_error_in_a_query_reaches_the_caller(
    predictor: Predictor, exam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlperf_loadgen")
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise EngineError("the graph failed")

    monkeypatch.setattr(predictor.segmenter, "run", fail)
    with pytest.raises(EngineError, match="the graph failed"):
        run_loadgen(predictor, exam, "section", tmp_path, seconds=0.05, queries=2)
    assert len(calls) == 3  # no query is answered after the first failure


def test_what_makes_no_sense(predictor: Predictor, exam: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"section \| exam \| volume"):
        run_loadgen(predictor, exam, "sweep", tmp_path)
    with pytest.raises(UsageError, match="duration"):
        run_loadgen(predictor, exam, "section", tmp_path, seconds=0)
    (tmp_path / "file").write_text("in the way")
    pytest.importorskip("mlperf_loadgen")
    with pytest.raises(OutputError, match="cannot be written"):
        run_loadgen(predictor, exam, "section", tmp_path / "file" / "logs")
