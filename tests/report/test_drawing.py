from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.report import drawing
from scanside.report.drawing import Rect

BOUNDS = Rect(0, 0, 900, 700)


@st.composite
def box_lists(draw):
    boxes = []
    for _ in range(draw(st.integers(1, 14))):
        left, top = draw(st.integers(0, 840)), draw(st.integers(0, 640))
        boxes.append(Rect(left, top, left + draw(st.integers(4, 60)), top + draw(st.integers(4, 60))))
    return boxes


@settings(max_examples=30, deadline=None)
@given(box_lists())
def test_labels_touch_no_box_and_no_other_label(boxes):
    sizes = [drawing.badge_size(str(n)) for n in range(1, len(boxes) + 1)]
    places = drawing.place_labels(boxes, sizes, BOUNDS)
    for n, place in enumerate(places):
        assert (place.width, place.height) == sizes[n]
        assert BOUNDS.holds(place)
        assert not any(place.overlap(box) for box in boxes)
        assert not any(place.overlap(other) for other in places[:n])


def test_label_of_a_lone_box_stands_beside_it():
    box = Rect(400, 300, 440, 330)
    (place,) = drawing.place_labels([box], [(30, 30)], BOUNDS)
    assert box.grown(8).overlap(place.grown(1)) > 0


def test_labels_stay_apart_where_boxes_leave_no_room():
    boxes = [Rect(0, 0, 900, 700)] * 5
    places = drawing.place_labels(boxes, [(30, 30)] * 5, BOUNDS)
    for n, place in enumerate(places):
        assert BOUNDS.holds(place)
        assert not any(place.overlap(other) for other in places[:n])


@pytest.mark.parametrize("font", [drawing.HEADLINE, drawing.TITLE, drawing.BODY, drawing.SMALL])
@pytest.mark.parametrize("text", ["Lesion 12 of 13", "depth (mm) gjpqy", "1", "side unknown, view ?"])
def test_text_stays_in_the_place_it_reports(font, text):
    image = drawing.blank(600, 120)
    rect = drawing.put_text(image, text, 40, 30, font).grown(2)
    drawn = np.argwhere((image != drawing.BACKGROUND).any(axis=2))
    assert len(drawn) > 10
    top, left = drawn.min(0)
    bottom, right = drawn.max(0)
    assert rect.holds(Rect(left, top, right, bottom))


def test_fitted_text_fits_and_keeps_what_fits():
    assert drawing.fitted("short", drawing.BODY, 400) == "short"
    cut = drawing.fitted("a very long name of a view", drawing.BODY, 120)
    assert cut.endswith("...")
    assert drawing.BODY.width(cut) <= 120


def test_printable_keeps_only_what_the_fonts_have():
    assert drawing.printable("Läsion 1\n") == "L?sion 1?"


def test_frame_leaves_its_inside_alone():
    image = drawing.blank(60, 60)
    rect = Rect(20, 15, 40, 45)
    drawing.frame(image, rect, drawing.MALIGNANT)
    inside = image[rect.top : rect.bottom, rect.left : rect.right]
    assert (inside == drawing.BACKGROUND).all()
    ring = rect.grown(2)
    assert int((image == drawing.MALIGNANT).all(axis=2).sum()) == ring.width * ring.height - rect.width * rect.height


@pytest.mark.parametrize(("scale", "length"), [(5, 10), (10.4, 10), (24, 10), (40, 5), (2, 20), (1, 50), (0.1, 50)])
def test_scale_bar_is_ten_millimetres_where_it_can(scale, length):
    assert drawing.bar_length_mm(scale) == length


def test_scale_bar_has_its_length_in_pixels():
    image = drawing.blank(400, 60)
    drawing.put_scale_bar(image, 20, 20, 10.0)
    row = image[20 + drawing.SMALL.line // 2]
    lit = np.flatnonzero((row == drawing.TEXT).all(axis=1))
    assert (lit[lit < 125].min(), lit[lit < 125].max()) == (20, 119)
