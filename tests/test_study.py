"""From a path to a folder: what becomes of a study whose volumes fail only when they are decoded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import scanside
from scanside.engine.predictor import Predictor
from scanside.errors import ExamReadError, OutputError
from scanside.exam.geometry import Geometry
from scanside.exam.write import write_dicom
from scanside.study import analyze_to_folder, require_all_analyzed

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

Failing = Callable[..., None]


@pytest.fixture(scope="module")
def predictor(tiny_pack: Path) -> Predictor:
    return scanside.load(tiny_pack, device="cpu")


@pytest.fixture
def study(tmp_path: Path, blob_volume: BlobVolume) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    for view in ("AP", "LAT"):
        write_dicom(folder / f"{view}.dcm", blob_volume.voxels, geometry, vendor="siemens", view=view)
    return folder


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Let the volumes of these views fail when their frames are decoded."""

    def arrange(*views: str) -> None:
        analyze_volume = Predictor.analyze_volume

        def analyze(self: Predictor, volume: object, **options: object) -> object:
            if volume.info.view in views:  # type: ignore[attr-defined]
                raise ExamReadError("frame 3 cannot be decoded", where=volume.info.source)  # type: ignore[attr-defined]
            return analyze_volume(self, volume, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Predictor, "analyze_volume", analyze)

    return arrange


def test_each_volume_is_announced(predictor: Predictor, study: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    outcome = analyze_to_folder(predictor, study, tmp_path / "out", on_volume=lambda *volume: told.append(volume))
    assert [(number, count) for number, count, _ in told] == [(1, 2), (2, 2)]
    require_all_analyzed(outcome)


def test_a_volume_that_fails_in_decoding_is_refused_and_the_other_kept(
    predictor: Predictor, study: Path, tmp_path: Path, fail: Failing
) -> None:
    fail("LAT")
    outcome = analyze_to_folder(predictor, study, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))["volumes"]
    assert {row["source"]: row["verdict"] == "refused" for row in rows} == {"AP.dcm": False, "LAT.dcm": True}
    with pytest.raises(ExamReadError, match="1 of 2 volumes refused") as caught:
        require_all_analyzed(outcome)
    assert caught.value.found is not None
    assert "LAT.dcm: frame 3 cannot be decoded" in caught.value.found


def test_nothing_is_written_when_every_volume_fails(
    predictor: Predictor, study: Path, tmp_path: Path, fail: Failing
) -> None:
    fail("AP", "LAT")
    with pytest.raises(ExamReadError, match="no volume could be analysed"):
        analyze_to_folder(predictor, study, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_a_foreign_output_folder_is_refused_before_the_analysis(
    predictor: Predictor, tmp_path: Path, study: Path, fail: Failing
) -> None:
    fail("AP", "LAT")  # an analysis would raise something else
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"notes\.txt"):
        analyze_to_folder(predictor, study / "AP.dcm", tmp_path / "out")


def test_a_single_volume_gives_a_plain_report(predictor: Predictor, study: Path, tmp_path: Path) -> None:
    outcome = analyze_to_folder(predictor, study / "AP.dcm", tmp_path / "out")
    require_all_analyzed(outcome)
    written = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert written["exam"]["view"] == "AP"
    assert (tmp_path / "out" / "masks.nrrd").is_file()
    assert not (tmp_path / "out" / "study.json").exists()
