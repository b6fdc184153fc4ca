"""Synthetic lesions: their place and shape from what `descriptors` drew, and how one is painted into a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box
from scanside.exam.phantom.descriptors import MIN_SIZE_MM, Descriptors, draw_look
from scanside.exam.phantom.fields import Image, smoothstep

_MAX_HEIGHT_MM = 26.0
_REACH = 2.3


@dataclass(frozen=True)
class Lesion:
    """One lesion's class, place and look. Axes are (sweep, depth, lateral) in mm."""

    id: int
    malignant: bool
    kind: str
    centre_mm: tuple[float, float, float]
    semi_axes_mm: tuple[float, float, float]
    angle: float
    descriptors: Descriptors
    shape_seed: int

    @property
    def reach_mm(self) -> Box:
        """Where the lesion changes the tissue: its body, halo and retraction (posterior effects reach deeper)."""
        d = self.descriptors
        bulge = 1 + 1.2 * d.irregularity + d.microlobulation
        rim = 4.0 if d.halo_db else 1.5
        return self.body_mm(_REACH if d.retraction_db else bulge + rim / (2 * min(self.semi_axes_mm)))

    def body_mm(self, swell: float = 1.0) -> Box:
        """A box that holds the body, `swell` times its size."""
        half = self.half_mm
        return Box(
            tuple(c - swell * h for c, h in zip(self.centre_mm, half, strict=True)),  # type: ignore[arg-type]
            tuple(c + swell * h for c, h in zip(self.centre_mm, half, strict=True)),  # type: ignore[arg-type]
        )

    @property
    def half_mm(self) -> tuple[float, float, float]:
        """Half the sides of the box around the body's ellipsoid."""
        sweep, depth, lateral = self.semi_axes_mm
        s, c = abs(math.sin(self.angle)), abs(math.cos(self.angle))
        return math.hypot(c * sweep, s * lateral), depth, math.hypot(s * sweep, c * lateral)


def draw_lesion(rng: np.random.Generator, id: int, malignant: bool, size_mm: float, difficulty: float = 0.0) -> Lesion:
    """A lesion of the class and size, still at the origin; see `Population.difficulty`."""
    look = draw_look(rng, malignant, difficulty)
    d = look.descriptors
    # The bulges count: the whole is `size_mm` at most, and never below the smallest size.
    size_mm = max(size_mm / (1 + 1.1 * d.irregularity + 0.7 * d.microlobulation), MIN_SIZE_MM)
    height = size_mm * (rng.uniform(0.8, 1.1) if look.taller else rng.uniform(0.45, 0.72))
    height = min(height, _MAX_HEIGHT_MM * rng.uniform(0.75, 1.0))
    sweep = size_mm * rng.uniform(0.72, 1.0)
    semi = (sweep / 2, height / 2, size_mm / 2)
    angle, shape_seed = float(rng.uniform(-0.6, 0.6)), int(rng.integers(1 << 31))
    return Lesion(id, malignant, look.kind, (0.0, 0.0, 0.0), semi, angle, d, shape_seed)


