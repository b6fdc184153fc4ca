"""A sweep is replayed, what is left to do is counted on its trace, and every report is the offline one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scanside.bench.live import bench_live, counted, growth, last_frame_us
from scanside.bench.measurement import write_trace
from scanside.bench.plan import Plan
from scanside.engine.predictor import Predictor, load
from scanside.errors import Cancelled, EngineError, UsageError

FAST = 5000.0
SIX = Plan.of([50])


@pytest.fixture(scope="module")
def confirming(tiny_pack: Path) -> Iterator[Predictor]:
    with load(tiny_pack, device="cpu", precision="fp32", threads=1, policy="confirm") as loaded:
        yield loaded


@pytest.fixture(params=["exact", "confirm"])
def either(request: pytest.FixtureRequest, predictor: Predictor, confirming: Predictor) -> Predictor:
    return predictor if request.param == "exact" else confirming


def test_a_sweep(either: Predictor, exam: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = bench_live(either, exam, SIX, rate=FAST, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert found.checked == len(found.samples_ms) == 6
    figures = found.figures
    assert figures["lesions"] == 2
    assert figures["sections"] == sum(either.analyze(exam).device.sections.values())
    assert 0 <= figures["sections_left"] <= figures["sections"]  # type: ignore[operator]
    assert figures["triplets"] > 0  # type: ignore[operator]
    assert 0 <= figures["triplets_left"] <= figures["triplets"]  # type: ignore[operator]
    assert figures["worst_ms"] == max(found.samples_ms)
    assert 0 < found.rate <= FAST * 24 / 23  # the last frame is not waited out
    assert found.conditions["frames_per_s"] == FAST
    assert found.name == f"live-{found.conditions['name']}"
    assert found.name.endswith(either.policy)
    json.dumps(found.to_json(), allow_nan=False)
    write_trace(found, tmp_path / "trace.json")


def test_under_exact_everything_but_transverse_sections_is_left(predictor: Predictor, exam: Path) -> None:
    figures = bench_live(predictor, exam, SIX, rate=FAST).figures
    across = predictor.analyze(exam).device.sections
    assert figures["sections_left"] >= across["sagittal"] + across["coronal"]  # type: ignore[operator]
    assert figures["triplets_left"] == figures["triplets"]


def test_another_finding_than_the_offline_one(
    predictor: Predictor, exam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = predictor.analyze(exam)
    fewer = replace(report, lesions=report.lesions[:1])
    monkeypatch.setattr(predictor, "analyze", lambda *_, **__: fewer)
    with pytest.raises(EngineError, match=r"sweep 0.*other lesions"):
        bench_live(predictor, exam, SIX, rate=FAST)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_no_rate(predictor: Predictor, exam: Path, rate: float) -> None:
    with pytest.raises(UsageError, match="rate"):
        bench_live(predictor, exam, SIX, rate=rate)


def test_cancelling_between_two_frames(predictor: Predictor, exam: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        bench_live(predictor, exam, SIX, rate=FAST, progress=lambda *_: cancel.set(), cancel=cancel)
    assert [t for t in threading.enumerate() if t.name.startswith("scanside")] == []


def test_what_is_left_by_hand() -> None:
    def span(name: str, ts: float, dur: float, **args: int) -> dict[str, object]:
        return {"name": name, "ph": "X", "ts": ts, "dur": dur, "args": args}

    trace = [
        {"name": "thread_name", "ph": "M", "args": {"name": "decode"}},
        span("decode", 0, 1, frame=0),
        span("segment", 2, 5, first=0, count=4),  # answered at 7, before the last frame
        span("decode", 9, 1, frame=1),
        span("segment", 8, 4, first=4, count=3),  # begun before the last frame, answered after it
        span("classify", 12, 1, first=0, count=2),
        span("decode", 20, 9, frames=2),  # the look at all voxels, no frame
    ]
    assert last_frame_us(trace) == 10
    assert counted(trace, "segment") == 7
    assert counted(trace, "segment", after_us=10) == 3
    assert counted(trace, "classify", after_us=10) == 2


def test_memory_a_sweep() -> None:
    assert growth([100.0, 102.0, 104.0]) == pytest.approx(2.0)
    assert growth([100.0]) is growth([None, None]) is None
