"""A synthetic cohort in the file format, small and with answers that the tiny pack gets partly right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CROP = 40
Arrays = dict[str, NDArray]


def case_arrays(
    seed: int, *, malignant: bool, lesions: int = 1, planes: tuple[str, ...] = ("transverse", "sagittal", "coronal")
) -> Arrays:
    """One case: per plane eight sections of which five show a bright disc, and two frames of crops a lesion."""
    rng = np.random.default_rng([seed, 5])
    arrays: Arrays = {}
    rows, columns = np.mgrid[:36, :50]
    for plane in planes:
        images = rng.normal(70, 12, (8, 36, 50))
        masks = np.zeros((8, 36, 50), bool)
        for row in range(5):
            masks[row] = (rows - 18) ** 2 + (columns - 25 - row) ** 2 <= rng.integers(36, 90)
            images[row][masks[row]] += rng.uniform(55, 95)
        arrays[f"{plane}_images"] = np.clip(images, 0, 255).astype(np.uint8)
        arrays[f"{plane}_masks"] = np.packbits(masks, axis=-1)
        arrays[f"{plane}_sections"] = np.arange(8, dtype=np.int32) * 3
        pairs = [(row, lesion) for row in range(5) for lesion in range(lesions)]
        arrays[f"{plane}_lesions"] = np.array(pairs, np.int32)
    level = (208 if malignant else 201) + rng.normal(0, 4, (lesions, 2, 2, len(planes), 1, 1))
    noise = rng.normal(0, 4, (lesions, 2, 2, len(planes), CROP, CROP))
    box = [[[2.0, 2.0, 2.0], [22.0, 20.0, 26.0]]] * 2
    meta: dict[str, Any] = {
        "format": "scanside-cohort/1",
        "seed": seed,
        "origin": {"data": "discs", "case": f"case {seed:03d}", "patient": f"patient {seed // 2}", "part": "parity"},
        "settings": {"pitch_mm": 1.0},
        "spacing_mm": [1.0, 1.0, 1.0],
    }
    if planes != ("transverse", "sagittal", "coronal"):
        meta["planes"] = list(planes)
    return arrays | {
        "triplets": np.clip(level + noise, 0, 255).astype(np.uint8),
        "triplet_boxes_mm": np.array([box] * lesions, np.float32),
        "lesion_malignant": np.array([malignant] * lesions, bool),
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
    }


def write_case(folder: Path, seed: int, arrays: Mapping[str, NDArray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"phantom-{seed:06d}.npz"
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cases of six patients, every third malignant; case 5 has two lesions. Read only."""
    folder = tmp_path_factory.mktemp("discs")
    for seed in range(12):
        arrays = case_arrays(seed, malignant=seed % 3 == 0, lesions=2 if seed == 5 else 1)
        write_case(folder, seed, arrays)
    return folder
