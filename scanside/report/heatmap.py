"""The picture of where the classifier looked: for each plane the crop it saw, and the same crop with its heatmap.

The grey crop always stands beside the coloured one, so that nothing of it is hidden. All planes share one scale of
colour: the strongest place of all of them is the top of it, and a plane where no place raised the score stays grey.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box
from scanside.exam.planes import Plane
from scanside.report import drawing
from scanside.report.drawing import BODY, FAINT, HEADLINE, SMALL, TEXT, TITLE, Image, Rect
from scanside.report.model import Heatmap, Lesion, PlaneHeatmap, Report
from scanside.report.panels import GUTTER, MARGIN, Panel, Picture, class_word, exam_words

CELL = 330
"""Pixels of a crop's longer side on the picture."""
LEGEND = 250
BAR_WIDTH = 22
MAX_OPACITY = 0.72
_COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0]
_FAINTEST = 80
"""Where on the colour scale a heat of zero lies; darker colours would look like shadow."""


def heatmap_picture(report: Report, lesion: Lesion, heatmap: Heatmap) -> Picture:
    """A row for each plane: left the crop as the classifier saw it, right the same crop under its heatmap.

    Returns
    -------
    Picture
        Two panels a plane, the grey one first. Both show the lesion's box where it lies in the crop.
    """
    planes = [(Plane(name), heatmap.planes[name]) for name in heatmap.planes]
    sizes = [_size(drawn) for _, drawn in planes]
    title, foot = TITLE.line + 14, SMALL.line + 26
    head = HEADLINE.line + BODY.line + 40
    lefts = MARGIN + GUTTER, MARGIN + GUTTER + CELL + GUTTER
    width = lefts[1] + CELL + GUTTER + LEGEND + MARGIN
    rows = [height + title + foot for height, _ in sizes]
    height = MARGIN + head + max(sum(rows), 380) + SMALL.line + MARGIN
    canvas = drawing.blank(width, height)
    _put_head(canvas, report, lesion, heatmap)

    strongest = max(float(drawn.values.max()) for _, drawn in planes)
    panels = []
    top = MARGIN + head + title
    for (plane, drawn), (rows_px, columns_px), advance in zip(planes, sizes, rows, strict=True):
        heat = smooth(drawn.values, drawn.crop.shape) / strongest if strongest > 0 else np.zeros(drawn.crop.shape)
        grey = cv2.cvtColor(drawn.crop, cv2.COLOR_GRAY2BGR)
        for left, picture in ((lefts[0], grey), (lefts[1], coloured(drawn.crop, heat))):
            panel = _panel(plane, drawn, report, Rect(left, top, left + columns_px, top + rows_px))
            enlarged = cv2.resize(picture, (columns_px, rows_px), interpolation=cv2.INTER_CUBIC)
            canvas[panel.rect.top : panel.rect.bottom, panel.rect.left : panel.rect.right] = enlarged
            _put_box(canvas, panel, lesion)
            panels.append(panel)
        _put_words(canvas, panels[-2], panels[-1], drawn, report, strongest)
        top += advance
    _put_legend(canvas, width - MARGIN - LEGEND, MARGIN + head + title, lesion, strongest)
    drawing.put_text(canvas, report.notice, MARGIN, height - MARGIN - SMALL.line + 6, SMALL)
    return Picture(canvas, tuple(panels))


