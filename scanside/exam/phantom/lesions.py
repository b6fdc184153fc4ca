"""Synthetic lesions and the things that look like them, described by the BI-RADS descriptors (5th edition).

Each descriptor is drawn from a distribution that depends on the class, and the distributions overlap: no single
descriptor, and no single plane, decides. Sizes follow Table 1 of Liu et al. 2025.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box
from scanside.exam.phantom.fields import Image, smoothstep

MIN_SIZE_MM, MAX_SIZE_MM = 4.0, 60.0
MALIGNANT_SHARE = 535 / 1152
# Mean and standard deviation of the largest diameter in mm, by class (Table 1, training set).
_SIZE_MM = {True: (33.5, 19.3), False: (18.8, 9.9)}
_MAX_HEIGHT_MM = 26.0
_REACH = 2.3


@dataclass(frozen=True)
class Descriptors:
    """BI-RADS descriptors of one lesion as numbers (dB, mm, or a share of the radius)."""

    echo_db: float
    irregularity: float
    microlobulation: float
    margin_mm: float
    halo_db: float
    capsule_db: float
    heterogeneity_db: float
    posterior_db: float
    edge_shadow_db: float
    retraction_db: float
    spicules: int
    calcifications: int


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


def draw_size_mm(rng: np.random.Generator, malignant: bool) -> float:
    """A largest diameter from the log-normal of Table 1's mean and deviation, kept within 4 to 60 mm."""
    mean, deviation = _SIZE_MM[malignant]
    variance = math.log(1 + (deviation / mean) ** 2)
    while True:
        size = float(rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance)))
        if MIN_SIZE_MM <= size <= MAX_SIZE_MM:
            return size


def draw_lesion(rng: np.random.Generator, id: int, malignant: bool, size_mm: float) -> Lesion:
    """A lesion of the class and size, still at the origin."""
    kind = _draw_kind(rng, malignant)
    d = _draw_descriptors(rng, malignant, kind)
    taller = rng.random() < (0.45 if malignant else 0.12)
    # The bulges count: the whole is `size_mm` at most, and never below the smallest size.
    size_mm = max(size_mm / (1 + 1.1 * d.irregularity + 0.7 * d.microlobulation), MIN_SIZE_MM)
    height = size_mm * (rng.uniform(0.8, 1.1) if taller else rng.uniform(0.45, 0.72))
    height = min(height, _MAX_HEIGHT_MM * rng.uniform(0.75, 1.0))
    sweep = size_mm * rng.uniform(0.72, 1.0)
    semi = (sweep / 2, height / 2, size_mm / 2)
    return Lesion(
        id, malignant, kind, (0.0, 0.0, 0.0), semi, float(rng.uniform(-0.6, 0.6)), d, int(rng.integers(1 << 31))
    )


def _draw_kind(rng: np.random.Generator, malignant: bool) -> str:
    kinds = (
        {"invasive_ductal": 0.66, "indistinct": 0.2, "circumscribed_malignant": 0.14}
        if malignant
        else {"fibroadenoma": 0.58, "adenosis": 0.2, "simple_cyst": 0.12, "isoechoic": 0.1}
    )
    return str(rng.choice(list(kinds), p=list(kinds.values())))


def _draw_descriptors(rng: np.random.Generator, malignant: bool, kind: str) -> Descriptors:
    def draw(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    suspicious = kind in ("invasive_ductal", "indistinct") or (kind == "adenosis" and rng.random() < 0.5)
    echo = draw(-21, -14.5) if malignant else draw(-19.5, -13.5)
    if kind == "simple_cyst":
        echo = draw(-46, -38)
    elif kind == "isoechoic":
        echo = draw(-12.5, -10.0)
    posterior = rng.choice([draw(-16, -7), 0.0, draw(3, 6)], p=[0.62, 0.28, 0.1] if malignant else [0.12, 0.43, 0.45])
    if kind == "simple_cyst":
        posterior = draw(5, 9)
    retraction = (
        rng.random() < (0.75 if kind != "circumscribed_malignant" else 0.3)
        if malignant
        else (kind == "adenosis" and rng.random() < 0.3)
    )
    return Descriptors(
        echo_db=echo,
        irregularity=draw(0.15, 0.36) if suspicious else draw(0.02, 0.14),
        microlobulation=draw(0.05, 0.17) if suspicious else draw(0.0, 0.05),
        margin_mm=draw(0.8, 2.6) if kind == "indistinct" or (suspicious and rng.random() < 0.4) else draw(0.2, 0.9),
        halo_db=draw(2, 6) if malignant and rng.random() < 0.55 else 0.0,
        capsule_db=draw(3, 8) if not suspicious and rng.random() < 0.7 else 0.0,
        heterogeneity_db=draw(2, 5) if malignant else (0.0 if kind == "simple_cyst" else draw(0.8, 3.2)),
        posterior_db=float(posterior),
        edge_shadow_db=draw(-7, -3) if not suspicious and rng.random() < 0.6 else 0.0,
        retraction_db=draw(5.0, 11.0) if retraction else 0.0,
        spicules=int(rng.integers(5, 12)),
        calcifications=int(rng.integers(3, 14)) if rng.random() < (0.4 if malignant else 0.07) else 0,
    )


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


def descriptors_json(lesion: Lesion) -> dict[str, float | int]:
    """The descriptors as plain numbers for truth.json."""
    return {name: round(value, 3) for name, value in asdict(lesion.descriptors).items()}
