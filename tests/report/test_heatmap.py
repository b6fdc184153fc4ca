"""The heatmap's picture: the grey crop beside the coloured one, one scale for all planes, the box where it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scanside.exam.planes import Plane, crop, crop_side_mm
from scanside.report import drawing
from scanside.report.heatmap import coloured, heatmap_picture, smooth
from scanside.report.model import Heatmap, PlaneHeatmap
from scanside.report.write import write_report

HOT = {"transverse": 4.0, "sagittal": 1.0, "coronal": 0.0}


def heatmap_of(example, lesion, strengths=HOT):
    """Heat in the upper right of each plane's crop."""
    planes = {}
    for name, strength in strengths.items():
        plane, side_mm = Plane(name), crop_side_mm(lesion.box_mm, Plane(name), 1.35)
        index = int(lesion.centroid_mm[plane.normal] / example.report.geometry.spacing_mm[plane.normal])
        cut = crop(example.voxels, example.report.geometry, plane, index, lesion.box_mm, side_mm=side_mm, size=64)
        values = np.zeros((4, 4), np.float32)
        values[0, 3] = strength
        planes[name] = PlaneHeatmap(index, cut.window_mm, cut.pixels, values)
    return Heatmap(1, planes)


@pytest.fixture
def drawn(example):
    lesion = example.report.lesions[1]
    return heatmap_picture(example.report, lesion, heatmap_of(example, lesion)), lesion


def area(picture, panel):
    rect = panel.rect
    return picture.pixels[rect.top : rect.bottom, rect.left : rect.right].astype(int)


def is_grey(pixels):
    return np.ptp(pixels, axis=-1) <= 1


def test_every_plane_has_its_grey_crop_beside_the_coloured_one(drawn):
    picture, lesion = drawn
    assert [panel.plane.value for panel in picture.panels] == [name for name in HOT for _ in range(2)]
    for grey, hot in zip(picture.panels[::2], picture.panels[1::2], strict=True):
        assert grey.rect.top == hot.rect.top
        assert grey.rect.right < hot.rect.left
        assert (grey.rect.width, grey.rect.height) == (hot.rect.width, hot.rect.height)
        box = (area(picture, grey) == drawing.class_colour(lesion.malignant)).all(axis=-1)
        assert (is_grey(area(picture, grey)) | box).all()
        assert box.any()


def test_colour_stands_where_the_heat_is_and_planes_share_one_scale(drawn):
    picture, _ = drawn
    strengths = []
    for grey, hot in zip(picture.panels[::2], picture.panels[1::2], strict=True):
        changed = np.abs(area(picture, hot) - area(picture, grey)).max(axis=-1)
        rows, columns = changed.shape
        assert changed[rows // 2 :, : columns // 2].max() <= 3
        strengths.append(int(changed[: rows // 4, 3 * columns // 4 :].max()))
    assert strengths[0] > 1.5 * strengths[1] > 0
    assert strengths[2] == 0


def test_no_heat_anywhere_hides_nothing(example):
    lesion = example.report.lesions[0]
    picture = heatmap_picture(example.report, lesion, heatmap_of(example, lesion, dict.fromkeys(HOT, 0.0)))
    for grey, hot in zip(picture.panels[::2], picture.panels[1::2], strict=True):
        assert np.array_equal(area(picture, grey), area(picture, hot))


def test_one_plane_alone_makes_a_picture(example):
    lesion = example.report.lesions[0]
    picture = heatmap_picture(example.report, lesion, heatmap_of(example, lesion, {"coronal": 2.0}))
    assert [panel.plane for panel in picture.panels] == [Plane.CORONAL] * 2
    assert picture.pixels.shape[0] < 700


def test_the_box_lies_at_its_mm(drawn):
    picture, lesion = drawn
    for panel in picture.panels:
        found = np.argwhere((area(picture, panel) == drawing.class_colour(lesion.malignant)).all(axis=-1))
        for axis, at in ((panel.plane.rows, 0), (panel.plane.columns, 1)):
            start = panel.window_mm.min[axis]
            low, high = ((edge[axis] - start) * panel.pixels_per_mm for edge in (lesion.box_mm.min, lesion.box_mm.max))
            assert (found[:, at].min(), found[:, at].max()) == pytest.approx((low - 1, high), abs=1.5)


def test_a_value_stands_at_the_centre_of_its_part():
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 3
    heat = smooth(values, (64, 64))
    assert np.unravel_index(heat.argmax(), heat.shape)[0] in range(22, 26)
    assert np.unravel_index(heat.argmax(), heat.shape)[1] in range(38, 42)
    assert 0 <= heat.min() <= heat.max() <= 3


def test_more_heat_is_more_colour_and_none_is_the_crop():
    crop_ = np.full((1, 5), 120, np.uint8)
    pixels = coloured(crop_, np.array([[0, 0.25, 0.5, 0.75, 1.0]])).astype(int)
    assert (pixels[0, 0] == 120).all()
    away = np.abs(pixels[0] - 120).max(axis=-1)
    assert (np.diff(away) > 0).all()


def test_a_report_with_heatmaps_is_written_listed_and_replaced(example, tmp_path):
    lesions = tuple(replace(lesion, heatmap=heatmap_of(example, lesion)) for lesion in example.report.lesions)
    for report in (replace(example.report, lesions=lesions), example.report):
        written = write_report(report, example.voxels, tmp_path / "out")
        names = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
        listed = {name.removeprefix("pictures/") for lesion in written.lesions for name in lesion.pictures.values()}
        assert names == listed | {"overview.png"}
    assert not any("heatmap" in name for name in names)