class LesionPainter:
    """Draws one lesion into the echo map of a frame."""

    def __init__(self, lesion: Lesion) -> None:
        self.lesion = lesion
        rng = np.random.default_rng([lesion.shape_seed, 1])
        d = lesion.descriptors
        # The boundary radius over directions: a few low-order waves (irregular shape) and many short ones
        # (microlobulated or angular margin).
        self._directions = np.concatenate([rng.standard_normal((6, 3)) * 1.6, rng.standard_normal((8, 3)) * 6.0])
        self._phases = rng.uniform(0, 2 * math.pi, (14, 1)).astype(np.float32)
        self._amplitudes = np.repeat(
            np.array([d.irregularity / math.sqrt(3), d.microlobulation / math.sqrt(4)], np.float32), (6, 8)
        )
        self._directions = self._directions.astype(np.float32)
        self._texture = [
            (rng.standard_normal(3) / rng.uniform(0.7, 2.2), rng.uniform(0, 2 * math.pi)) for _ in range(8)
        ]
        self._spokes = [(int(n), rng.uniform(0, 2 * math.pi)) for n in rng.integers(d.spicules - 2, d.spicules + 3, 2)]
        points = rng.uniform(-0.6, 0.6, (d.calcifications, 3)) * lesion.semi_axes_mm
        self._calcifications = points + lesion.centre_mm

    def radius(
        self, sweep_mm: float, depth_mm: Image, lateral_mm: Image
    ) -> tuple[Image, tuple[np.float32, Image, Image]]:
        """Distance from the centre as a share of the boundary radius (inside below 1), and the mm offsets.

        `depth_mm` (rows, 1) and `lateral_mm` (1, columns) are the raster's coordinates in the frame at `sweep_mm`.
        """
        lesion = self.lesion
        s, c = math.sin(lesion.angle), math.cos(lesion.angle)
        dz = np.float32(sweep_mm - lesion.centre_mm[0])
        dy: Image = depth_mm - np.float32(lesion.centre_mm[1])
        dx: Image = lateral_mm - np.float32(lesion.centre_mm[2])
        u = (np.float32(c) * dz + np.float32(s) * dx) / np.float32(lesion.semi_axes_mm[0])
        v = dy / np.float32(lesion.semi_axes_mm[1])
        w = (np.float32(c) * dx - np.float32(s) * dz) / np.float32(lesion.semi_axes_mm[2])
        rho = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
        units = np.stack([np.broadcast_to(a, rho.shape) for a in (u, v, w)]).reshape(3, -1) / rho.reshape(-1)
        waves = self._directions @ units.astype(np.float32)
        waves += self._phases
        boundary = 1 + (self._amplitudes @ np.cos(waves, out=waves)).reshape(rho.shape)
        return rho / np.maximum(boundary, np.float32(0.35)), (dz, dy, dx)

    def paint(self, echo_db: Image, sweep_mm: float, depth_mm: Image, lateral_mm: Image) -> None:
        """Add the lesion to `echo_db` (rows, columns), in place."""
        lesion, d = self.lesion, self.lesion.descriptors
        reach = lesion.reach_mm
        if not reach.min[0] <= sweep_mm <= reach.max[0]:
            return
        c0, c1 = np.searchsorted(lateral_mm[0], (reach.min[2], reach.max[2]))
        r0, r1 = np.searchsorted(depth_mm[:, 0], (reach.min[1], reach.max[1]))
        if c0 == c1 or r0 == len(depth_mm):
            return
        self._posterior(echo_db[:, c0:c1], sweep_mm, depth_mm, lateral_mm[:, c0:c1])
        if r0 == r1:
            return
        window = echo_db[r0:r1, c0:c1]
        f, (dz, dy, dx) = self.radius(sweep_mm, depth_mm[r0:r1], lateral_mm[:, c0:c1])
        size_mm = np.float32(min(lesion.semi_axes_mm))
        outside_mm = (f - 1) * size_mm
        if d.retraction_db:
            near = smoothstep(f, 0.9, 1.15) * (1 - smoothstep(f, 1.3, _REACH))
            near *= np.exp(-((dy / np.float32(1.3 * lesion.semi_axes_mm[1])) ** 2))
            azimuth = np.arctan2(np.float32(dz) + np.zeros_like(dx), dx)
            spokes = np.zeros_like(azimuth)
            for n, phase in self._spokes:  # narrow bright strands between broad dark gaps
                spokes += np.exp(4 * np.cos(n * azimuth + np.float32(phase)) - 4) - np.float32(0.3)
            window += np.float32(d.retraction_db) * spokes * near
        if d.halo_db:
            window += np.float32(d.halo_db) * smoothstep(outside_mm, 0, 0.8) * (1 - smoothstep(outside_mm, 1.2, 3.5))
        inside = 1 - smoothstep(outside_mm, -d.margin_mm / 2, d.margin_mm / 2)
        body = np.full_like(f, d.echo_db)
        if d.heterogeneity_db:
            for direction, phase in self._texture:
                angle = direction[0] * dz + direction[1] * dy + direction[2] * dx
                body += np.float32(d.heterogeneity_db / 2) * np.cos(angle.astype(np.float32) + np.float32(phase))
        window += (body - window) * inside
        if d.capsule_db:
            window += np.float32(d.capsule_db) * np.exp(-((outside_mm / np.float32(0.35)) ** 2))
        for point in self._calcifications:
            if abs(point[0] - sweep_mm) < 0.4:
                spot = ((depth_mm[r0:r1] - point[1]) / 0.22) ** 2 + ((lateral_mm[:, c0:c1] - point[2]) / 0.3) ** 2
                window += np.float32(20) * np.exp(-spot.astype(np.float32))

    def _posterior(self, echo_db: Image, sweep_mm: float, depth_mm: Image, lateral_mm: Image) -> None:
        """Shadow or enhancement below the lesion, and the refraction shadows at its edges."""
        lesion, d = self.lesion, self.lesion.descriptors
        if not (d.posterior_db or d.edge_shadow_db):
            return
        half = lesion.half_mm
        across = np.sqrt(
            ((lateral_mm - np.float32(lesion.centre_mm[2])) / np.float32(half[2])) ** 2
            + np.float32(((sweep_mm - lesion.centre_mm[0]) / half[0]) ** 2)
        )
        below = smoothstep((depth_mm - np.float32(lesion.centre_mm[1])) / np.float32(half[1]), 0.3, 1.3)
        fade = np.exp(-np.maximum(depth_mm - np.float32(lesion.centre_mm[1] + half[1]), 0) / np.float32(30))
        columns = np.float32(d.posterior_db) * (1 - smoothstep(across, 0.65, 1.0))
        if d.edge_shadow_db:
            columns = columns + np.float32(d.edge_shadow_db) * np.exp(-(((across - 1) / np.float32(0.09)) ** 2))
        echo_db += columns * below * fade

    def inside(self, sweep_mm: float, depth_mm: Image, lateral_mm: Image) -> NDArray[np.bool_]:
        """The truth: whether the raster's pixel centre lies in the lesion's body."""
        return self.radius(sweep_mm, depth_mm, lateral_mm)[0] < 1
