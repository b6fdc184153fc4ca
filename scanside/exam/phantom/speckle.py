"""From echo strength to an ultrasound picture: scatterers, point-spread function, noise floor, log compression.

The speckle is fully developed: every resolution cell holds many scatterers of random phase (complex white noise times
the tissue's amplitude), summed coherently by an anisotropic point-spread function that widens away from the focus.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.phantom.fields import Image

_BANDS = 12


@dataclass(frozen=True)
class Acquisition:
    """How the synthetic scanner sees: resolution (standard deviations in mm), gain and dynamic range in dB.

    `lateral_mm` and `elevation_mm` hold at the focus; the lateral width grows with distance from `focus_mm`.
    """

    axial_mm: float = 0.13
    lateral_mm: float = 0.24
    elevation_mm: float = 0.45
    focus_mm: float = 22.0
    defocus_per_mm: float = 0.011
    gain_db: float = 33.5
    dynamic_range_db: float = 60.0
    noise_floor_db: float = -36.0
    depth_loss_db_per_mm: float = 0.12


def _gaussian(sigma: float) -> NDArray[np.float32]:
    """A kernel that leaves the variance of white noise unchanged."""
    sigma = max(sigma, 0.3)
    reach = max(1, math.ceil(2.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (kernel / np.sqrt(np.sum(kernel**2))).astype(np.float32)


class Beam:
    """The point-spread function and the receiver on one voxel grid (depth, lateral) with spacing in mm."""

    def __init__(
        self, acquisition: Acquisition, shape: tuple[int, int], spacing_mm: tuple[float, float, float]
    ) -> None:
        sweep, depth, lateral = spacing_mm
        self.acquisition = acquisition
        self.shape = shape
        self.elevation = _gaussian(acquisition.elevation_mm / sweep)
        self._axial = _gaussian(acquisition.axial_mm / depth)
        edges = np.linspace(0, shape[0], _BANDS + 1).round().astype(int)
        self._bands = []
        for top, bottom in itertools.pairwise(edges):
            if bottom > top:
                off_focus = abs((top + bottom) / 2 * depth - acquisition.focus_mm)
                width = acquisition.lateral_mm + acquisition.defocus_per_mm * off_focus
                self._bands.append((int(top), int(bottom), _gaussian(width / lateral)))
        depth_mm = (np.arange(shape[0], dtype=np.float32) + 0.5) * np.float32(depth)
        self.depth_gain_db = (-acquisition.depth_loss_db_per_mm * depth_mm)[:, None]

    @property
    def halo(self) -> int:
        """Frames on either side that a frame's picture depends on."""
        return len(self.elevation) // 2

    def scatter(self, rng: np.random.Generator, echo_db: Image) -> Image:
        """Random-phase scatterers of strength `echo_db` (rows, columns): real and imaginary (2, rows, columns)."""
        amplitude = cv2.exp((echo_db + self.depth_gain_db) * np.float32(math.log(10) / 20))
        return self._white(rng) * amplitude

    def picture(self, scatterers: list[Image], rng: np.random.Generator) -> NDArray[np.uint8]:
        """The grey frame from the scatterers of its neighbours (2 * halo + 1 frames, itself in the middle)."""
        field = scatterers[0] * self.elevation[0]
        for weight, frame in zip(self.elevation[1:], scatterers[1:], strict=True):
            for part, sum_ in zip(frame, field, strict=True):
                cv2.scaleAdd(part, float(weight), sum_, sum_)
        noise = self._white(rng)
        floor = 10 ** (self.acquisition.noise_floor_db / 20)
        power = np.full(self.shape, 1e-9, np.float32)
        for part, white in zip(field, noise, strict=True):
            part = self._blurred(part)
            cv2.scaleAdd(white, floor, part, part)
            cv2.accumulateSquare(part, power)
        a = self.acquisition
        per_db = 255 / a.dynamic_range_db
        grey = np.asarray(cv2.log(power, power), np.float32)
        grey *= np.float32(10 / math.log(10) * per_db)
        grey += np.float32(a.gain_db * per_db)
        return np.asarray(cv2.convertScaleAbs(np.maximum(grey, 0, out=grey)), np.uint8)

    def _blurred(self, part: Image) -> Image:
        """One plane of the field through the axial, then the depth-dependent lateral response."""
        unit = np.ones(1, np.float32)
        part = np.asarray(cv2.sepFilter2D(part, -1, unit, self._axial, borderType=cv2.BORDER_REFLECT), np.float32)
        for top, bottom, kernel in self._bands:
            # A copy first: OpenCV would read across the band's edge otherwise.
            part[top:bottom] = cv2.sepFilter2D(part[top:bottom].copy(), -1, kernel, unit, borderType=cv2.BORDER_REFLECT)
        return part

    def _white(self, rng: np.random.Generator) -> Image:
        """Two planes of white noise, unit variance in all.

        Uniform bytes are enough: the sum over a resolution cell makes them Gaussian.
        """
        white = np.frombuffer(rng.bytes(2 * math.prod(self.shape)), np.int8).astype(np.float32)
        white *= np.float32(1 / (256 / math.sqrt(12)) / math.sqrt(2))
        return white.reshape(2, *self.shape)
