"""The coronal overview: the whole volume seen from the front, with a numbered mark at each lesion."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane
from scanside.exam.volume import Voxels
from scanside.report import drawing
from scanside.report.drawing import BODY, FAINT, HEADLINE, LINE, SMALL, TITLE, Image, Rect
from scanside.report.model import Lesion, Report
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
    size_words,
)

OVERVIEW_SIDE = 840
LIST_WIDTH = 400
PROJECTION_MM = 0.4
LAYER_MM = 1.0
DARK_SHARE = 0.35


def overview_picture(report: Report, voxels: Voxels) -> Picture:
    """The whole volume seen from the front (coronal), with a numbered mark at each lesion and a list of them.

    What is shown is the mean of the darkest third over a slab of depth that holds all lesions: lesions are mostly
    darker than the tissue around them.

    Parameters
    ----------
    report : Report
        The findings; none gives the overview with "no lesion found".
    voxels : array
        The decoded volume, uint8 (sweep, depth, lateral).
    """
    geometry = report.geometry
    whole = Box((0.0, 0.0, 0.0), geometry.extent_mm)
    sweep_mm, _, lateral_mm = geometry.extent_mm
    scale = min(OVERVIEW_SIDE / max(sweep_mm, lateral_mm), MAX_PIXELS_PER_MM)
    width, height = max(1, round(lateral_mm * scale)), max(1, round(sweep_mm * scale))
    ruler = SMALL.line + 14
    left, top = MARGIN + 2 * GUTTER, MARGIN + HEADLINE.line + 24
    rect = Rect(left, top, left + width, top + height)
    list_left = left + max(width, MIN_CELL) + MARGIN
    body = max(height, MIN_BODY)
    canvas = drawing.blank(list_left + LIST_WIDTH + MARGIN, top + body + ruler + 3 * SMALL.line + 26 + MARGIN)
    panel = Panel(Plane.CORONAL, rect, whole, scale)

    slab_mm = _slab(geometry, report.lesions)
    image = cv2.resize(coronal_projection(voxels, geometry, slab_mm), (width, height), interpolation=cv2.INTER_LINEAR)
    canvas[rect.top : rect.bottom, rect.left : rect.right] = image[:, :, None]
    _put_rulers(canvas, panel)
    labels = _put_marks(canvas, panel, report.lesions)

    drawing.put_text(canvas, "Coronal overview", MARGIN, MARGIN, HEADLINE)
    drawing.put_text_right(canvas, exam_words(report.exam), canvas.shape[1] - MARGIN, MARGIN + 4, TITLE)
    _put_list(canvas, report.lesions, Rect(list_left, top, canvas.shape[1] - MARGIN, top + body))
    below = top + body + ruler + SMALL.line + 10
    drawing.put_scale_bar(canvas, left, below, scale)
    text = f"darkest third over depth {slab_mm[0]:.1f} to {slab_mm[1]:.1f} mm"
    drawing.put_text(canvas, text, list_left, below, SMALL, FAINT)
    drawing.put_text(canvas, report.notice, MARGIN, canvas.shape[0] - MARGIN - SMALL.line + 6, SMALL)
    return Picture(canvas, (panel,), labels)


def coronal_projection(voxels: Voxels, geometry: Geometry, slab_mm: tuple[float, float]) -> NDArray[np.uint8]:
    """Mean of the darkest share over a slab of depth, with local contrast; square pixels of `PROJECTION_MM`.

    The layers are first brought to one mean, so that a deep, dim layer does not hide what lies above it.
    """
    slab = geometry.box_index_from_mm(Box((0.0, slab_mm[0], 0.0), (geometry.extent_mm[0], slab_mm[1], 0.0)))
    first, last = int(slab.min[1]), int(slab.max[1])
    sweep, _, lateral = geometry.shape
    spacing = geometry.spacing_mm
    layers = max(1, round((last - first) * spacing[1] / LAYER_MM))
    columns = max(1, min(lateral, round(lateral * spacing[2] / PROJECTION_MM)))
    stack = np.empty((layers, sweep, columns), np.uint8)
    for k in range(sweep):
        part = np.ascontiguousarray(voxels[k, first:last])
        stack[:, k] = cv2.resize(part, (columns, layers), interpolation=cv2.INTER_AREA)
    means = stack.mean(axis=(1, 2))
    level = float(means.max())
    for layer, mean in zip(stack, means, strict=True):
        cv2.convertScaleAbs(layer, dst=layer, alpha=min(4.0, level / max(float(mean), 1.0)))
    dark = max(1, round(layers * DARK_SHARE))
    stack.partition(dark - 1, axis=0)
    flat = np.ascontiguousarray(stack[:dark].mean(axis=0).astype(np.uint8))
    extent = geometry.extent_mm
    shape = max(1, round(extent[0] / PROJECTION_MM)), max(1, round(extent[2] / PROJECTION_MM))
    square = cv2.resize(flat, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    low, high = np.percentile(square, (0.5, 99.5))
    stretched = np.clip((square.astype(np.float32) - low) * (235.0 / max(high - low, 1.0)), 0, 255).astype(np.uint8)
    return cv2.createCLAHE(clipLimit=1.6, tileGridSize=(4, 4)).apply(stretched)


def _slab(geometry: Geometry, lesions: Sequence[Lesion]) -> tuple[float, float]:
    """The depths in mm that the overview shows: all lesions and a little more, or the middle of the volume."""
    extent = geometry.extent_mm[1]
    if not lesions:
        return 0.12 * extent, 0.65 * extent
    low = max(0.0, min(lesion.box_mm.min[1] for lesion in lesions) - 1.0)
    return low, min(extent, max(lesion.box_mm.max[1] for lesion in lesions) + 1.0)


def _put_rulers(canvas: Image, panel: Panel) -> None:
    """Axis names and a number every 20 mm (1 to 50 mm where the volume is of another size)."""
    rect, scale = panel.rect, panel.pixels_per_mm
    step = next((s for s in (1, 2, 5, 10, 20, 50) if s * scale >= 60), 100)
    for number in range(0, int(rect.width / scale) + 1, step):
        x = round(rect.left + number * scale)
        cv2.line(canvas, (x, rect.bottom + 2), (x, rect.bottom + 8), LINE, 1)
        drawing.put_text(canvas, str(number), x - SMALL.width(str(number)) // 2, rect.bottom + 11, SMALL, FAINT)
    for number in range(0, int(rect.height / scale) + 1, step):
        y = round(rect.top + number * scale)
        cv2.line(canvas, (rect.left - 8, y), (rect.left - 3, y), LINE, 1)
        drawing.put_text_right(canvas, str(number), rect.left - 12, y - SMALL.line // 2, SMALL, FAINT)
    words = "lateral (mm)"
    middle = (rect.left + rect.right - SMALL.width(words)) // 2
    drawing.put_text(canvas, words, max(rect.left, middle), rect.bottom + 12 + SMALL.line, SMALL, FAINT)
    words = "sweep (mm)"
    middle = max((rect.top + rect.bottom) // 2, rect.top + SMALL.width(words) // 2)
    drawing.put_text_up(canvas, words, MARGIN - 4, middle, SMALL, FAINT)


def _put_marks(canvas: Image, panel: Panel, lesions: Sequence[Lesion]) -> dict[int, Rect]:
    boxes = [panel.box(lesion.box_mm) for lesion in lesions]
    sizes = [drawing.badge_size(str(lesion.id)) for lesion in lesions]
    places = drawing.place_labels(boxes, sizes, panel.rect.grown(-3))
    for lesion, box, place in zip(lesions, boxes, places, strict=True):
        colour = drawing.class_colour(lesion.malignant)
        start = (place.left + place.right) // 2, (place.top + place.bottom) // 2
        end = min(max(start[0], box.left), box.right), min(max(start[1], box.top), box.bottom)
        cv2.line(canvas, start, end, colour, 1, cv2.LINE_AA)
    for lesion, box, place in zip(lesions, boxes, places, strict=True):
        drawing.frame(canvas, box, drawing.class_colour(lesion.malignant))
        drawing.put_badge(canvas, place, str(lesion.id), drawing.class_colour(lesion.malignant))
    return {lesion.id: place for lesion, place in zip(lesions, places, strict=True)}


def _put_list(canvas: Image, lesions: Sequence[Lesion], area: Rect) -> None:
    """The lesions by number, two lines each, or one where there are many."""
    malignant = sum(lesion.malignant for lesion in lesions)
    count = f"{len(lesions)} lesion{'s' * (len(lesions) != 1)}"
    words = f"{count}: {malignant} malignant, {len(lesions) - malignant} benign" if lesions else "no lesion found"
    drawing.put_text(canvas, words, area.left, area.top, TITLE)
    top = area.top + TITLE.line + 18
    tall = 2 * BODY.line + 22
    short = max(BODY.line + 12, 34)
    pitch = tall if top + tall * len(lesions) <= area.bottom else short
    room = max(0, (area.bottom - top) // pitch)
    shown = lesions if len(lesions) <= room else lesions[: max(0, room - 1)]
    for lesion in shown:
        _put_entry(canvas, lesion, Rect(area.left, top, area.right, top + pitch), two_lines=pitch == tall)
        top += pitch
    if len(shown) < len(lesions):
        rest = f"and {len(lesions) - len(shown)} more in report.json"
        drawing.put_text(canvas, rest, area.left, top + 4, BODY, FAINT)


def _put_entry(canvas: Image, lesion: Lesion, area: Rect, *, two_lines: bool) -> None:
    width, height = drawing.badge_size(str(lesion.id))
    badge = Rect(area.left, area.top, area.left + width, area.top + height)
    drawing.put_badge(canvas, badge, str(lesion.id), drawing.class_colour(lesion.malignant))
    left, top = area.left + 58, area.top + (height - BODY.line) // 2
    size = size_words(lesion.diameters_mm)
    words = drawing.put_text(canvas, f"{class_word(lesion.malignant)} {lesion.probability:.2f}", left, top, BODY)
    if two_lines:
        facts = f"{size}, depth {lesion.centroid_mm[1]:.0f} mm"
        drawing.put_text(canvas, facts, left, top + BODY.line + 4, SMALL, FAINT)
    else:
        size = drawing.fitted(size, SMALL, area.right - words.right - 12)
        drawing.put_text_right(canvas, size, area.right, top + 2, SMALL, FAINT)
