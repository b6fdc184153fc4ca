"""What the pictures are drawn with: colours, text, scale bars, and a placing of labels that never overlap.

Images are uint8 (height, width, 3) in OpenCV's blue, green, red order. Only the drawing of OpenCV is used, and text is
always placed by its measured size, so a picture stays in order whichever font OpenCV brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Image = NDArray[np.uint8]

BENIGN: Colour = (70, 205, 60)
"""Green, the frame of a benign finding (paper, Figure 4)."""
MALIGNANT: Colour = (50, 50, 240)
"""Red, the frame of a malignant finding (paper, Figure 5)."""
BACKGROUND: Colour = (26, 23, 21)
TEXT: Colour = (236, 234, 232)
FAINT: Colour = (168, 162, 158)
LINE: Colour = (92, 86, 82)
TICK: Colour = (110, 205, 235)
BADGE_TEXT = {BENIGN: (0, 0, 0), MALIGNANT: (255, 255, 255)}

BAR_LENGTHS_MM = (10.0, 5.0, 2.0, 1.0, 20.0, 50.0)


def class_colour(malignant: bool) -> Colour:
    """Red for malignant, green for benign."""
    return MALIGNANT if malignant else BENIGN


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle of whole pixels: `left` and `top` inside, `right` and `bottom` outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def overlap(self, other: Rect) -> int:
        """Pixels shared with `other`."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, width) * max(0, height)

    def holds(self, other: Rect) -> bool:
        """Whether `other` lies wholly inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )

    def grown(self, by: int) -> Rect:
        return Rect(self.left - by, self.top - by, self.right + by, self.bottom + by)


@dataclass(frozen=True, slots=True)
class Font:
    """One text style."""

    scale: float
    bold: bool = False

    @property
    def face(self) -> int:
        return cv2.FONT_HERSHEY_DUPLEX if self.bold else cv2.FONT_HERSHEY_SIMPLEX

    @property
    def line(self) -> int:
        """Height of a line of text in pixels, with the parts below the baseline."""
        (_, height), baseline = cv2.getTextSize("Hg", self.face, self.scale, 1)
        return height + baseline

    def width(self, text: str) -> int:
        return cv2.getTextSize(printable(text), self.face, self.scale, 1)[0][0]


HEADLINE = Font(0.95, bold=True)
TITLE = Font(0.68, bold=True)
BODY = Font(0.6)
SMALL = Font(0.5)


def printable(text: str) -> str:
    """`text` in the characters every OpenCV font has; the rest become question marks."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def fitted(text: str, font: Font, width: int) -> str:
    """`text`, shortened with dots until it is at most `width` pixels wide."""
    if font.width(text) <= width:
        return text
    while text and font.width(text + "...") > width:
        text = text[:-1]
    return text + "..."


