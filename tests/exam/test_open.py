"""One door: files by their first bytes, folders with everything one finds in them, patients kept apart."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from scanside.errors import ExamReadError, GeometryError
from scanside.exam import open_exam as exported
from scanside.exam.geometry import Geometry
from scanside.exam.open import open_exam
from scanside.exam.volume import Laterality
from scanside.exam.write import write_dicom, write_dicom_series, write_enhanced_us, write_nrrd

REPORT = "1.2.840.10008.5.1.4.1.1.88.33"


def test_the_package_offers_it():
    assert exported is open_exam


@pytest.mark.parametrize("name", ["exam.dcm", "exam", "exam.nrrd", "IM_0001"])
def test_a_dicom_file_is_known_by_its_bytes(dicom, tmp_path, name):
    path = dicom.exam(name)
    for given in (path, str(path)):
        exam = open_exam(given)
        assert np.array_equal(exam.only().decode(), dicom.voxels)
        assert (exam.source, exam.refused, exam.ignored) == (path, (), ())


@pytest.mark.parametrize("name", ["exam.nrrd", "exam.bin"])
def test_an_nrrd_file_is_known_by_its_bytes(dicom, tmp_path, name):
    path = write_nrrd(tmp_path / name, dicom.voxels, dicom.geometry)
    volume = open_exam(path).only()
    assert np.array_equal(volume.decode(), dicom.voxels)
    assert volume.info.source == name


@pytest.mark.parametrize("name", ["exam.npy", "exam.npz"])
def test_numpy_files_take_the_callers_spacing(dicom, tmp_path, name):
    path = tmp_path / name
    np.save(path, dicom.voxels) if name.endswith("npy") else np.savez_compressed(path, voxels=dicom.voxels)
    volume = open_exam(path, spacing_mm=(1, 0.4, 0.6)).only()
    assert np.array_equal(volume.decode(), dicom.voxels)
    assert volume.geometry.spacing_mm == (1, 0.4, 0.6)
    with pytest.raises(GeometryError):
        open_exam(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x89PNG\r\n\x1a\n1234", "a PNG picture"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (bytes(400), "only zeros"),
        (b"hello", "begins with b'hello'"),
        (b"", "is empty"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path, content, found):
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(ExamReadError) as caught:
        open_exam(path)
    assert found in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ExamReadError, match="no such file"):
        open_exam(tmp_path / "nothing.dcm")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(dicom, tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    with pytest.raises(ExamReadError, match="no plain file"):
        open_exam(tmp_path / "pipe.dcm")
    dicom.exam()
    exam = open_exam(tmp_path)
    assert [volume.info.source for volume in exam.volumes] == ["exam.dcm"]


def test_a_study_gives_all_its_volumes_in_natural_order(dicom, tmp_path):
    for n, (side, view) in enumerate([(Laterality.LEFT, "AP"), (Laterality.LEFT, "LAT"), (Laterality.RIGHT, "AP")]):
        write_dicom(tmp_path / f"v{8 + n}.dcm", dicom.voxels, dicom.geometry, laterality=side, view=view)
    exam = open_exam(tmp_path)
    assert [v.info.source for v in exam.volumes] == ["v8.dcm", "v9.dcm", "v10.dcm"]
    assert [(v.info.laterality, v.info.view) for v in exam.volumes] == [
        ("left", "AP"),
        ("left", "LAT"),
        ("right", "AP"),
    ]
    with pytest.raises(ExamReadError, match="several volumes"):
        exam.only()


def test_a_folder_with_everything_in_it(dicom, tmp_path):
    write_dicom_series(tmp_path / "series", dicom.voxels, dicom.geometry, view="LAT")
    dicom.exam("multi.dcm")
    write_enhanced_us(tmp_path / "enhanced.dcm", dicom.voxels, dicom.geometry, view="MED")
    write_nrrd(tmp_path / "research.nrrd", dicom.voxels, dicom.geometry)
    write_nrrd(tmp_path / "truth_mask.nrrd", dicom.voxels, dicom.geometry)
    (tmp_path / "truth.json").write_text("{}")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "broken.dcm").write_bytes(dicom.exam("whole.dcm", laterality=Laterality.LEFT).read_bytes()[:-1])
    (tmp_path / "whole.dcm").unlink()
    dicom.edit(dicom.exam("derived.dcm", seed=0, view="INF"), ImageType=["DERIVED", "SECONDARY"])
    report = dicom.exam("report.dcm", view="SUP")
    dicom.edit(report, SOPClassUID=REPORT, Rows=None, Columns=None)
    shutil.copy(tmp_path / "multi.dcm", tmp_path / "multi-copy.dcm")
    exam = open_exam(tmp_path)
    assert [v.info.source for v in exam.volumes] == [
        "enhanced.dcm",
        "multi-copy.dcm",
        "research.nrrd",
        "series/frame-0001.dcm",
    ]
    for volume in exam.volumes:
        assert np.array_equal(volume.decode(threads=1), dicom.voxels)
    refused = {refusal.source: str(refusal.error) for refusal in exam.refused}
    assert sorted(refused) == ["broken.dcm", "derived.dcm", "empty.dcm"]
    assert "cut short" in refused["broken.dcm"]
    assert "derived image" in refused["derived.dcm"]
    ignored = {refusal.source: str(refusal.error) for refusal in exam.ignored}
    assert sorted(ignored) == ["multi.dcm", "report.dcm", "truth.json", "truth_mask.nrrd"]
    assert "a copy of another file" in ignored["multi.dcm"]
    assert "mask by its name" in ignored["truth_mask.nrrd"]
    assert "without an image" in ignored["report.dcm"]


def test_different_files_of_one_uid_are_all_refused(dicom, tmp_path):
    uid = "1.2.3.4"
    dicom.edit(dicom.exam("a.dcm"), SOPInstanceUID=uid)
    dicom.edit(dicom.exam("b.dcm", voxels=255 - dicom.voxels), SOPInstanceUID=uid)
    dicom.exam("c.dcm", view="LAT")
    exam = open_exam(tmp_path)
    assert [v.info.source for v in exam.volumes] == ["c.dcm"]
    assert [r.source for r in exam.refused] == ["a.dcm", "b.dcm"]
    assert "same SOP Instance UID" in str(exam.refused[0].error)


@pytest.mark.parametrize("change", [{"PatientID": "OTHER"}, {"PatientName": "Doe^Jane"}, {"PatientID": ""}], ids=str)
def test_several_patients_in_a_folder_are_refused_unnamed(dicom, tmp_path, change):
    dicom.exam("a.dcm")
    dicom.edit(dicom.exam("b.dcm", view="LAT"), **change)
    with pytest.raises(ExamReadError, match="several patients") as caught:
        open_exam(tmp_path)
    text = str(caught.value)
    assert not any(name in text.upper() for name in ("PHANTOM", "OTHER,", "DOE", "JANE"))
    assert caught.value.exit_code == 3


def test_a_name_spelt_otherwise_is_the_same_patient(dicom, tmp_path):
    dicom.exam("a.dcm")
    dicom.edit(dicom.exam("b.dcm", view="LAT"), PatientName="Phantom^Synthetic^^")
    dicom.edit(dicom.exam("c.dcm", view="MED"), PatientName="")
    assert len(open_exam(tmp_path).volumes) == 3


def test_a_lone_fault_is_raised_as_it_is(dicom, tmp_path):
    dicom.edit(dicom.exam(), PixelSpacing=None)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(GeometryError, match=r"exam\.dcm"):
        open_exam(tmp_path)


def test_many_faults_are_listed(dicom, tmp_path):
    for n in range(5):
        (tmp_path / f"{n}.dcm").write_bytes(b"\0" * 300)
    with pytest.raises(ExamReadError, match="nothing here can be read") as caught:
        open_exam(tmp_path)
    assert "and 2 more" in str(caught.value)
    assert [refusal.source for refusal in caught.value.refused] == [f"{n}.dcm" for n in range(5)]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ExamReadError, match="nothing in it"):
        open_exam(tmp_path)


def test_links_that_go_in_circles_do_not_matter(dicom, tmp_path):
    dicom.exam()
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "loop.dcm").symlink_to(tmp_path / "loop.dcm")
    exam = open_exam(tmp_path)
    assert len(exam.volumes) == 1
    assert [refusal.source for refusal in exam.refused] == ["loop.dcm"]


def test_too_many_files_are_refused(dicom, tmp_path, monkeypatch):
    monkeypatch.setattr("scanside.exam.open.MAX_FILES", 3)
    for n in range(5):
        (tmp_path / str(n)).write_bytes(b"x")
    with pytest.raises(ExamReadError, match="too many files"):
        open_exam(tmp_path)


def test_the_callers_spacing_reaches_every_volume(dicom, tmp_path):
    dicom.edit(dicom.exam("a.dcm"), PixelSpacing=None)
    np.save(tmp_path / "b.npy", dicom.voxels)
    exam = open_exam(tmp_path, spacing_mm=(1.0, 0.3, 0.3))
    assert [v.geometry.spacing_mm for v in exam.volumes] == [(1.0, 0.3, 0.3)] * 2


def test_the_data_file_of_a_header_is_no_stranger(dicom, tmp_path):
    (tmp_path / "a.raw").write_bytes(dicom.voxels.tobytes())
    geometry = Geometry(dicom.voxels.shape, (1.0, 0.4, 0.6))
    sizes = " ".join(str(n) for n in geometry.shape[::-1])
    (tmp_path / "a.mhd").write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementSpacing = 0.6 0.4 1.0\n"
        "ElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    )
    exam = open_exam(tmp_path)
    assert np.array_equal(exam.only().decode(), dicom.voxels)
    assert exam.ignored == ()
