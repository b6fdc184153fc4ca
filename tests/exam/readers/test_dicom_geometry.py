"""Spacing by the fixed order, orientation from positions, and every way in which they can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from scanside.errors import GeometryError, UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.open import open_exam
from scanside.exam.write import write_dicom_series, write_enhanced_us


def region(delta_x=0.06, delta_y=0.04, corners=(0, 0, 39, 31), units=3, kind=1) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = 1, kind
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta_x, delta_y
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = corners
    return item


def with_regions(dicom, *regions: Dataset):
    return dicom.edit(dicom.exam(), PixelSpacing=None, SequenceOfUltrasoundRegions=Sequence(regions))


def test_pixel_spacing_is_row_then_column(dicom):
    geometry = open_exam(dicom.edit(dicom.exam(), PixelSpacing=b"0.2000001\\0.5")).only().geometry
    assert geometry.spacing_mm == (1.0, 0.2000001, 0.5)


@pytest.mark.parametrize(
    "value",
    [b"0\\0.6", b"0.4\\0", b"NaN\\0.6", b"-0.4\\0.6", b"1e9\\0.6", b"0,4\\0,6", b"0.4", b"0.4\\0.6\\0.1", b"inf\\0.6"],
)
def test_an_unusable_pixel_spacing_is_refused(dicom, value):
    path = dicom.edit(dicom.exam(), PixelSpacing=value)
    with pytest.raises(GeometryError, match="PixelSpacing") as caught:
        open_exam(path)
    assert caught.value.exit_code == 3
    assert "exam.dcm" in str(caught.value)


@pytest.mark.parametrize("value", [b"0", b"nan", b"-1", b"500", b"0,5", b"1\\1", b"thick"])
def test_an_unusable_spacing_between_frames_is_refused(dicom, value):
    path = dicom.edit(dicom.exam(), SpacingBetweenSlices=value)
    with pytest.raises(GeometryError, match="SpacingBetweenSlices"):
        open_exam(path)
    volume = open_exam(path, spacing_mm=(0.9, 0.8, 0.7)).only()
    assert volume.geometry.spacing_mm == (0.9, 0.8, 0.7)
    assert volume.info.geometry_source == "the caller's spacing_mm"
    assert "the caller's spacing was used instead" in volume.info.warnings[0]


@pytest.mark.parametrize("absent", [None, b""])
def test_absent_spacing_is_refused_with_the_remedy(dicom, absent):
    path = dicom.edit(dicom.exam(), PixelSpacing=absent, SpacingBetweenSlices=absent, SliceThickness="0.5")
    with pytest.raises(GeometryError, match="states no voxel spacing") as caught:
        open_exam(path)
    assert "only SliceThickness, which is no spacing" in str(caught.value)
    assert "--spacing SWEEP,DEPTH,LATERAL" in str(caught.value)
    volume = open_exam(path, spacing_mm=(1, 2, 3)).only()
    assert volume.geometry.spacing_mm == (1, 2, 3)
    assert volume.info.warnings == ()


def test_the_caller_fills_only_what_is_missing(dicom):
    path = dicom.edit(dicom.exam(), SpacingBetweenSlices=None)
    with pytest.raises(GeometryError, match="no spacing between its frames"):
        open_exam(path)
    volume = open_exam(path, spacing_mm=(0.5, 0.4, 0.6)).only()
    assert volume.geometry.spacing_mm == (0.5, 0.4, 0.6)
    assert volume.info.geometry_source == "PixelSpacing + the caller's spacing_mm"
    assert volume.info.warnings == ()


def test_a_caller_who_contradicts_the_header_is_told(dicom):
    volume = open_exam(dicom.exam(), spacing_mm=(1.0, 0.5, 0.6)).only()
    assert volume.geometry.spacing_mm == (1.0, 0.4, 0.6)
    assert "contradicts PixelSpacing" in volume.info.warnings[0]


@pytest.mark.parametrize("spacing", [(0.0, 1, 1), (float("nan"), 1, 1), (-1, 1, 1), (1e9, 1, 1), (1, 1)])
def test_an_unusable_spacing_from_the_caller_is_refused(dicom, spacing):
    with pytest.raises((GeometryError, UsageError)):
        open_exam(dicom.exam(), spacing_mm=spacing)


@pytest.mark.parametrize("sign", [1, -1])
def test_ultrasound_regions_are_in_centimetres(dicom, sign):
    volume = open_exam(with_regions(dicom, region(0.06, sign * 0.04))).only()
    assert volume.geometry.spacing_mm == pytest.approx((1.0, 0.4, 0.6))
    assert volume.info.geometry_source == "ultrasound regions + SpacingBetweenSlices"
    assert volume.info.warnings == ()


def test_a_region_over_part_of_the_frame_is_warned_of(dicom):
    volume = open_exam(with_regions(dicom, region(corners=(5, 5, 30, 20)))).only()
    assert "only part of the frame" in volume.info.warnings[0]


@pytest.mark.parametrize("item", [region(units=4), region(kind=3)], ids=["seconds", "spectrum"])
def test_regions_that_are_no_tissue_are_no_spacing(dicom, item):
    with pytest.raises(GeometryError, match="no pixel spacing"):
        open_exam(with_regions(dicom, item))


def test_of_several_regions_only_one_over_the_whole_frame_will_do(dicom):
    part = region(0.1, 0.1, corners=(5, 5, 30, 20))
    with pytest.raises(GeometryError, match="several calibrated"):
        open_exam(with_regions(dicom, part, part))
    assert open_exam(with_regions(dicom, part, region())).only().geometry.spacing_mm == pytest.approx((1.0, 0.4, 0.6))


@pytest.mark.parametrize("delta", [0.0, float("nan"), 1e6])
def test_an_unusable_region_is_refused(dicom, delta):
    with pytest.raises(GeometryError, match="ultrasound regions is unusable"):
        open_exam(with_regions(dicom, region(delta)))


def test_a_region_that_contradicts_pixel_spacing_is_warned_of(dicom):
    path = dicom.edit(dicom.exam(), SequenceOfUltrasoundRegions=Sequence([region(0.09)]))
    volume = open_exam(path).only()
    assert volume.geometry.spacing_mm == (1.0, 0.4, 0.6)
    assert "contradict each other" in volume.info.warnings[0]


def test_functional_groups_come_first(dicom, tmp_path):
    path = write_enhanced_us(tmp_path / "enhanced.dcm", dicom.voxels, dicom.geometry)
    dicom.edit(path, PixelSpacing=[9, 9], SpacingBetweenSlices="9")
    volume = open_exam(path).only()
    assert volume.geometry.spacing_mm == (1.0, 0.4, 0.6)
    assert volume.info.geometry_source == "functional groups"


def test_extreme_voxels_are_warned_of(dicom):
    volume = open_exam(dicom.edit(dicom.exam(), PixelSpacing=b"0.04\\0.6")).only()
    assert "20 times longer" in volume.info.warnings[0]
    volume = open_exam(dicom.edit(dicom.exam(), PixelSpacing=b"18\\18")).only()
    assert "measures 576 mm along its depth" in volume.info.warnings[0]


def directions() -> list[np.ndarray]:
    """Every way in which sweep, depth and lateral can lie along the patient's axes, mirrored ones included."""
    found = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for signs in np.ndindex(2, 2, 2):
            matrix = np.eye(4)
            matrix[:3, :3] = np.eye(3)[list(order)] * (1 - 2 * np.array(signs))
            matrix[:3, 3] = (3, -20, 11)
            found.append(matrix)
    return found


@pytest.mark.parametrize("patient_from_mm", directions(), ids=lambda m: str(m[:3, :3].astype(int).tolist()))
def test_every_orientation_is_kept(dicom, tmp_path, patient_from_mm):
    geometry = Geometry(dicom.geometry.shape, dicom.geometry.spacing_mm, patient_from_mm)
    voxels = dicom.voxels
    for volume in (
        open_exam(write_enhanced_us(tmp_path / "enhanced.dcm", voxels, geometry)).only(),
        open_exam(write_dicom_series(tmp_path / "series", voxels, geometry)[0].parent).only(),
    ):
        assert np.array_equal(volume.decode(), voxels)
        assert np.allclose(volume.geometry.patient_from_mm, patient_from_mm, atol=1e-6)
        assert volume.geometry.spacing_mm == pytest.approx(geometry.spacing_mm)
