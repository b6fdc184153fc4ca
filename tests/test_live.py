"""`scanside live`: a source that arrives, a report folder at the end; and the ways in which a source goes wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from scanside.cli import app
from scanside.engine.flow import Progress
from scanside.engine.predictor import Predictor, load
from scanside.errors import Cancelled, ExamReadError, OutputError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Laterality, VolumeInfo
from scanside.exam.write import write_dicom_series
from scanside.live import live_to_folder, require_complete
from scanside.report.json import report_schema

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def confirming(tiny_pack: Path) -> Iterator[Predictor]:
    with load(tiny_pack, device="cpu", precision="fp32", threads=1, policy="confirm") as loaded:
        yield loaded


@pytest.fixture
def series(tmp_path: Path, blob_volume: BlobVolume) -> Path:
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    write_dicom_series(tmp_path / "series", blob_volume.voxels, geometry, laterality=Laterality.RIGHT)
    return tmp_path / "series"


class Frames:
    """A source in memory; `fault` is raised after `came` frames."""

    def __init__(self, blob: BlobVolume, came: int | None = None, fault: Exception | None = None) -> None:
        geometry = blob.volume().geometry
        self.info = VolumeInfo(geometry, "sweep", "the test", "live")
        self._frames, self._fault = blob.voxels[:came], fault

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        yield from enumerate(self._frames)
        if self._fault is not None:
            raise self._fault


def test_a_folder_gives_the_report_of_the_same_files_afterwards(
    run: Run, series: Path, tiny_pack: Path, tmp_path: Path
) -> None:
    live = run("live", series, "--out", tmp_path / "live", "--pack", tiny_pack, "--frames", 24, "--json")
    assert live.exit_code == 0, live.stderr
    later = run(
        "analyze", series, "--out", tmp_path / "later", "--pack", tiny_pack, "--policy", "confirm", "--json", "-q"
    )
    assert later.exit_code == 0, later.stderr
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("live", "later")]
    assert len(reports[0]["lesions"]) == 2
    assert reports[0]["lesions"] == reports[1]["lesions"]
    assert reports[0]["device"] == reports[1]["device"]
    assert reports[0]["device"]["policy"] == "confirm"
    events = [json.loads(line) for line in live.stdout.splitlines()]
    assert [event["event"] for event in events[:-1]] == ["lesions"] * (len(events) - 1)
    assert events[-2]["lesions"] == [v | {"pictures": {}} for v in reports[0]["lesions"]]
    assert events[-1]["report"] == reports[0]


def test_the_report_of_a_live_sweep_obeys_the_schema(
    confirming: Predictor, blob_volume: BlobVolume, tmp_path: Path
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    outcome = live_to_folder(confirming, lambda: Frames(blob_volume, 20), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    assert (report["exam"]["complete"], report["exam"]["missing_frames"]) == (False, 4)
    assert outcome.fault is None
    with pytest.raises(ExamReadError, match=r"the sweep ended early; .* expected 24 frames, found 20"):
        require_complete(outcome)


def test_raw_frames_on_standard_input(blob_volume: BlobVolume, tiny_pack: Path, tmp_path: Path) -> None:
    header = {"shape": list(blob_volume.voxels.shape), "spacing_mm": list(blob_volume.spacing_mm)}
    done = subprocess.run(
        [sys.executable, "-m", "scanside", "live", "-", "--out", tmp_path / "out", "--pack", tiny_pack, "-q"],
        input=json.dumps(header).encode() + b"\n" + blob_volume.voxels.tobytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"2" in done.stdout
    assert b"policy confirm" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [lesion["malignant"] for lesion in report["lesions"]] == [True, False]


def test_a_source_that_stalls_keeps_its_findings_and_fails(
    run: Run, series: Path, tiny_pack: Path, tmp_path: Path
) -> None:
    for path in sorted(series.iterdir())[22:]:
        path.unlink()
    result = run("live", series, "--out", tmp_path / "out", "--pack", tiny_pack, "--frames", 24, "--timeout", 0.5, "-q")
    assert result.exit_code == 3
    assert "error: series: the source has stalled; expected a frame within 0.5 s" in result.stderr
    assert "INCOMPLETE: 22 of 24 frames were analysed" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["exam"]["missing_frames"] == 2
    assert any("stalled" in warning for warning in report["exam"]["warnings"])
    assert len(report["lesions"]) == 2


def test_a_frame_of_another_size_ends_the_sweep(run: Run, series: Path, tiny_pack: Path, tmp_path: Path) -> None:
    small = np.zeros((24, 80, 95), np.uint8)
    other = write_dicom_series(tmp_path / "other", small, Geometry((24, 80, 95), (1.0, 0.5, 0.8)))
    os.replace(other[12], series / "frame-0013.dcm")
    result = run("live", series, "--out", tmp_path / "out", "--pack", tiny_pack, "--frames", 24, "-q")
    assert result.exit_code == 3
    assert "frame 12: the frame does not fit the sweep; expected uint8 [80, 96], found uint8 [80, 95]" in result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["exam"]["missing_frames"] == 12


def test_nothing_is_written_when_no_frame_came(run: Run, tiny_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("live", tmp_path / "empty", "--out", tmp_path / "out", "--pack", tiny_pack, "--wait", 0.1, "-q")
    assert result.exit_code == 3
    assert "no frame came" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_source_stays_closed_when_the_report_cannot_be_written(confirming: Predictor, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    def never() -> Frames:
        raise AssertionError

    with pytest.raises(OutputError, match="holds other files"):
        live_to_folder(confirming, never, tmp_path)


def test_a_fault_of_the_source_names_no_file_in_the_report(
    confirming: Predictor, blob_volume: BlobVolume, tmp_path: Path
) -> None:
    fault = ExamReadError("the file is damaged", where="DOE^JANE.dcm", found="nothing")
    outcome = live_to_folder(confirming, lambda: Frames(blob_volume, 20, fault), tmp_path / "out")
    assert outcome.fault is fault
    assert outcome.report.exam.warnings[-1] == "the file is damaged; found nothing"
    assert "DOE" not in (tmp_path / "out" / "report.json").read_text()


def test_cancelling_at_fifty_random_points_leaves_no_file(
    confirming: Predictor, blob_volume: BlobVolume, tmp_path: Path
) -> None:
    calls: list[Progress] = []
    live_to_folder(confirming, lambda: Frames(blob_volume), tmp_path / "whole", progress=calls.append)
    for seed in range(50):
        rng, cancel, count = random.Random(seed), threading.Event(), [0]
        stop_at = rng.randrange(len(calls) + 10)

        def progress(_: Progress, stop_at=stop_at, count=count, cancel=cancel) -> None:  # type: ignore[no-untyped-def]
            if count[0] == min(stop_at, len(calls) - 1):
                cancel.set()
            count[0] += 1

        with pytest.raises(Cancelled):
            live_to_folder(confirming, lambda: Frames(blob_volume), tmp_path / "out", progress=progress, cancel=cancel)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["whole"]
        assert [t.name for t in threading.enumerate() if t.name.startswith("scanside")] == []


def test_the_table_is_drawn(blob_volume: BlobVolume, confirming: Predictor, tmp_path: Path) -> None:
    from rich.console import Console

    from scanside.console.live import LiveTable

    table = LiveTable(quiet=True)
    live_to_folder(
        confirming,
        lambda: Frames(blob_volume),
        tmp_path / "out",
        progress=table.on_progress,
        on_lesions=table.on_lesions,
    )
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table._drawn())
    text = console.export_text()
    assert "decode 24/24" in text
    assert "malignant" in text
    assert "benign" in text
    console.file.close()
