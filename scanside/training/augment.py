"""Random changes that leave the truth as it is. Images are uint8 (rows, columns); every draw comes from `rng`."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def window(
    image: Pixels, mask: Pixels, corner: tuple[float, float], scale: float, size: int, flips: tuple[bool, bool]
) -> tuple[Pixels, Pixels]:
    """A `size` x `size` window of an image and its 0/1 mask, seen `scale` times larger.

    `corner` is the window's upper-left corner (row, column) in the image; `flips` mirror the window up-down and
    left-right. What lies outside the image is zero. A scale of 1 with a whole corner copies pixels unchanged.
    """
    r, c = corner
    matrix = np.array([[scale, 0, (0.5 - c) * scale - 0.5], [0, scale, (0.5 - r) * scale - 0.5]], np.float64)
    if flips[0]:
        matrix[1] = -matrix[1]
        matrix[1, 2] += size - 1
    if flips[1]:
        matrix[0] = -matrix[0]
        matrix[0, 2] += size - 1
    cut = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    cut_mask = cv2.warpAffine(mask * np.uint8(255), matrix, (size, size), flags=cv2.INTER_LINEAR)
    return cut, (cut_mask >= 128).astype(np.uint8)  # type: ignore[return-value]


def corner_near(
    rng: np.random.Generator, centre: tuple[float, float], shape: tuple[int, int], side: float
) -> tuple[float, float]:
    """The corner of a window of `side` pixels that holds `centre` away from its border where the image allows it.

    Along an axis on which the image is smaller than the window, the window starts at the image's own corner, as the
    engine pads sections.
    """
    corner = []
    for at, n in zip(centre, shape, strict=True):
        drawn = round(at - side * rng.uniform(0.15, 0.85))
        corner.append(float(np.clip(drawn, 0, max(0, int(n - side)))))
    return corner[0], corner[1]


def brightness(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Another gain, gamma, offset and time-gain slope down the rows; black stays black."""
    grey = np.arange(256, dtype=np.float32) / 255
    table = 255 * rng.uniform(0.75, 1.3) * grey ** rng.uniform(0.75, 1.35) + rng.uniform(-12, 12)
    table[0] = 0
    out = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        top, bottom = rng.uniform(0.8, 1.2, 2)
        slope = np.linspace(top, bottom, len(out), dtype=np.float32)[:, None]
        out = np.clip(out * slope, 0, 255).astype(np.uint8)
    return out  # type: ignore[return-value]


def texture(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Sometimes blurred, sometimes with additive noise or more speckle; black stays black."""
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.0)))  # type: ignore[assignment]
    kind = rng.random()
    if kind < 0.2:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 9))
    elif kind < 0.4:
        speckle = cv2.GaussianBlur(rng.standard_normal(image.shape, np.float32), (0, 0), float(rng.uniform(0.5, 1.2)))
        noise = image * speckle * np.float32(rng.uniform(0.1, 0.5))
    else:
        return image
    return np.where(image > 0, np.clip(image + noise, 0, 255), 0).astype(np.uint8)
