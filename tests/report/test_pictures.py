from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from scanside.exam.geometry import Geometry
from scanside.exam.planes import Plane
from scanside.report import drawing
from scanside.report.drawing import Rect
from scanside.report.pictures import lesion_picture, overview_picture, png


def coloured(picture, colour, rect):
    """Bounding rectangle of the pixels of `colour` inside `rect`, or None."""
    part = picture.pixels[rect.top : rect.bottom, rect.left : rect.right]
    where = np.argwhere((part == colour).all(axis=2))
    if not len(where):
        return None
    (top, left), (bottom, right) = where.min(0), where.max(0)
    return Rect(rect.left + left, rect.top + top, rect.left + right + 1, rect.top + bottom + 1)


def assert_box_at_its_mm(picture, lesion, colour):
    for panel in picture.panels:
        box = coloured(picture, colour, panel.rect)
        assert box is not None
        scale, origin = panel.pixels_per_mm, panel.window_mm.min
        rows, columns = panel.plane.rows, panel.plane.columns
        expected = (
            panel.rect.left + (lesion.box_mm.min[columns] - origin[columns]) * scale - 2,
            panel.rect.top + (lesion.box_mm.min[rows] - origin[rows]) * scale - 2,
            panel.rect.left + (lesion.box_mm.max[columns] - origin[columns]) * scale + 2,
            panel.rect.top + (lesion.box_mm.max[rows] - origin[rows]) * scale + 2,
        )
        assert (box.left, box.top, box.right, box.bottom) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("which", [0, 1])
def test_box_of_each_plane_lies_at_the_lesions_mm(example, which):
    lesion = example.report.lesions[which]
    picture = lesion_picture(example.report, lesion, example.voxels)
    colour = drawing.MALIGNANT if lesion.malignant else drawing.BENIGN
    other = drawing.BENIGN if lesion.malignant else drawing.MALIGNANT
    assert [panel.plane for panel in picture.panels] == [Plane.TRANSVERSE, Plane.SAGITTAL, Plane.CORONAL]
    assert_box_at_its_mm(picture, lesion, colour)
    assert all(coloured(picture, other, panel.rect) is None for panel in picture.panels)


def test_what_lies_inside_the_box_is_the_lesion(example):
    for lesion in example.report.lesions:
        picture = lesion_picture(example.report, lesion, example.voxels)
        for panel in picture.panels:
            box = panel.box(lesion.box_mm).grown(-panel.pixels_per_mm.__ceil__())
            inside = picture.pixels[box.top : box.bottom, box.left : box.right]
            assert inside.size > 0
            assert (inside == 20).all()
            outside = picture.pixels[panel.rect.bottom - 6 : panel.rect.bottom, panel.rect.left : panel.rect.right]
            assert outside.mean() > 60


def test_panels_share_one_scale_and_keep_apart(example):
    picture = lesion_picture(example.report, example.report.lesions[0], example.voxels)
    assert picture.pixels.shape[1] >= 900
    canvas = Rect(0, 0, picture.pixels.shape[1], picture.pixels.shape[0])
    assert len({panel.pixels_per_mm for panel in picture.panels}) == 1
    for n, panel in enumerate(picture.panels):
        assert canvas.holds(panel.rect.grown(20))
        size = panel.window_mm.size
        assert panel.rect.width == pytest.approx(size[panel.plane.columns] * panel.pixels_per_mm, abs=1)
        assert panel.rect.height == pytest.approx(size[panel.plane.rows] * panel.pixels_per_mm, abs=1)
        assert not any(panel.rect.overlap(other.rect) for other in picture.panels[:n])


def test_a_large_volume_is_shown_in_part_with_the_lesion_inside(lesion_at, report_of):
    geometry = Geometry((60, 50, 60), (2.0, 1.2, 2.0))
    voxels = np.full(geometry.shape, 90, np.uint8)
    lesion = lesion_at(1, geometry, (40, 25, 30), (50, 40, 36), 0.7)
    low, high = lesion.box_index.min, lesion.box_index.max
    voxels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 20
    picture = lesion_picture(report_of(geometry, (lesion,)), lesion, voxels)
    window = picture.panels[0].window_mm
    assert max(window.size) <= 54
    for axis in range(3):
        assert window.min[axis] <= lesion.box_mm.min[axis]
        assert lesion.box_mm.max[axis] <= window.max[axis] <= geometry.extent_mm[axis] + 1e-9
    assert min(window.min) > 0
    assert_box_at_its_mm(picture, lesion, drawing.MALIGNANT)
    for panel in picture.panels:
        box = panel.box(lesion.box_mm).grown(-2 * round(panel.pixels_per_mm))
        assert (picture.pixels[box.top : box.bottom, box.left : box.right] == 20).all()


@pytest.mark.parametrize(
    ("low", "high"), [((0, 0, 0), (3, 9, 9)), ((9, 56, 70), (12, 64, 80)), ((0, 0, 0), (12, 64, 80))]
)
def test_lesions_at_the_border_keep_all_four_sides(example, lesion_at, report_of, low, high):
    lesion = lesion_at(1, example.report.geometry, low, high, 0.9)
    report = report_of(example.report.geometry, (lesion,))
    for picture in (lesion_picture(report, lesion, example.voxels), overview_picture(report, example.voxels)):
        for panel in picture.panels:
            box = panel.box(lesion.box_mm)
            assert panel.rect.holds(box.grown(2))
            if picture.labels:
                continue  # the overview's number may stand on a box that fills the volume
            found = coloured(picture, drawing.MALIGNANT, panel.rect)
            assert found == box.grown(2)


