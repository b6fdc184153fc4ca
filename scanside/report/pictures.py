"""The pictures of a report: three planes for each lesion, and a coronal overview of the volume.

The box of a lesion is green when the finding is benign and red when it is malignant (paper, Figures 4 and 5). All
panels of a picture have square pixels and one scale in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from scanside.exam.geometry import AXES, Box, Geometry
from scanside.exam.planes import Plane, resample
from scanside.exam.volume import Voxels
from scanside.report import drawing
from scanside.report.drawing import BODY, FAINT, HEADLINE, SMALL, TEXT, TICK, TITLE, Image, Rect
from scanside.report.model import Lesion, Report
from scanside.report.overview import overview_picture
from scanside.report.panels import (
    GUTTER,
    MARGIN,
    MAX_PIXELS_PER_MM,
    MIN_BODY,
    MIN_CELL,
    Panel,
    Picture,
    class_word,
    exam_words,
    png,
    volume_words,
)

__all__ = ["Picture", "lesion_picture", "overview_picture", "png"]

MIN_CONTEXT_MM = 50.0
CONTEXT = 2.2
"""Side of the shown region over the lesion's largest diameter, where that exceeds `MIN_CONTEXT_MM`."""
PLANES_WIDTH = 1040
PLANES_HEIGHT = 1080


def lesion_picture(report: Report, lesion: Lesion, voxels: Voxels) -> Picture:
    """Transverse, sagittal and coronal section through a lesion's centroid, each with the lesion's box.

    Parameters
    ----------
    report : Report
        For the geometry and what was examined.
    lesion : Lesion
        The lesion to show.
    voxels : array
        The decoded volume, uint8 (sweep, depth, lateral).

    Returns
    -------
    Picture
        At least 900 pixels wide. The sagittal section shares its depth axis with the transverse one on its left, the
        coronal section its lateral axis with the transverse one above it.
    """
    geometry = report.geometry
    window = _context(geometry, lesion)
    window_mm = geometry.box_mm_from_index(window)
    sweep_mm, depth_mm, lateral_mm = window_mm.size
    scale = min(PLANES_WIDTH / (lateral_mm + sweep_mm), PLANES_HEIGHT / (depth_mm + sweep_mm), MAX_PIXELS_PER_MM)

    def pixels(mm: float) -> int:
        return max(1, round(mm * scale))

    title, foot = TITLE.line + 14, SMALL.line + 34
    head = HEADLINE.line + 24
    cells = max(MIN_CELL, pixels(lateral_mm)), max(MIN_CELL, pixels(sweep_mm))
    rows = pixels(depth_mm), max(pixels(sweep_mm), MIN_BODY)
    lefts = MARGIN + GUTTER, MARGIN + GUTTER + cells[0] + GUTTER + MARGIN
    tops = MARGIN + head + title, MARGIN + head + title + rows[0] + foot + title
    width = lefts[1] + cells[1] + MARGIN
    height = tops[1] + rows[1] + foot + SMALL.line + MARGIN
    canvas = drawing.blank(width, height)

    centre = geometry.index_from_mm(lesion.centroid_mm)
    panels = []
    for plane, left, top in (
        (Plane.TRANSVERSE, lefts[0], tops[0]),
        (Plane.SAGITTAL, lefts[1], tops[0]),
        (Plane.CORONAL, lefts[0], tops[1]),
    ):
        size = window_mm.size
        rect = Rect(left, top, left + pixels(size[plane.columns]), top + pixels(size[plane.rows]))
        panel = Panel(plane, rect, window_mm, scale)
        index = int(np.clip(round(float(centre[plane.normal])), 0, geometry.shape[plane.normal] - 1))
        _put_section(canvas, panel, voxels, geometry, window, index)
        _put_ticks(canvas, panel, lesion.centroid_mm)
        drawing.frame(canvas, panel.box(lesion.box_mm), drawing.class_colour(lesion.malignant))
        _put_panel_words(canvas, panel, cells[plane is Plane.SAGITTAL], lesion.centroid_mm[plane.normal])
        panels.append(panel)

    _put_lesion_head(canvas, report, lesion)
    _put_facts(canvas, lesion, Rect(lefts[1], tops[1] - title, width - MARGIN, tops[1] + rows[1]))
    drawing.put_text(canvas, report.notice, MARGIN, height - MARGIN - SMALL.line + 6, SMALL)
    return Picture(canvas, tuple(panels))


def _context(geometry: Geometry, lesion: Lesion) -> Box:
    """The index box around a lesion that its picture shows: one side length, moved inside the volume."""
    side = max(MIN_CONTEXT_MM, CONTEXT * max(lesion.box_mm.size))
    low, high = [], []
    for axis, extent in enumerate(geometry.extent_mm):
        start = min(max(0.0, lesion.box_mm.centre[axis] - side / 2), max(0.0, extent - side))
        low.append(start)
        high.append(min(extent, start + side))
    return geometry.box_index_from_mm(Box(tuple(low), tuple(high)))  # type: ignore[arg-type]