def smooth(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A heatmap [h, w] on the pixels of its crop: each value stands at the centre of its part of the crop."""
    rows, columns = shape
    heat = cv2.resize(values, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.clip(heat, 0, float(values.max()))


def coloured(crop: NDArray[np.uint8], heat: NDArray) -> Image:
    """`crop` in blue, green, red under colours that grow denser with `heat` (0 to 1); a heat of 0 hides nothing."""
    grey = np.repeat(crop[:, :, None], 3, 2).astype(np.float32)
    opacity = (MAX_OPACITY * np.clip(heat, 0, 1))[:, :, None]
    return np.rint(grey * (1 - opacity) + _colour(heat) * opacity).astype(np.uint8)


def _colour(heat: NDArray) -> NDArray[np.float32]:
    level = _FAINTEST + np.clip(heat, 0, 1) * (255 - _FAINTEST)
    return _COLOURS[np.rint(level).astype(int)].astype(np.float32)


def _size(drawn: PlaneHeatmap) -> tuple[int, int]:
    """Rows and columns on the picture: the crop's window in mm, its longer side `CELL` pixels."""
    mm = [high - low for low, high in drawn.window_mm]
    rows, columns = (max(1, round(CELL * side / max(mm))) for side in mm)
    return rows, columns


def _panel(plane: Plane, drawn: PlaneHeatmap, report: Report, rect: Rect) -> Panel:
    low, high = [0.0, 0.0, 0.0], list(report.geometry.extent_mm)
    for axis, (start, end) in zip((plane.rows, plane.columns), drawn.window_mm, strict=True):
        low[axis], high[axis] = start, end
    longer = max(end - start for start, end in drawn.window_mm)
    return Panel(plane, rect, Box(tuple(low), tuple(high)), CELL / longer)  # type: ignore[arg-type]


def _put_box(canvas: Image, panel: Panel, lesion: Lesion) -> None:
    drawing.frame(canvas, panel.box(lesion.box_mm), drawing.class_colour(lesion.malignant), width=1)


def _put_head(canvas: Image, report: Report, lesion: Lesion, heatmap: Heatmap) -> None:
    word = class_word(lesion.malignant)
    text = drawing.put_text(canvas, f"Lesion {lesion.id} of {len(report.lesions)}", MARGIN, MARGIN, HEADLINE)
    swatch = Rect(text.right + 28, MARGIN + 4, text.right + 50, MARGIN + 26)
    colour = drawing.class_colour(lesion.malignant)
    cv2.rectangle(canvas, (swatch.left, swatch.top), (swatch.right, swatch.bottom), colour, -1)
    drawing.put_text(canvas, f"{word}, P(malignant) {lesion.probability:.2f}", swatch.right + 12, MARGIN, HEADLINE)
    frames = len(lesion.frame_probabilities)
    frame = f"frame {heatmap.frame + 1} of {frames}, P {lesion.frame_probabilities[heatmap.frame]:.2f}"
    below = MARGIN + HEADLINE.line + 14
    words = drawing.put_text(
        canvas, f"What the classifier saw, and what made it say {word}", MARGIN, below, BODY, FAINT
    )
    right = canvas.shape[1] - MARGIN
    exam = drawing.fitted(f"{frame}; {exam_words(report.exam)}", BODY, right - words.right - 30)
    drawing.put_text_right(canvas, exam, right, below, BODY, FAINT)


def _put_words(canvas: Image, grey: Panel, hot: Panel, drawn: PlaneHeatmap, report: Report, strongest: float) -> None:
    plane = grey.plane
    normal, rows, columns = plane.axis_names
    top = grey.rect.top - TITLE.line - 10
    at_mm = (drawn.index + 0.5) * report.geometry.spacing_mm[plane.normal]
    title = drawing.put_text(canvas, plane.value.capitalize(), grey.rect.left, top, TITLE)
    drawing.put_text(canvas, f"{normal} {at_mm:.1f} mm", title.right + 14, top + 2, BODY, FAINT)
    if strongest > 0:
        share = float(drawn.values.max()) / strongest
        words = f"heatmap: up to {share:.0%} of the scale" if share >= 0.01 else "heatmap: no place raised it"
        drawing.put_text(canvas, words, hot.rect.left, top + 2, BODY, FAINT)
    below = grey.rect.bottom + 8
    drawing.put_scale_bar(canvas, grey.rect.left, below, grey.pixels_per_mm)
    drawing.put_text_right(canvas, f"{columns} ->", grey.rect.left + CELL, below, SMALL, FAINT)
    drawing.put_text_up(canvas, f"<- {rows}", grey.rect.left - GUTTER + 2, grey.rect.top + 44, SMALL, FAINT)


def _put_legend(canvas: Image, left: int, top: int, lesion: Lesion, strongest: float) -> None:
    """The scale of colour, and what it means and does not mean."""
    height = 170
    levels = np.linspace(1, 0, height)[:, None].repeat(BAR_WIDTH, 1)
    canvas[top : top + height, left : left + BAR_WIDTH] = coloured(np.full(levels.shape, 90, np.uint8), levels)
    cv2.rectangle(canvas, (left - 1, top - 1), (left + BAR_WIDTH, top + height), FAINT, 1)
    for text, at in (("strongest of all planes", 0.0), ("half", 0.5), ("none", 1.0)):
        y = top + round(at * (height - 1))
        cv2.line(canvas, (left + BAR_WIDTH, y), (left + BAR_WIDTH + 5, y), FAINT, 1)
        drawing.put_text(canvas, text, left + BAR_WIDTH + 12, y - SMALL.line // 2, SMALL, TEXT)
    word = class_word(lesion.malignant)
    lines = [
        "Colour: how much a place",
        f"raised the score for {word}",
        "(Grad-CAM of this frame).",
        "",
        "It is coarse, and it does",
        "not outline the lesion.",
        "",
        "The thin frame is the",
        "lesion's box.",
    ]
    if strongest <= 0:
        lines = [f"No place raised the score for {word}:", "it was the least bad answer.", "", *lines[-2:]]
    for row, line in enumerate(lines):
        drawing.put_text(canvas, line, left, top + height + 24 + row * (SMALL.line + 7), SMALL, FAINT)
