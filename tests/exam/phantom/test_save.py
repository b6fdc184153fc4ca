"""What `save_phantom` writes can be read back: exam, truth and mask agree."""

import json

import numpy as np
import pytest

from scanside.errors import UsageError
from scanside.exam import open_exam
from scanside.exam.phantom import make_phantom, save_phantom


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(8, shape=(12, 60, 64), extent_mm=(30, 40, 40), lesions=1)


@pytest.mark.parametrize(("format", "vendor"), [("dicom", "siemens"), ("dicom", "ge"), ("nrrd", "siemens")])
def test_the_exam_reads_back_voxel_for_voxel(tmp_path, phantom, format: str, vendor: str) -> None:
    exam = save_phantom(phantom, tmp_path / "p", format=format, vendor=vendor)
    volume = open_exam(exam).only()
    np.testing.assert_array_equal(volume.decode(), phantom.voxels)
    np.testing.assert_allclose(volume.geometry.spacing_mm, phantom.geometry.spacing_mm, rtol=1e-6)
    if format == "dicom":
        assert vendor in volume.info.profile.name.lower()


def test_truth_and_mask_are_on_the_volumes_grid(tmp_path, phantom) -> None:
    save_phantom(phantom, tmp_path)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["schema"] == "scanside-truth/1"
    assert truth["shape"] == list(phantom.voxels.shape)
    assert [lesion["malignant"] for lesion in truth["lesions"]] == [lesion.malignant for lesion in phantom.truth]
    import SimpleITK

    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "truth_mask.nrrd")))
    np.testing.assert_array_equal(mask, phantom.mask)


def test_the_same_seed_writes_the_same_files(tmp_path, phantom) -> None:
    save_phantom(phantom, tmp_path / "a")
    save_phantom(phantom, tmp_path / "b")
    for name in ("exam.dcm", "truth.json", "truth_mask.nrrd"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_unknown_format_is_refused(tmp_path, phantom) -> None:
    with pytest.raises(UsageError, match="dicom or nrrd"):
        save_phantom(phantom, tmp_path, format="jpeg")