def _put_section(canvas: Image, panel: Panel, voxels: Voxels, geometry: Geometry, window: Box, index: int) -> None:
    plane, rect = panel.plane, panel.rect
    rows, columns = (slice(int(window.min[a]), int(window.max[a])) for a in (plane.rows, plane.columns))
    native = np.ascontiguousarray(plane.slice(voxels, index)[rows, columns])
    spacing = geometry.spacing_mm[plane.rows], geometry.spacing_mm[plane.columns]
    image = resample(native, spacing, 1 / panel.pixels_per_mm, (rect.height, rect.width))
    canvas[rect.top : rect.bottom, rect.left : rect.right] = image[:, :, None]


def _put_ticks(canvas: Image, panel: Panel, centroid_mm: Sequence[float]) -> None:
    """Ticks outside the panel where the other two sections cut it."""
    x, y = (round(v) for v in panel.pixel(centroid_mm))
    rect = panel.rect
    cv2.rectangle(canvas, (x - 1, rect.top - 9), (x, rect.top - 3), TICK, -1)
    cv2.rectangle(canvas, (rect.left - 9, y - 1), (rect.left - 3, y), TICK, -1)


def _put_panel_words(canvas: Image, panel: Panel, cell: int, at_mm: float) -> None:
    plane, rect = panel.plane, panel.rect
    normal, rows, columns = plane.axis_names
    top = rect.top - TITLE.line - 14
    title = drawing.put_text(canvas, plane.value.capitalize(), rect.left, top, TITLE)
    drawing.put_text(canvas, f"{normal} {at_mm:.1f} mm", title.right + 14, top + 2, BODY, FAINT)
    below = rect.bottom + 10
    bar = drawing.put_scale_bar(canvas, rect.left, below, panel.pixels_per_mm)
    end = max(rect.right, min(rect.left + cell, bar.right + 140))
    arrow_y = below + SMALL.line // 2
    cv2.arrowedLine(canvas, (end - 34, arrow_y), (end - 2, arrow_y), FAINT, 1, cv2.LINE_AA, tipLength=0.25)
    drawing.put_text_right(canvas, columns, end - 44, below, SMALL, FAINT)
    left = rect.left - GUTTER + 2
    words = drawing.put_text_up(canvas, rows, left, rect.top + 40 + SMALL.width(rows) // 2, SMALL, FAINT)
    arrow_x = (words.left + words.right) // 2
    cv2.arrowedLine(canvas, (arrow_x, rect.top + 2), (arrow_x, rect.top + 34), FAINT, 1, cv2.LINE_AA, tipLength=0.25)


def _put_lesion_head(canvas: Image, report: Report, lesion: Lesion) -> None:
    text = drawing.put_text(canvas, f"Lesion {lesion.id} of {len(report.lesions)}", MARGIN, MARGIN, HEADLINE)
    words = f"{class_word(lesion.malignant)}, P(malignant) {lesion.probability:.2f}"
    colour = drawing.class_colour(lesion.malignant)
    swatch = Rect(text.right + 28, MARGIN + 4, text.right + 50, MARGIN + 26)
    cv2.rectangle(canvas, (swatch.left, swatch.top), (swatch.right, swatch.bottom), colour, -1)
    found = drawing.put_text(canvas, words, swatch.right + 12, MARGIN, HEADLINE)
    right = canvas.shape[1] - MARGIN
    exam = drawing.fitted(exam_words(report.exam), TITLE, right - found.right - 30)
    drawing.put_text_right(canvas, exam, right, MARGIN + 4, TITLE)


def _put_facts(canvas: Image, lesion: Lesion, area: Rect) -> None:
    """What is known of a lesion, as two columns of text."""
    facts = [
        ("finding", class_word(lesion.malignant)),
        ("P(malignant)", f"{lesion.probability:.2f}"),
        ("detection score", f"{lesion.detection_score:.2f}"),
        *((f"{axis} size", f"{value:.1f} mm") for axis, value in zip(AXES, lesion.diameters_mm, strict=True)),
        ("volume", volume_words(lesion.volume_mm3)),
        *((f"{axis} position", f"{value:.1f} mm") for axis, value in zip(AXES, lesion.centroid_mm, strict=True)),
        ("seen in", ", ".join(lesion.planes_seen) or "no plane"),
    ]
    pitch = min(BODY.line + 12, (area.height - SMALL.line - 10) // len(facts))
    column = area.left + max(BODY.width(name) for name, _ in facts) + 24
    for row, (name, value) in enumerate(facts):
        top = area.top + row * pitch
        drawing.put_text(canvas, name, area.left, top, BODY, FAINT)
        drawing.put_text(canvas, drawing.fitted(value, BODY, area.right - column), column, top, BODY, TEXT)
    _put_key(canvas, area.left, area.top + len(facts) * pitch + 10)


def _put_key(canvas: Image, left: int, top: int) -> None:
    """What the frames and the ticks mean."""
    middle = top + SMALL.line // 2
    cv2.rectangle(canvas, (left, middle - 4), (left + 1, middle + 4), TICK, -1)
    words = drawing.put_text(canvas, "other two sections", left + 10, top, SMALL, FAINT)
    for malignant in (False, True):
        left = words.right + 24
        drawing.frame(canvas, Rect(left + 2, middle - 5, left + 14, middle + 5), drawing.class_colour(malignant))
        words = drawing.put_text(canvas, class_word(malignant), left + 24, top, SMALL, FAINT)