def test_overview_marks_each_lesion_in_its_colour(example):
    picture = overview_picture(example.report, example.voxels)
    (panel,) = picture.panels
    for lesion, colour in zip(example.report.lesions, (drawing.BENIGN, drawing.MALIGNANT), strict=True):
        box, label = panel.box(lesion.box_mm), picture.labels[lesion.id]
        x, y = panel.pixel(lesion.centroid_mm)
        assert (x, y) == pytest.approx(((box.left + box.right) / 2, (box.top + box.bottom) / 2), abs=2)
        edge = picture.pixels[box.bottom, box.left : box.right]
        assert (edge == colour).all()
        badge = picture.pixels[label.top : label.bottom, label.left : label.right]
        assert (badge == colour).all(axis=2).mean() > 0.3
        assert not label.overlap(box)


def test_twelve_lesions_have_labels_apart(report_of, lesion_at):
    geometry = Geometry((84, 20, 77), (2.0, 3.0, 2.0))
    rng = np.random.default_rng(2)
    lesions = []
    for n in range(12):
        low = rng.integers((0, 0, 0), (78, 15, 71))
        lesions.append(lesion_at(n + 1, geometry, tuple(low.tolist()), tuple(np.add(low, (6, 5, 6)).tolist()), n / 12))
    voxels = rng.integers(0, 255, geometry.shape, dtype=np.uint8)
    picture = overview_picture(report_of(geometry, tuple(lesions)), voxels)
    (panel,) = picture.panels
    places = list(picture.labels.values())
    assert len(places) == 12
    for n, place in enumerate(places):
        assert panel.rect.holds(place)
        assert not any(place.overlap(other) for other in places[:n])
        assert not any(place.overlap(panel.box(lesion.box_mm)) for lesion in lesions)


def test_no_lesion_gives_an_overview_without_marks(example):
    picture = overview_picture(replace(example.report, lesions=()), example.voxels)
    whole = Rect(0, 0, picture.pixels.shape[1], picture.pixels.shape[0])
    assert picture.pixels.shape[1] >= 900
    assert picture.labels == {}
    assert coloured(picture, drawing.MALIGNANT, whole) is None
    assert coloured(picture, drawing.BENIGN, whole) is None


def test_every_picture_carries_the_notice_its_findings_and_the_side(example, monkeypatch):
    drawn = []
    put_text = drawing.put_text

    def noting(image, text, *rest):
        drawn.append(text)
        return put_text(image, text, *rest)

    monkeypatch.setattr(drawing, "put_text", noting)
    overview_picture(example.report, example.voxels)
    assert {"Research use only. Not a medical device.", "right breast, view AP", "malignant 0.93"} <= set(drawn)
    drawn.clear()
    overview_picture(replace(example.report, lesions=()), example.voxels)
    assert {"Research use only. Not a medical device.", "no lesion found"} <= set(drawn)
    drawn.clear()
    lesion_picture(example.report, example.report.lesions[1], example.voxels)
    assert {
        "Research use only. Not a medical device.",
        "Lesion 2 of 2",
        "malignant, P(malignant) 0.93",
        "Transverse",
        "Sagittal",
        "Coronal",
        "3.0 mm",
        "4.0 mm",
        "6.0 mm",
        "right breast, view AP",
    } <= set(drawn)


def test_no_text_overlaps_another_text_or_a_panel(example, monkeypatch):
    placed = []
    put_text = drawing.put_text

    def noting(image, text, *rest):
        rect = put_text(image, text, *rest)
        if image.shape[1] > 600:  # not the buffers of turned text
            placed.append((text, rect))
        return rect

    monkeypatch.setattr(drawing, "put_text", noting)
    long = replace(example.report.exam, view="LATERAL OBLIQUE WITH A NAME THAT NEVER ENDS", laterality="unknown")
    report = replace(example.report, exam=long)
    for make in (
        lambda: lesion_picture(report, report.lesions[0], example.voxels),
        lambda: overview_picture(report, example.voxels),
    ):
        placed.clear()
        picture = make()
        canvas = Rect(0, 0, picture.pixels.shape[1], picture.pixels.shape[0])
        for n, (text, rect) in enumerate(placed):
            assert canvas.holds(rect), text
            assert not any(rect.overlap(other) for _, other in placed[:n]), text
            assert not any(rect.overlap(panel.rect) for panel in picture.panels), text


@pytest.mark.parametrize("shape", [(1, 64, 80), (12, 1, 80), (12, 64, 1), (1, 1, 1)])
def test_thin_volumes_still_give_pictures(shape, lesion_at, report_of):
    geometry = Geometry(shape, (0.5, 0.1, 0.2))
    lesion = lesion_at(1, geometry, (0, 0, 0), tuple(max(1, n // 2) for n in shape), 0.2)
    report = report_of(geometry, (lesion,))
    voxels = np.full(shape, 100, np.uint8)
    for picture in (lesion_picture(report, lesion, voxels), overview_picture(report, voxels)):
        assert picture.pixels.shape[1] >= 900


def test_png_is_the_picture_and_always_the_same_bytes(example):
    picture = overview_picture(example.report, example.voxels)
    data = png(picture)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), picture.pixels)
    assert png(overview_picture(example.report, example.voxels)) == data
