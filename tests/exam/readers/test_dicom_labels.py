"""Side and view from a header, by the fixed order; contradictions leave the side unknown."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from scanside.exam.readers import dicom_labels
from scanside.exam.readers.dicom_header import Header


def header(frame: str = "", **elements: str) -> Header:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if frame:
        anatomy, shared = Dataset(), Dataset()
        anatomy.FrameLaterality = frame
        shared.FrameAnatomySequence = [anatomy]
        dataset.SharedFunctionalGroupsSequence = [shared]
    return Header(dataset, "exam.dcm")


@pytest.mark.parametrize(
    ("given", "side", "source"),
    [
        (header("L", ImageLaterality="L", Laterality="L"), "left", "frame anatomy"),
        (header(ImageLaterality="R", SeriesDescription="right AP"), "right", "ImageLaterality"),
        (header(Laterality="L"), "left", "Laterality"),
        (header(SeriesDescription="R-MED"), "right", "SeriesDescription"),
        (header(ProtocolName="Left Lat"), "left", "ProtocolName"),
        (header("U", SeriesDescription="LLAT"), "left", "SeriesDescription"),
        (header(ImageLaterality="B"), "unknown", "none"),
        (header(SeriesDescription="ABVS volume"), "unknown", "none"),
    ],
)
def test_the_first_source_that_states_a_side_is_named(given, side, source):
    assert dicom_labels.laterality(given) == (side, source, ())


@pytest.mark.parametrize(
    "given",
    [
        header(ImageLaterality="L", Laterality="R"),
        header(Laterality="L", SeriesDescription="RIGHT AP"),
        header("R", ImageLaterality="L"),
        header(SeriesDescription="left and right"),
    ],
)
def test_contradictions_leave_the_side_unknown_and_name_their_sources(given):
    side, source, (warning,) = dicom_labels.laterality(given)
    assert (side, source) == ("unknown", "contradictory")
    assert "says left" in warning
    assert "says right" in warning


@pytest.mark.parametrize(
    ("given", "view"),
    [
        (header(SeriesDescription="RIGHT AP"), "AP"),
        (header(SeriesDescription="LMED", ProtocolName="breast"), "MED"),
        (header(SeriesDescription="AP", ProtocolName="LAT"), "unknown"),
        (header(), "unknown"),
    ],
)
def test_views(given, view):
    assert dicom_labels.view(given) == view


def test_burned_in_annotation_is_warned_of():
    assert "burned-in" in dicom_labels.remarks(header(BurnedInAnnotation="YES"))[0]
    assert dicom_labels.remarks(header(BurnedInAnnotation="NO")) == ()