def blank(width: int, height: int) -> Image:
    """A canvas of the background colour."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def put_text(image: Image, text: str, left: int, top: int, font: Font, colour: Colour = TEXT) -> Rect:
    """Draw one line of text with its top-left corner at (`left`, `top`); the place it takes."""
    (width, _), baseline = cv2.getTextSize(printable(text), font.face, font.scale, 1)
    line = font.line
    (_, descent) = cv2.getTextSize("Hg", font.face, font.scale, 1)
    origin = (int(left), int(top + line - max(baseline, descent)))
    cv2.putText(image, printable(text), origin, font.face, font.scale, colour, 1, cv2.LINE_AA)
    return Rect(int(left), int(top), int(left + width), int(top + line))


def put_text_right(image: Image, text: str, right: int, top: int, font: Font, colour: Colour = TEXT) -> Rect:
    """As `put_text`, ending at `right`."""
    return put_text(image, text, right - font.width(text), top, font, colour)


def put_text_up(image: Image, text: str, left: int, middle: int, font: Font, colour: Colour = TEXT) -> Rect:
    """One line of text turned to read from below to above, centred on the row `middle`."""
    width, height = font.width(text) + 4, font.line + 4
    buffer = blank(width, height)
    put_text(buffer, text, 2, 2, font, colour)
    turned = np.rot90(buffer)
    top = max(0, middle - width // 2)
    target = image[top : top + width, left : left + height]
    target[...] = turned[: target.shape[0], : target.shape[1]]
    return Rect(left, top, left + height, top + width)


def frame(image: Image, rect: Rect, colour: Colour, width: int = 2) -> None:
    """Draw a frame of `width` pixels just outside `rect`, so that it hides none of what it shows."""
    for step in range(1, width + 1):
        cv2.rectangle(
            image, (rect.left - step, rect.top - step), (rect.right + step - 1, rect.bottom + step - 1), colour, 1
        )


def bar_length_mm(pixels_per_mm: float) -> float:
    """The length of a scale bar: 10 mm where that is neither tiny nor huge."""
    for length in BAR_LENGTHS_MM:
        if 40 <= length * pixels_per_mm <= 260:
            return length
    return BAR_LENGTHS_MM[-1] if 10 * pixels_per_mm < 40 else 1.0


def put_scale_bar(image: Image, left: int, top: int, pixels_per_mm: float) -> Rect:
    """A horizontal scale bar with its length written beside it; the place it takes."""
    length_mm = bar_length_mm(pixels_per_mm)
    length = max(1, round(length_mm * pixels_per_mm))
    middle = top + SMALL.line // 2
    cv2.rectangle(image, (left, middle - 1), (left + length - 1, middle + 1), TEXT, -1)
    for x in (left, left + length - 1):
        cv2.rectangle(image, (x, middle - 5), (x, middle + 5), TEXT, -1)
    text = put_text(image, f"{length_mm:g} mm", left + length + 10, top, SMALL)
    return Rect(left, top, text.right, text.bottom)


def put_badge(image: Image, rect: Rect, text: str, colour: Colour) -> None:
    """A filled pill of `colour` with a short text in its middle."""
    radius = rect.height // 2
    middle = rect.top + radius
    left, right = rect.left + radius, max(rect.left + radius, rect.right - radius - 1)
    cv2.line(image, (left, middle), (right, middle), BACKGROUND, 2 * radius + 3, cv2.LINE_AA)
    cv2.line(image, (left, middle), (right, middle), colour, 2 * radius - 1, cv2.LINE_AA)
    font = Font(0.55, bold=True)
    (width, height), _ = cv2.getTextSize(text, font.face, font.scale, 1)
    origin = ((rect.left + rect.right - width) // 2, middle + height // 2)
    cv2.putText(image, text, origin, font.face, font.scale, BADGE_TEXT[colour], 1, cv2.LINE_AA)


def badge_size(text: str) -> tuple[int, int]:
    """Width and height of a badge for `text`."""
    height = 30
    return max(height, Font(0.55, bold=True).width(text) + 18), height


def place_labels(boxes: Sequence[Rect], sizes: Sequence[tuple[int, int]], bounds: Rect) -> tuple[Rect, ...]:
    """A place for the label of each box: inside `bounds`, near its own box, on no box and on no other label.

    Labels are placed in the given order at the nearest free position of a growing ring around the box, and, where
    boxes leave no free place, at the position that hides the least.
    """
    placed: list[Rect] = []
    for box, size in zip(boxes, sizes, strict=True):
        placed.append(_nearest_place(box, size, boxes, placed, bounds))
    return tuple(placed)


def _nearest_place(
    box: Rect, size: tuple[int, int], boxes: Sequence[Rect], placed: Sequence[Rect], bounds: Rect
) -> Rect:
    width, height = size
    taken = [*(b.grown(3) for b in boxes), *(p.grown(3) for p in placed)]
    for gap in range(6, 60, 9):
        for left, top in _ring(box, width, height, gap):
            rect = Rect(left, top, left + width, top + height)
            if bounds.holds(rect) and not any(rect.overlap(t) for t in taken):
                return rect
    return _least_hiding_place(box, size, boxes, placed, bounds)


def _least_hiding_place(
    box: Rect, size: tuple[int, int], boxes: Sequence[Rect], placed: Sequence[Rect], bounds: Rect
) -> Rect:
    """The place on a grid over `bounds` that hides the least, labels before boxes; the nearest of equals."""
    lefts, tops = np.meshgrid(
        np.arange(bounds.left, max(bounds.left + 1, bounds.right - size[0] + 1), 4),
        np.arange(bounds.top, max(bounds.top + 1, bounds.bottom - size[1] + 1), 4),
    )
    hidden = np.zeros(lefts.shape, np.int64)
    for taken, weight in ((boxes, 1), (placed, 16)):
        for rect in (t.grown(2) for t in taken):
            across = np.minimum(lefts + size[0], rect.right) - np.maximum(lefts, rect.left)
            down = np.minimum(tops + size[1], rect.bottom) - np.maximum(tops, rect.top)
            hidden += weight * np.maximum(across, 0) * np.maximum(down, 0)
    far = (lefts + size[0] // 2 - (box.left + box.right) // 2) ** 2 + (
        tops + size[1] // 2 - (box.top + box.bottom) // 2
    ) ** 2
    best = np.lexsort((far.ravel(), hidden.ravel()))[0]
    left, top = int(lefts.ravel()[best]), int(tops.ravel()[best])
    return Rect(left, top, left + size[0], top + size[1])


def _ring(box: Rect, width: int, height: int, gap: int) -> list[tuple[int, int]]:
    """Top-left corners of labels around `box` at `gap` pixels, the upper right first."""
    lefts = (box.right + gap, box.left - gap - width)
    tops = (box.top - gap - height, box.bottom + gap)
    across = (box.right - width, box.left, (box.left + box.right - width) // 2)
    down = (box.top, box.bottom - height, (box.top + box.bottom - height) // 2)
    corners = [(left, top) for top in tops for left in lefts]
    return [corners[0], *((x, y) for x in lefts for y in down), *((x, y) for y in tops for x in across), *corners[1:]]
