"""The synthetic breast without lesions: layers, ligaments, ducts, muscle, ribs, nipple shadow and contact loss.

Echo strengths are in dB relative to fibroglandular tissue.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.exam.phantom.fields import Field3D, Image, smoothstep, surface_field

_SURFACES = {"skin_mm", "fat_mm", "gland_mm", "muscle_mm", "chest_mm", "_rib_mm", "_shade_db", "_contact"}
FAT_DB, GLAND_DB, MUSCLE_DB, SKIN_DB = -11.5, 0.0, -12.0, 1.0


@dataclass(frozen=True)
class Raster:
    """Pixel centres of a frame in mm: `depth_mm` (rows, 1) and `lateral_mm` (1, columns)."""

    depth_mm: Image
    lateral_mm: Image

    @classmethod
    def over(cls, extent_mm: tuple[float, float], shape: tuple[int, int]) -> Raster:
        centres = [
            (np.arange(n, dtype=np.float32) + np.float32(0.5)) * np.float32(e / n)
            for n, e in zip(shape, extent_mm, strict=True)
        ]
        return cls(centres[0][:, None], centres[1][None, :])

    @property
    def shape(self) -> tuple[int, int]:
        return self.depth_mm.shape[0], self.lateral_mm.shape[1]

    def cut(self, rows: slice, columns: slice) -> Raster:
        """A part of the raster."""
        return Raster(self.depth_mm[rows], self.lateral_mm[:, columns])


@dataclass(frozen=True)
class Lobule:
    """A fat lobule inside the gland: it looks like a mass in one plane, and is none."""

    centre_mm: tuple[float, float, float]
    semi_axes_mm: tuple[float, float, float]


class Anatomy:
    """The tissue of one breast under the transducer, drawn frame by frame.

    Parameters
    ----------
    rng : numpy Generator
    extent_mm : (sweep, depth, lateral)
    sweep_mm : (frames,) frame positions.
    raster : the pixels to draw on.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        extent_mm: tuple[float, float, float],
        sweep_mm: NDArray[np.floating],
        raster: Raster,
    ) -> None:
        self.raster = raster
        self._sweep_mm = np.asarray(sweep_mm, np.float32)
        face = (extent_mm[0], extent_mm[2])
        face_shape = (len(sweep_mm), raster.shape[1])
        z, x = self._sweep_mm[:, None], raster.lateral_mm

        def surface(cell_mm: float) -> Image:
            return surface_field(rng, face, cell_mm, face_shape)

        def field(*cell_mm: float) -> Field3D:
            return Field3D(rng, extent_mm, cell_mm, raster.shape)  # type: ignore[arg-type]

        self.nipple_mm = (
            extent_mm[0] * float(rng.uniform(0.4, 0.6)),
            0.0,
            extent_mm[2] * float(rng.uniform(0.4, 0.6)),
        )
        from_nipple = np.hypot(z - np.float32(self.nipple_mm[0]), x - np.float32(self.nipple_mm[2]))
        centre = np.exp(-((from_nipple / np.float32(55)) ** 2))
        self.skin_mm = np.float32(rng.uniform(1.4, 2.2)) + np.float32(0.15) * surface(25)
        self.fat_mm = self.skin_mm + np.maximum(
            np.float32(rng.uniform(9, 14)) - np.float32(rng.uniform(5, 8)) * centre + np.float32(1.8) * surface(22), 2
        )
        gland = np.float32(rng.uniform(7, 11)) + np.float32(rng.uniform(8, 14)) * centre + np.float32(2.0) * surface(25)
        self.gland_mm = self.fat_mm + np.maximum(gland, 3)
        self.muscle_mm = self.gland_mm + np.maximum(np.float32(rng.uniform(3, 6)) + np.float32(1.2) * surface(28), 1)
        self.chest_mm = self.muscle_mm + np.float32(rng.uniform(8, 12)) + np.float32(0.8) * surface(30)
        self._rib_mm = self._ribs(rng, z, x)
        self._shade_db = self._nipple_shadow(rng, from_nipple, surface(9))
        self._contact = self._contact_loss(rng, z, x, extent_mm, surface(12))
        self._streaks = [
            (
                float(rng.uniform(0, extent_mm[0])),
                float(rng.uniform(0, extent_mm[2])),
                float(rng.uniform(5, 24)),
                float(rng.uniform(1.2, 5)),
                float(rng.uniform(-15, -6)),
                float(rng.uniform(0.8, 4)),
            )
            for _ in range(int(rng.integers(3, 9)))
        ]  # shadow mimics: (sweep, lateral, top depth, half width lateral, dB, half length along the sweep)
        self._lobules = [self._lobule(rng, extent_mm) for _ in range(int(rng.integers(4, 11)))]
        self._coarse = field(9, 5, 9)
        self._septa = field(7, 4.5, 8)
        self._septa2 = field(5, 3.2, 6)
        self._layers = field(5, 1.6, 7)
        self._fine = field(1.6, 0.8, 1.6)
        self._fibres = field(16, 0.55, 9)
        self._duct = field(7, 5, 7)
        self._density = float(rng.uniform(-0.2, 0.9))
        self._septa_db = float(rng.uniform(9, 14))

    def cut(self, rows: slice, columns: slice) -> Anatomy:
        """The same tissue on a part of the raster."""
        part = copy.copy(self)
        part.raster = self.raster.cut(rows, columns)
        for name, value in vars(self).items():
            if isinstance(value, Field3D):
                setattr(part, name, value.cut(rows, columns))
            elif name in _SURFACES:
                setattr(part, name, value[:, columns])
        return part

    def echo_db(self, k: int) -> Image:
        """Echo strength of frame `k` in dB, (rows, columns)."""
        y, x = self.raster.depth_mm, self.raster.lateral_mm
        z = float(self._sweep_mm[k])
        f32 = np.float32
        coarse, septa, septa2 = self._coarse.at(z), self._septa.at(z), self._septa2.at(z)
        layers, fine = self._layers.at(z), self._fine.at(z)

        # Fat: dark lobules between bright septa (Cooper's ligaments), which are the zero sheets of a random field.
        ligament = np.exp(-((septa * f32(10)) ** 2)) + f32(0.7) * np.exp(-((septa2 * f32(11)) ** 2))
        fat = f32(FAT_DB) + f32(1.2) * fine + f32(self._septa_db) * np.minimum(ligament, 1)

        # Gland: bright, layered, with islands of fat; the interface with the fat is scalloped by the lobules.
        islands = smoothstep(coarse + f32(0.5) * layers, self._density + 0.55, self._density + 1.15)
        gland = f32(GLAND_DB) + f32(2.8) * layers + f32(1.8) * fine + f32(2.0) * coarse
        gland += (fat - gland) * islands * f32(0.85)
        near_nipple = np.exp(-(((x - f32(self.nipple_mm[2])) ** 2 + f32((z - self.nipple_mm[0]) ** 2)) / f32(28**2)))
        duct = self._duct.at(z)
        gland -= f32(11) * near_nipple * np.exp(-((duct**2 + (septa * f32(0.8)) ** 2) * f32(14)))
        for lobule in self._lobules:
            self._paint_lobule(gland, fat, lobule, z)

        scallop = f32(2.6) * septa + f32(1.2) * septa2
        echo = fat.copy()
        echo += (f32(SKIN_DB) + f32(1.5) * layers - echo) * (1 - smoothstep(y - self.skin_mm[k], -0.25, 0.25))
        top, bottom = self.fat_mm[k], self.gland_mm[k]
        inside = smoothstep(y - top + scallop, -0.4, 0.5) * (1 - smoothstep(y - bottom - f32(0.6) * scallop, -0.4, 0.5))
        echo += (gland - echo) * inside

        fibres = self._fibres.at(z)
        muscle = f32(MUSCLE_DB) + f32(4.0) * fibres + f32(0.8) * fine
        below = smoothstep(y - self.muscle_mm[k] + f32(0.3) * septa, -0.25, 0.25)
        echo += (muscle - echo) * below
        echo += f32(11) * np.exp(-(((y - self.muscle_mm[k] + f32(0.3) * septa) / f32(0.4)) ** 2))
        self._paint_chest(echo, k, y, fine, fibres)

        # Gel and skin line echoes at the top, then everything that darkens whole columns below.
        echo += f32(9) * np.exp(-((y / f32(0.35)) ** 2))
        echo += self._shade_db[k] * smoothstep(y, 1.5, 9.0)
        for z0, x0, top_mm, half, db, length in self._streaks:
            if abs(z - z0) < 3 * length:
                weight = math.exp(-(((z - z0) / length) ** 2))
                echo += (
                    f32(db * weight) * np.exp(-(((x - f32(x0)) / f32(half)) ** 2)) * smoothstep(y, top_mm, top_mm + 6)
                )
        lost = self._contact[k]
        if lost.any():
            reverberation = f32(-14) + f32(9) * np.cos(y * f32(2 * math.pi / 1.7)) - f32(2.6) * y
            echo += (reverberation - echo) * lost
        return echo

    def blocked(self, k: int) -> Image:
        """Columns of frame `k` that cannot be read (nipple shadow or contact loss), 0 to 1."""
        return np.maximum(np.clip(self._shade_db[k] / -12, 0, 1), self._contact[k])

    def _paint_chest(self, echo: Image, k: int, y: Image, fine: Image, fibres: Image) -> None:
        f32 = np.float32
        rib, chest = self._rib_mm[k], self.chest_mm[k]
        on_rib = np.isfinite(rib)
        surface = np.where(on_rib, rib, chest + f32(5))
        under = smoothstep(y - surface, 0.0, 1.2)
        dark = np.where(on_rib, f32(-40), f32(-19))  # bone casts a clean shadow, lung a dirty one
        haze = dark + f32(3) * fine - f32(0.25) * (y - surface)
        echo += (haze - echo) * under
        line = np.where(on_rib, f32(19), f32(15))
        width = np.where(on_rib, f32(0.55), f32(0.4))
        echo += line * np.exp(-(((y - surface) / width) ** 2))

    def _ribs(self, rng: np.random.Generator, z: Image, x: Image) -> Image:
        """Depth of the rib surfaces over the face, infinite between ribs."""
        angle = float(rng.uniform(-0.5, 0.5))
        u = z * np.float32(math.cos(angle)) + x * np.float32(math.sin(angle))
        period, half = float(rng.uniform(21, 27)), float(rng.uniform(4.5, 6.5))
        offset = np.mod(u - np.float32(rng.uniform(0, period)), np.float32(period)) - np.float32(period / 2)
        arc = half - np.sqrt(np.maximum(half**2 - offset**2, 0)) * np.float32(0.6)
        return np.where(np.abs(offset) < half, self.chest_mm + arc, np.float32(np.inf)).astype(np.float32)

    @staticmethod
    def _nipple_shadow(rng: np.random.Generator, from_nipple: Image, ragged: Image) -> Image:
        radius = np.float32(rng.uniform(4.5, 7.0))
        strength = np.float32(rng.uniform(-24, -12))
        return strength * (
            1 - smoothstep(from_nipple + np.float32(1.5) * ragged, float(radius) * 0.6, float(radius) * 1.4)
        )

    @staticmethod
    def _contact_loss(
        rng: np.random.Generator, z: Image, x: Image, extent_mm: tuple[float, float, float], ragged: Image
    ) -> Image:
        """Where the membrane does not touch the skin: some corners of the face."""
        lost = np.zeros(np.broadcast_shapes(z.shape, x.shape), np.float32)
        for corner_z in (0.0, extent_mm[0]):
            for corner_x in (0.0, extent_mm[2]):
                if rng.random() < 0.4:
                    reach = np.float32(min(rng.uniform(8, 30), min(extent_mm[0], extent_mm[2]) / 3))
                    distance = np.abs(z - np.float32(corner_z)) + np.abs(x - np.float32(corner_x))
                    lost = np.maximum(lost, 1 - smoothstep(distance + np.float32(4) * ragged - reach, -1.0, 1.0))
        return lost

    def _lobule(self, rng: np.random.Generator, extent_mm: tuple[float, float, float]) -> Lobule:
        z, x = float(rng.uniform(0, extent_mm[0])), float(rng.uniform(0, extent_mm[2]))
        k = int(np.argmin(np.abs(self._sweep_mm - z)))
        column = int(np.argmin(np.abs(self.raster.lateral_mm[0] - x)))
        top, bottom = float(self.fat_mm[k, column]), float(self.gland_mm[k, column])
        size = float(rng.uniform(3, 9))
        return Lobule(
            (z, float(rng.uniform(top, bottom)), x), (size * float(rng.uniform(1, 2)), size * 0.55, size * 1.3)
        )

    def _paint_lobule(self, gland: Image, fat: Image, lobule: Lobule, z: float) -> None:
        dz = (z - lobule.centre_mm[0]) / lobule.semi_axes_mm[0]
        if abs(dz) >= 1.2:
            return
        x = self.raster.lateral_mm
        c0, c1 = np.searchsorted(x[0], [lobule.centre_mm[2] + s * 1.2 * lobule.semi_axes_mm[2] for s in (-1, 1)])
        v = (self.raster.depth_mm - np.float32(lobule.centre_mm[1])) / np.float32(lobule.semi_axes_mm[1])
        w = (x[:, c0:c1] - np.float32(lobule.centre_mm[2])) / np.float32(lobule.semi_axes_mm[2])
        rho = np.sqrt(v * v + w * w + np.float32(dz * dz))
        weight = 1 - smoothstep(rho, 0.85, 1.1)
        gland[:, c0:c1] += (fat[:, c0:c1] - gland[:, c0:c1]) * weight
        gland[:, c0:c1] += np.float32(5) * np.exp(-(((rho - 1) / np.float32(0.08)) ** 2))
