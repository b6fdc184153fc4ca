"""A tiny BUS-BRA, a stub phantom, and a cohort of stubs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from scanside.exam.geometry import Box, Geometry
from scanside.training.cohort import build_cohort
from scanside.training.cutting import CohortSettings

TINY = CohortSettings(keep_every=4, lesion_sections=4, boxes=2, frames=2, crop_size=40)


@dataclass(frozen=True)
class StubLesion:
    id: int
    box_index: Box
    box_mm: Box
    malignant: bool
    diameters_mm: tuple[float, float, float]


@dataclass(frozen=True)
class StubPhantom:
    voxels: np.ndarray
    mask: np.ndarray
    geometry: Geometry
    truth: tuple[StubLesion, ...]


def make_stub(seed: int, lesions: int) -> StubPhantom:
    """Dark ellipsoids side by side in bright noise; every second one malignant."""
    rng = np.random.default_rng(seed)
    geometry = Geometry((24, 60, 64), (1.2, 0.4, 0.8))
    voxels = rng.integers(90, 200, geometry.shape, dtype=np.uint8)
    mask = np.zeros(geometry.shape, np.uint8)
    grid = geometry.mm_from_index(np.moveaxis(np.indices(geometry.shape), 0, -1))
    truth = []
    for number in range(lesions):
        centre, radii = np.array([14.0, 11.0, 10.0 + 16.0 * number]), np.array([6.0, 4.0, 5.0])
        inside = (((grid - centre) / radii) ** 2).sum(-1) < 1
        mask[inside], voxels[inside] = number + 1, 30
        points = np.argwhere(inside)
        box = Box(tuple(points.min(0).tolist()), tuple((points.max(0) + 1).tolist()))
        box_mm = geometry.box_mm_from_index(box)
        truth.append(StubLesion(number + 1, box, box_mm, number % 2 == 1, box_mm.size))
    return StubPhantom(voxels, mask, geometry, tuple(truth))


@pytest.fixture(scope="session")
def stub():
    """The maker of stub phantoms: (seed, lesions) -> phantom."""
    return make_stub


@pytest.fixture(scope="session")
def tiny() -> CohortSettings:
    """Settings of a small cohort."""
    return TINY


@pytest.fixture(scope="session")
def stub_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four stub phantoms, seeds 10 to 13, of two or three lesions each."""
    out = tmp_path_factory.mktemp("cohort")
    build_cohort(out, range(10, 14), workers=0, lesions=(2, 3), settings=TINY, make=make_stub)
    return out


@pytest.fixture(scope="session")
def tiny_busbra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cases of one or two images in five folds: a bright lesion on a dark ground, portrait and landscape."""
    folder = tmp_path_factory.mktemp("busbra")
    (folder / "Images").mkdir()
    (folder / "Masks").mkdir()
    rows, folds = [], []
    for case in range(1, 13):
        for side in ("l", "r")[: 1 + case % 2]:
            name = f"bus_{case:04d}-{side}"
            shape = (90, 60) if side == "l" else (50, 80)
            mask = np.zeros(shape, np.uint8)
            cv2.ellipse(mask, (shape[1] // 2, shape[0] // 2), (14, 10), 0, 0, 360, 255, -1)
            image = np.where(mask > 0, 220, 20).astype(np.uint8)
            cv2.imwrite(str(folder / "Images" / f"{name}.png"), image)
            cv2.imwrite(str(folder / "Masks" / f"{name.replace('bus', 'mask')}.png"), mask)
            pathology = "malignant" if case % 3 == 0 else "benign"
            rows.append({"ID": name, "Case": case, "Pathology": pathology})
            fold = 1 + case % 5
            part = "NaN" if fold == 1 else str(int(case % 4 != 0))
            folds.append({"ID": name, "Pathology": pathology, "kFold": fold, "valid_1": part})
    for file, table in (("bus_data.csv", rows), ("5-fold-cv.csv", folds)):
        with (folder / file).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return folder
