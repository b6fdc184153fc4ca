"""What every picture of a report shares: panels of one plane in mm, the finished picture, and the words on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2

from scanside.errors import OutputError
from scanside.exam.geometry import Box
from scanside.exam.planes import Plane
from scanside.report import drawing
from scanside.report.drawing import Image, Rect
from scanside.report.model import ExamRecord

MARGIN = 30
GUTTER = 38
MIN_CELL = 430
MIN_BODY = 340
MAX_PIXELS_PER_MM = 40.0


@dataclass(frozen=True)
class Panel:
    """Where one plane lies on a picture.

    `rect` is the image area on the canvas in pixels, `window_mm` what of the volume it shows.
    """

    plane: Plane
    rect: Rect
    window_mm: Box
    pixels_per_mm: float

    def pixel(self, mm: Sequence[float]) -> tuple[float, float]:
        """(x, y) on the canvas of a point (sweep, depth, lateral) in mm, in edge coordinates."""
        rows, columns = self.plane.rows, self.plane.columns
        x = self.rect.left + (mm[columns] - self.window_mm.min[columns]) * self.pixels_per_mm
        y = self.rect.top + (mm[rows] - self.window_mm.min[rows]) * self.pixels_per_mm
        return x, y

    def box(self, box_mm: Box) -> Rect:
        """The outline of a box on the canvas, kept inside the panel, with at least 3 pixels a side."""
        left, top = (round(v) for v in self.pixel(box_mm.min))
        right, bottom = (round(v) for v in self.pixel(box_mm.max))
        left, right = _inside(left, right, self.rect.left + 2, self.rect.right - 2)
        top, bottom = _inside(top, bottom, self.rect.top + 2, self.rect.bottom - 2)
        return Rect(left, top, right, bottom)


@dataclass(frozen=True)
class Picture:
    """A finished picture and where things are on it.

    `pixels` is uint8 (height, width, 3) in blue, green, red order; `labels` the place of each lesion's number.
    """

    pixels: Image
    panels: tuple[Panel, ...]
    labels: Mapping[int, Rect] = field(default_factory=dict)


def png(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    done, data = cv2.imencode(".png", picture.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise OutputError("a picture cannot be encoded as PNG", found=list(picture.pixels.shape))
    return data.tobytes()


def exam_words(exam: ExamRecord) -> str:
    """Side and view of an exam in words ("right breast, view AP")."""
    side = f"{exam.laterality} breast" if exam.laterality in ("left", "right") else "side unknown"
    view = f"view {exam.view}" if exam.view not in ("", "unknown") else "view unknown"
    return drawing.printable(f"{side}, {view}"[:60])


def class_word(malignant: bool) -> str:
    """A finding's class as it is written everywhere."""
    return "malignant" if malignant else "benign"


def volume_words(volume_mm3: float) -> str:
    """A volume in ml, with three digits where two would say too little."""
    ml = volume_mm3 / 1000
    return f"{ml:.2f} ml" if ml >= 0.1 else f"{ml:.3f} ml"


def size_words(diameters_mm: Sequence[float]) -> str:
    """Sizes in mm, with one digit below 10 mm."""
    return " x ".join(f"{v:.1f}" if v < 9.95 else f"{v:.0f}" for v in diameters_mm) + " mm"


def _inside(low: int, high: int, least: int, most: int) -> tuple[int, int]:
    """The span [low, high) moved and cut into [least, most), never empty."""
    most = max(most, least + 1)
    low = min(max(low, least), most - 1)
    return low, max(low + 1, min(high, most))
