"""The same exam gives the same report: again and again, however stages are delayed; and a stop leaves nothing."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scanside.engine.flow import Channel, Progress
from scanside.engine.predictor import Predictor, load
from scanside.errors import Cancelled
from scanside.report.json import report_text, to_json
from scanside.report.model import Report
from scanside.study import analyze_to_folder

if TYPE_CHECKING:
    from tests.conftest import BlobVolume
    from tests.engine.conftest import Framed

POINTS = 50


@pytest.fixture(scope="module", params=["exact", "confirm"])
def either(request: pytest.FixtureRequest, tiny_pack: Path) -> Iterator[Predictor]:
    with load(tiny_pack, device="cpu", precision="fp32", threads=2, policy=request.param) as loaded:
        yield loaded


def bits(report: Report) -> bytes:
    """The report's text without its times, and its mask."""
    content = json.loads(json.dumps(to_json(report)))
    del content["timing_ms"]
    return report_text(content).encode() + report.mask.labels.tobytes()


def test_twenty_reports_are_the_same_bit_by_bit(either: Predictor, blob_volume: BlobVolume, framed: Framed) -> None:
    found = {bits(either.analyze(framed(blob_volume.volume()))) for _ in range(20)}
    assert len(found) == 1
    assert b'"lesions"' in found.pop()


@pytest.mark.parametrize("seed", range(5))
def test_delays_between_stages_change_nothing(
    either: Predictor, blob_volume: BlobVolume, framed: Framed, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    expected = bits(either.analyze(framed(blob_volume.volume())))
    rng, put, get = random.Random(seed), Channel.put, Channel.get
    delayed: list[str] = []

    def late_put(self: Channel, item: object) -> None:
        delayed.append("put")
        time.sleep(rng.random() * 0.004)
        put(self, item)

    def late_get(self: Channel) -> object:
        delayed.append("get")
        time.sleep(rng.random() * 0.004)
        return get(self)

    monkeypatch.setattr(Channel, "put", late_put)
    monkeypatch.setattr(Channel, "get", late_get)
    assert bits(either.analyze(framed(blob_volume.volume()))) == expected
    assert {"put", "get"} == set(delayed)


def test_a_stop_at_fifty_random_points_leaves_no_thread_file_or_descriptor(
    either: Predictor, exam_file: Path, tmp_path: Path
) -> None:
    calls: list[Progress] = []
    analyze_to_folder(either, exam_file, tmp_path / "whole", progress=calls.append)
    before = open_files()
    for seed in range(POINTS):
        cancel, count, stop_at = threading.Event(), [0], random.Random(seed).randrange(len(calls))

        def progress(_: Progress, cancel=cancel, count=count, stop_at=stop_at) -> None:  # type: ignore[no-untyped-def]
            if count[0] == stop_at:
                cancel.set()
            count[0] += 1

        with pytest.raises(Cancelled):
            analyze_to_folder(either, exam_file, tmp_path / "out", progress=progress, cancel=cancel)
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]
        assert [t.name for t in threading.enumerate() if t.name.startswith("scanside")] == []
    assert open_files() == before


@pytest.fixture(scope="module")
def exam_file(tmp_path_factory: pytest.TempPathFactory, blob_volume: BlobVolume) -> Path:
    from scanside.exam.write import write_dicom

    path = tmp_path_factory.mktemp("exam") / "exam.dcm"
    return Path(write_dicom(path, blob_volume.voxels, blob_volume.volume().geometry))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
