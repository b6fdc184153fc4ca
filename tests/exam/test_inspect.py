"""`inspect` says of every file what it is, and why not when not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scanside.errors import UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.inspect import InspectRow, exit_code, inspect, line
from scanside.exam.volume import Laterality, Verdict
from scanside.exam.write import write_dicom, write_nrrd

SHAPE = (8, 24, 32)
SPACING = (0.5, 0.1, 0.2)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def geometry() -> Geometry:
    return Geometry(SHAPE, SPACING)


def test_a_ready_exam(tmp_path, voxels, geometry):
    path = write_dicom(tmp_path / "exam.dcm", voxels, geometry, laterality=Laterality.LEFT, view="LAT")
    (row,) = inspect(path)
    assert row.verdict is Verdict.READY
    assert (row.source, row.shape, row.spacing_mm) == ("exam.dcm", SHAPE, SPACING)
    assert row.extent_mm == pytest.approx((4.0, 2.4, 6.4))
    assert row.laterality == "left"
    assert row.laterality_source != "none"
    assert row.view.upper().startswith("LAT")
    assert "siemens" in row.profile.lower()
    assert 0 < row.profile_confidence <= 1
    assert row.geometry_source
    assert exit_code([row]) == 0


def test_a_degraded_exam_gives_its_reason_and_still_succeeds(tmp_path, voxels, geometry):
    path = write_nrrd(tmp_path / "exam.nrrd", voxels.astype(np.float32) * 10, geometry)
    (row,) = inspect(path)
    assert row.verdict is Verdict.DEGRADED
    assert "windowed to 8 bits" in row.reason
    assert exit_code([row]) == 0
    assert "windowed to 8 bits" in line(row)


@pytest.mark.parametrize(("name", "data"), [
    ("empty.dcm", b""), ("zeros.dcm", bytes(4096)), ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    ("short.nrrd", b"NRRD0004\n"), ("exam.npy", b"\x93NUMPY"), ("exam.nii.gz", b"\x1f\x8b\x08"),
    ("archive.zip", b"PK\x03\x04"),
])  # fmt: skip
def test_a_bad_file_is_a_row_and_not_an_exception(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    (row,) = inspect(tmp_path / name)
    assert row.verdict is Verdict.REFUSED
    assert row.source == name
    assert row.reason
    assert row.shape is None
    assert exit_code([row]) == 3
    assert line(row).startswith(f"refused   {name}: ")
    assert "\n" not in line(row)


def test_a_path_that_is_not_there(tmp_path):
    (row,) = inspect(tmp_path / "missing")
    assert row.verdict is Verdict.REFUSED
    assert exit_code([row]) == 3


def test_missing_spacing_is_refused_with_the_remedy_and_taken_from_the_caller(tmp_path, voxels):
    np.save(tmp_path / "exam.npy", voxels)
    (row,) = inspect(tmp_path / "exam.npy")
    assert row.verdict is Verdict.REFUSED
    assert "--spacing" in row.reason
    (row,) = inspect(tmp_path / "exam.npy", spacing_mm=SPACING)
    assert (row.verdict, row.geometry_source) == (Verdict.READY, "the caller's spacing_mm")


def test_a_folder_has_a_row_for_every_volume_and_refusal(tmp_path, voxels, geometry):
    for side in (Laterality.LEFT, Laterality.RIGHT):
        write_dicom(tmp_path / f"{side}.dcm", voxels, geometry, laterality=side)
    (tmp_path / "damaged.nrrd").write_bytes(b"NRRD0004\ntype: uchar\n\n")
    rows = inspect(tmp_path)
    assert sorted(row.laterality for row in rows if row.verdict is Verdict.READY) == ["left", "right"]
    (refused,) = (row for row in rows if row.verdict is Verdict.REFUSED)
    assert "damaged.nrrd" in refused.source
    assert exit_code(rows) == 3
    assert exit_code([row for row in rows if row is not refused]) == 0


def test_a_folder_of_nothing_but_bad_files(tmp_path):
    for name in ("a.nrrd", "b.nrrd"):
        (tmp_path / name).write_bytes(b"NRRD0004\n")
    rows = inspect(tmp_path)
    assert {row.source for row in rows} == {"a.nrrd", "b.nrrd"}
    assert exit_code(rows) == 3


def test_no_rows_are_a_failure():
    assert exit_code([]) == 3


def test_rows_are_json_and_lines(tmp_path, voxels, geometry):
    write_dicom(tmp_path / "exam.dcm", voxels, geometry)
    (tmp_path / "bad.nrrd").write_bytes(b"NRRD0004\n")
    for row in inspect(tmp_path):
        plain = row.to_json()
        assert json.loads(json.dumps(plain)) == plain
        assert set(plain) == set(InspectRow.__dataclass_fields__)
        assert plain["verdict"] == row.verdict.value
        assert line(row).startswith(row.verdict.value)
        assert row.source in line(row)


def test_no_name_of_a_patient_is_told(tmp_path, voxels, geometry):
    names = {"PatientName": "Doe^Jane", "PatientID": "SECRET-77"}
    write_dicom(tmp_path / "good.dcm", voxels, geometry, overrides=names)
    write_dicom(tmp_path / "bad.dcm", voxels, geometry, view="LAT", overrides={**names, "PixelSpacing": None})
    rows = inspect(tmp_path)
    assert {row.verdict for row in rows} == {Verdict.READY, Verdict.REFUSED}
    told = " ".join(line(row) + json.dumps(row.to_json()) for row in rows)
    assert "Doe" not in told
    assert "SECRET" not in told


def test_a_senseless_call_is_a_usage_error(tmp_path, voxels, monkeypatch):
    import scanside.exam.open

    def senseless(*arguments, **options):
        raise UsageError("spacing needs three numbers")

    monkeypatch.setattr(scanside.exam.open, "open_exam", senseless)
    with pytest.raises(UsageError):
        inspect(tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), OSError("gone"), ValueError("odd")])
def test_even_an_unforeseen_failure_is_a_row(tmp_path, monkeypatch, error):
    import scanside.exam.open

    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(scanside.exam.open, "open_exam", fails)
    (row,) = inspect(tmp_path)
    assert row.verdict is Verdict.REFUSED
    assert type(error).__name__ in row.reason
