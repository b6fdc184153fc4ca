"""From echo strength to an ultrasound picture: scatterers, point-spread function, noise floor, log compression.

The speckle is fully developed: every resolution cell holds many scatterers of random phase (complex white noise times
the tissue's amplitude), summed coherently by an anisotropic point-spread function that widens away from the focus.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.phantom.fields import Image

_BANDS = 12
_DEPTH_LOSS = 0.12


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
    depth_loss_db_per_mm: float = _DEPTH_LOSS

    def drawn(self, rng: np.random.Generator) -> Acquisition:
        """One exam's acquisition around this one, as patients and settings vary."""
        return replace(
            self,
            axial_mm=self.axial_mm * float(rng.uniform(0.85, 1.2)),
            lateral_mm=self.lateral_mm * float(rng.uniform(0.85, 1.25)),
            gain_db=self.gain_db + float(rng.uniform(-4, 4)),
            dynamic_range_db=self.dynamic_range_db + float(rng.uniform(-5, 6)),
            depth_loss_db_per_mm=float(rng.uniform(0.06, 0.2)) * (self.depth_loss_db_per_mm / _DEPTH_LOSS),
        )

    def at_frequency(self, ratio: float) -> Acquisition:
        """The same scanner with a probe of `ratio` times the frequency: finer by as much, and lost sooner in depth."""
        return replace(
            self,
            axial_mm=self.axial_mm / ratio,
            lateral_mm=self.lateral_mm / ratio,
            elevation_mm=self.elevation_mm / ratio,
            depth_loss_db_per_mm=self.depth_loss_db_per_mm * ratio,
        )


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
        self._part = np.s_[0 : shape[0], 0 : shape[1]]
        self._whole = shape
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

    def cut(self, rows: slice, columns: slice) -> Beam:
        """The same beam on a part of the frame: its noise is the whole frame's, so that both show one speckle."""
        part = copy.copy(self)
        part._part = (rows, columns)
        part.shape = (rows.stop - rows.start, columns.stop - columns.start)
        part._bands = [
            (max(top, rows.start) - rows.start, min(bottom, rows.stop) - rows.start, kernel)
            for top, bottom, kernel in self._bands
            if top < rows.stop and bottom > rows.start
        ]
        part.depth_gain_db = self.depth_gain_db[rows]
        return part

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns on either side that a pixel depends on."""
        return len(self._axial) // 2, max(len(kernel) for _, _, kernel in self._bands) // 2

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
        noise = np.frombuffer(rng.bytes(2 * math.prod(self._whole)), np.int8).reshape(2, *self._whole)
        white = noise[:, *self._part].astype(np.float32)
        white *= np.float32(1 / (256 / math.sqrt(12)) / math.sqrt(2))
        return white
