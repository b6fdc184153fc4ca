"""Vendor profiles: recognised by their marks, with the reason; private elements never trusted unasked."""

from __future__ import annotations

import struct

import pytest
from pydicom import dcmread

from scanside.errors import GeometryError
from scanside.exam.open import open_exam
from scanside.exam.profiles import sides_in, view_in


def test_ge_is_recognised_with_its_nipple(dicom):
    info = open_exam(dicom.exam(vendor="ge", nipple_mm=(1.5, 0.5, 20.0))).only().info
    assert info.profile.name == "GE Invenia ABUS"
    assert info.profile.confidence == pytest.approx(0.95)
    assert "Invenia" in info.profile.reason
    assert info.nipple_mm == (1.5, 0.5, 20.0)
    assert info.warnings == ()


def test_a_curved_probe_is_warned_of(dicom):
    info = open_exam(dicom.exam(vendor="ge", probe_radius_mm=850)).only().info
    assert info.verdict == "degraded"
    assert "beam space" in info.warnings[0]
    assert "850 mm" in info.warnings[0]


def test_a_curved_track_is_warned_of(dicom):
    path = dicom.exam(vendor="ge")
    set_private(path, 0x0021, "General Electric Company 01", {0x41: "300"})
    assert "track is curved" in open_exam(path).only().info.warnings[0]


def set_private(path, group, creator, values, vr="DS"):
    dataset = dcmread(path)
    block = dataset.private_block(group, creator, create=True)
    for offset, value in values.items():
        if offset in block:
            del block[offset]
        block.add_new(offset, vr, value)
    dataset.save_as(path)


def test_ge_spacing_from_private_elements_is_used_and_warned_of(dicom, smooth_voxels):
    path = dicom.exam(vendor="ge", voxels=smooth_voxels((3, 100, 200)))
    dicom.edit(path, PixelSpacing=None)
    volume = open_exam(path).only()
    assert volume.geometry.spacing_mm == pytest.approx((1.0, 0.4, 0.6))
    assert volume.info.geometry_source == "vendor elements (private ScanDepthCm and LineDensity) + SpacingBetweenSlices"
    assert "unverified" in volume.info.warnings[0]


def test_implausible_private_spacing_is_not_used(dicom):
    path = dicom.exam(vendor="ge")
    set_private(path, 0x0021, "General Electric Company 01", {0x63: "400"})
    with pytest.raises(GeometryError, match="no pixel spacing"):
        open_exam(dicom.edit(path, PixelSpacing=None))


def test_siemens_is_recognised(dicom, smooth_voxels):
    profile = open_exam(dicom.exam(voxels=smooth_voxels((2, 600, 800)))).only().info.profile
    assert profile.name == "Siemens ACUSON S2000 ABVS"
    assert profile.confidence == pytest.approx(0.8)
    assert "600 x 800" in profile.reason


def test_siemens_scales_are_only_suggested(dicom):
    path = dicom.exam()
    doubles = {n: struct.pack("<d", v) for n, v in ((0x10, 0.21), (0x11, 0.11), (0x12, 0.53))}
    set_private(path, 0x0039, "SIEMENS MED SMS USG S2000 3D VOLUME", doubles, vr="UN")
    with pytest.raises(GeometryError, match="unverified") as caught:
        open_exam(dicom.edit(path, PixelSpacing=None))
    assert all(value in str(caught.value) for value in ("0.21", "0.11", "0.53"))


def test_strangers_are_generic(dicom):
    profile = open_exam(dicom.exam(vendor="generic")).only().info.profile
    assert (profile.name, profile.confidence) == ("generic", 0.0)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("RIGHT AP", {"right"}),
        ("LAP", {"left"}),
        ("RLAT", {"right"}),
        ("r_med", {"right"}),
        ("L LATERAL", {"left"}),
        ("Lt breast", {"left"}),
        ("LMEDIAL", {"left"}),
        ("左乳", {"left"}),
        ("LAT", set()),
        ("14L5BV", set()),
        ("Lateral", set()),
        ("L and R", {"left", "right"}),
        ("", set()),
    ],
)
def test_sides_in_words(text, sides):
    assert sides_in(text) == sides


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("RIGHT AP", "AP"),
        ("LLAT", "LAT"),
        ("Right Lateral", "LAT"),
        ("lmed", "MED"),
        ("L-SUP", "SUP"),
        ("R INFERIOR", "INF"),
        ("AP LAT", "unknown"),
        ("map", "unknown"),
        ("", "unknown"),
    ],
)
def test_views_in_words(text, view):
    assert view_in(text) == view
