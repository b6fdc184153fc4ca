"""Live sweeps: the same report as afterwards, findings on the way, and every way in which a sweep can go wrong."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scanside.engine.flow import Progress
from scanside.engine.live import Session
from scanside.engine.predictor import Predictor, load
from scanside.errors import Cancelled, ExamReadError, UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Volume
from scanside.report.json import to_json
from scanside.report.model import Lesion, Report

if TYPE_CHECKING:
    from tests.conftest import BlobVolume


@pytest.fixture(scope="module")
def confirming(tiny_pack: Path) -> Iterator[Predictor]:
    with load(tiny_pack, device="cpu", precision="fp32", threads=1, policy="confirm") as loaded:
        yield loaded


@pytest.fixture(params=["exact", "confirm"])
def either(request: pytest.FixtureRequest, predictor: Predictor, confirming: Predictor) -> Predictor:
    return predictor if request.param == "exact" else confirming


@pytest.fixture
def nothing_left() -> Iterator[None]:
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("scanside")] == []
    if files:
        assert len(os.listdir("/proc/self/fd")) == files


pytestmark = pytest.mark.usefixtures("nothing_left")


def geometry_of(blob: BlobVolume) -> Geometry:
    return blob.volume().geometry


def findings(report: Report) -> dict:
    """Everything of a report but what names the source and counts the time."""
    content = to_json(report)
    del content["timing_ms"], content["exam"]["source"], content["exam"]["geometry_source"]
    return content


def assert_same(a: Report, b: Report) -> None:
    assert findings(a) == findings(b)
    assert a.lesions == b.lesions
    assert np.array_equal(a.mask.labels, b.mask.labels)


def swept(predictor: Predictor, blob: BlobVolume, order: list[int] | None = None, **how: object) -> Report:
    with predictor.start(geometry_of(blob), **how) as session:  # type: ignore[arg-type]
        for k in order if order is not None else range(len(blob.voxels)):
            session.push(blob.voxels[k], k)
        return session.finish()


def test_the_report_is_the_one_of_the_whole_exam(either: Predictor, blob_volume: BlobVolume) -> None:
    with either.start(geometry_of(blob_volume)) as session:
        for frame in blob_volume.voxels:
            session.push(frame)
        report = session.finish()
    assert len(report.lesions) == 2
    assert report.device.policy == either.policy
    assert report.exam.complete
    assert np.array_equal(session.voxels, blob_volume.voxels)
    assert_same(report, either.analyze(blob_volume.volume()))


def test_frames_may_come_in_any_order(either: Predictor, blob_volume: BlobVolume) -> None:
    order = list(range(len(blob_volume.voxels)))
    reference = either.analyze(blob_volume.volume())
    for seed in range(3):
        random.Random(seed).shuffle(order)
        assert_same(swept(either, blob_volume, order), reference)


def test_reports_are_identical_over_repeats(either: Predictor, blob_volume: BlobVolume) -> None:
    first = swept(either, blob_volume)
    for _ in range(19):
        assert_same(swept(either, blob_volume), first)


def long_sweep() -> Volume:
    """150 mm with a bright lesion near its start and one near its end."""
    voxels = np.full((150, 40, 60), 50, np.uint8)
    voxels[12:22, 10:20, 20:34] = 235
    voxels[130:141, 14:26, 30:42] = 170
    return Volume.from_array(voxels, (1.0, 1.0, 1.0))


def test_under_confirm_a_lesion_is_told_while_the_sweep_goes_on(confirming: Predictor) -> None:
    volume, told, seen = long_sweep(), threading.Event(), []

    def on_lesions(lesions: tuple[Lesion, ...]) -> None:
        seen.append(lesions)
        told.set()

    with confirming.start(volume.geometry, on_lesions=on_lesions) as session:
        frames = list(volume.frames())
        for frame in frames[:110]:
            session.push(frame)
        assert told.wait(30)
        assert session.missing == 40
        for frame in frames[110:]:
            session.push(frame)
        report = session.finish()
    assert [lesion.malignant for lesion in seen[0]] == [True]
    assert seen[0][0] == report.lesions[0]
    assert seen[-1] == report.lesions
    assert len(report.lesions) == 2
    assert_same(report, confirming.analyze(volume))


def test_little_is_left_to_do_after_the_last_frame(confirming: Predictor) -> None:
    volume, told = long_sweep(), threading.Event()
    with confirming.start(volume.geometry, on_lesions=lambda lesions: told.set()) as session:
        frames = list(volume.frames())
        for frame in frames[:-1]:
            session.push(frame)
        assert told.wait(30)
        before = session.looked_at
        session.push(frames[-1])
        report = session.finish()
    assert before["sagittal"] > 0
    late = {plane: n - before.get(plane, 0) for plane, n in report.device.sections.items()}
    assert late["sagittal"] <= report.device.sections["sagittal"] / 2 + 1


def test_a_region_that_waits_for_frames_holds_up_no_other(confirming: Predictor) -> None:
    voxels = np.full((250, 40, 180), 50, np.uint8)
    voxels[8:22, 6:30, 4:176] = 150  # too wide for a window: its sections need every frame
    voxels[60:70, 10:20, 90:104] = 235
    volume, told = Volume.from_array(voxels, (1.0, 1.0, 1.0)), threading.Event()

    def on_lesions(lesions: tuple[Lesion, ...]) -> None:
        if any(lesion.malignant for lesion in lesions):
            told.set()

    with confirming.start(volume.geometry, on_lesions=on_lesions) as session:
        for k in range(200):
            session.push(voxels[k])
        assert told.wait(30)
        for k in range(200, 250):
            session.push(voxels[k])
        report = session.finish()
    assert len(report.lesions) == 2
    assert_same(report, confirming.analyze(volume))


# --- faults ---


def test_a_frame_of_another_size_is_refused_and_the_sweep_goes_on(either: Predictor, blob_volume: BlobVolume) -> None:
    with either.start(geometry_of(blob_volume)) as session:
        session.push(blob_volume.voxels[0])
        for wrong in (np.zeros((81, 96), np.uint8), np.zeros((80, 96), np.float32), "frame"):
            with pytest.raises(
                ExamReadError, match=r"sweep: frame 1: the frame does not fit the sweep; expected"
            ) as no:
                session.push(wrong)  # type: ignore[arg-type]
            assert no.value.exit_code == 3
        for frame in blob_volume.voxels[1:]:
            session.push(frame)
        assert_same(session.finish(), either.analyze(blob_volume.volume()))


def test_a_frame_twice_or_beyond_the_sweep_is_refused(either: Predictor, blob_volume: BlobVolume) -> None:
    with either.start(geometry_of(blob_volume)) as session:
        session.push(blob_volume.voxels[3], 3)
        with pytest.raises(ExamReadError, match="frame 3: the frame came twice"):
            session.push(np.zeros((80, 96), np.uint8), 3)
        for k in (24, -1):
            with pytest.raises(ExamReadError, match=f"frame {k}: the sweep has no such frame; expected 0 to 23"):
                session.push(blob_volume.voxels[0], k)
        for k in sorted(set(range(24)) - {3}):
            session.push(blob_volume.voxels[k], k)
        assert_same(session.finish(), either.analyze(blob_volume.volume()))


@pytest.mark.parametrize("came", [1, 13, 23])
def test_an_early_end_keeps_the_findings_and_says_so(either: Predictor, blob_volume: BlobVolume, came: int) -> None:
    report = swept(either, blob_volume, list(range(came)))
    assert report.exam.missing_frames == 24 - came
    assert not report.exam.complete
    assert to_json(report)["exam"]["complete"] is False
    black = blob_volume.voxels.copy()
    black[came:] = 0
    offline = either.analyze(black, spacing_mm=blob_volume.spacing_mm)
    assert_same(replace(report, exam=replace(report.exam, missing_frames=0)), offline)


def test_a_gap_is_black(either: Predictor, blob_volume: BlobVolume) -> None:
    report = swept(either, blob_volume, [k for k in range(24) if k != 8])
    assert report.exam.missing_frames == 1
    assert len(report.lesions) >= 1


def test_no_frame_at_all_is_an_error(either: Predictor, blob_volume: BlobVolume) -> None:
    with (
        either.start(geometry_of(blob_volume)) as session,
        pytest.raises(ExamReadError, match="no frame came; expected 24 frames"),
    ):
        session.finish()


def test_a_session_ends_once(either: Predictor, blob_volume: BlobVolume) -> None:
    with either.start(geometry_of(blob_volume)) as session:
        session.push(blob_volume.voxels[0])
        session.finish()
        with pytest.raises(UsageError, match="has ended"):
            session.push(blob_volume.voxels[1])
        with pytest.raises(UsageError, match="has ended before"):
            session.finish()


@pytest.mark.parametrize("callback", ["progress", "on_lesions"])
def test_a_callback_that_raises_ends_the_sweep_with_its_error(
    either: Predictor, blob_volume: BlobVolume, callback: str
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError(callback)

    with pytest.raises(ZeroDivisionError, match=callback):
        swept(either, blob_volume, **{callback: broken})


def test_a_worker_that_dies_is_heard_at_the_next_frame(
    either: Predictor, blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise SystemExit("worker")

    monkeypatch.setattr("scanside.engine.networks.Segmenter.submit", dies)
    with either.start(geometry_of(blob_volume)) as session:
        with pytest.raises(SystemExit, match="worker"):  # noqa: PT012 - it may be heard at any of them
            for k in range(4):
                session.push(blob_volume.voxels[k])
            session._over.wait(30)
            session.push(blob_volume.voxels[4])
        with pytest.raises(SystemExit, match="worker"):
            session.finish()


def test_cancelling_at_fifty_random_points(either: Predictor, blob_volume: BlobVolume) -> None:
    calls = []
    swept(either, blob_volume, progress=calls.append)
    for seed in range(50):
        rng, cancel, count = random.Random(seed), threading.Event(), [0]
        stop_at = rng.randrange(len(calls))

        def progress(_: Progress, stop_at=stop_at, count=count, cancel=cancel) -> None:  # type: ignore[no-untyped-def]
            if count[0] == stop_at:
                cancel.set()
            count[0] += 1

        with pytest.raises(Cancelled):
            swept(either, blob_volume, progress=progress, cancel=cancel)


def test_leaving_without_finish_cancels(either: Predictor, blob_volume: BlobVolume) -> None:
    with either.start(geometry_of(blob_volume)) as session:
        session.push(blob_volume.voxels[0])
    with pytest.raises(Cancelled):
        session.finish()


def test_a_finished_session_leaves_the_callers_event_alone(either: Predictor, blob_volume: BlobVolume) -> None:
    cancel = threading.Event()
    swept(either, blob_volume, cancel=cancel)
    with either.start(geometry_of(blob_volume), cancel=cancel):
        pass
    assert not cancel.is_set()


def test_frames_from_several_threads(either: Predictor, blob_volume: BlobVolume) -> None:
    def push(session: Session, first: int) -> None:
        for k in range(first, 24, 4):
            session.push(blob_volume.voxels[k], k)

    with either.start(geometry_of(blob_volume)) as session:
        pushers = [threading.Thread(target=push, args=(session, first)) for first in range(4)]
        for pusher in pushers:
            pusher.start()
        for pusher in pushers:
            pusher.join()
        assert_same(session.finish(), either.analyze(blob_volume.volume()))


def test_a_dozen_exams_leave_nothing(either: Predictor, blob_volume: BlobVolume) -> None:
    for _ in range(12):
        assert len(swept(either, blob_volume).lesions) == 2
