"""Cutting: what training needs of a volume with known lesions, as arrays for one compact file.

A file holds, a plane, a subset of the volume's sections at the segmenter's pitch with their lesion masks (packed to
bits), and for every lesion the triplets of crops that the classifier sees, cut as the engine cuts them: around the
true box, and around boxes as an imperfect segmentation would give them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box, Geometry
from scanside.exam.phantom.lesion_volume import cube_around
from scanside.exam.planes import Plane, SectionGrid, crop, crop_side_mm, triplet_indices

FORMAT = "scanside-cohort/1"
DEPLOYED_MARGIN = 1.35
STORED_MARGIN = 1.8


class KnownLesion(Protocol):
    """The part of `scanside.exam.phantom.TruthLesion` that a cohort uses."""

    @property
    def id(self) -> int: ...

    @property
    def box_index(self) -> Box: ...

    @property
    def box_mm(self) -> Box: ...

    @property
    def malignant(self) -> bool: ...

    @property
    def diameters_mm(self) -> tuple[float, float, float]: ...


class AnnotatedVolume(Protocol):
    """The part of `scanside.exam.phantom.Phantom` that a cohort uses."""

    @property
    def voxels(self) -> NDArray[np.uint8]: ...

    @property
    def mask(self) -> NDArray[np.uint8]: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def truth(self) -> tuple[KnownLesion, ...]: ...


@dataclass(frozen=True)
class CohortSettings:
    """How a volume is cut. Sections lie every `every_mm` at `pitch_mm` as deployed.

    Every `keep_every`-th section is stored, and of each lesion up to `lesion_sections` more a plane. `boxes` is the
    number of boxes a lesion (the first is the true one), each with `frames` triplets of `crop_size` pixels over 1.8
    times the lesion's longer side (4 / 3 of the deployed crop).
    """

    pitch_mm: float = 0.66
    every_mm: float = 0.5
    keep_every: int = 3
    lesion_sections: int = 12
    boxes: int = 3
    frames: int = 8
    crop_size: int = 160


@dataclass(frozen=True)
class Origin:
    """Where a case comes from. `part` is the part of a split its data set assigns it to, empty when it assigns none."""

    data: str
    case: str
    patient: str
    part: str = ""


def volume_arrays(
    volume: AnnotatedVolume, number: int, settings: CohortSettings, origin: Origin, **made_with: Any
) -> dict[str, NDArray]:
    """The arrays of a whole volume's file, by name: sections and triplets."""
    arrays: dict[str, NDArray] = {}
    binary = np.where(volume.mask > 0, np.uint8(255), np.uint8(0))
    for plane in Plane:
        for name, array in _plane_arrays(volume, binary, plane, number, settings).items():
            arrays[f"{plane}_{name}"] = array
    del binary
    return arrays | lesion_arrays(volume, number, settings, origin, **made_with)


def lesion_arrays(
    volume: AnnotatedVolume, number: int, settings: CohortSettings, origin: Origin, **made_with: Any
) -> dict[str, NDArray]:
    """The arrays of a file with triplets alone, by name. `made_with` is recorded beside the settings."""
    meta = {
        "format": FORMAT,
        "seed": number,
        "origin": asdict(origin),
        "settings": asdict(settings) | made_with,
        "spacing_mm": volume.geometry.spacing_mm,
    }
    return _lesion_arrays(volume, number, settings) | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}


def _plane_arrays(
    volume: AnnotatedVolume, binary: NDArray[np.uint8], plane: Plane, seed: int, settings: CohortSettings
) -> dict[str, NDArray]:
    """Kept sections of one plane: images, packed masks, section numbers, and (row, lesion) pairs."""
    grid = SectionGrid.over(volume.geometry, plane, settings.pitch_mm, settings.every_mm)
    keep = set(range(seed % settings.keep_every, len(grid), settings.keep_every))
    shown: dict[int, list[int]] = {}
    for number, lesion in enumerate(volume.truth):
        window = tuple(slice(int(a), int(b)) for a, b in zip(lesion.box_index.min, lesion.box_index.max, strict=True))
        others = tuple(a for a in range(3) if a != plane.normal)
        seen = (volume.mask[window] == lesion.id).any(axis=others)
        low = int(lesion.box_index.min[plane.normal])
        sections = [s for s, i in enumerate(grid.indices) if 0 <= i - low < len(seen) and seen[i - low]]
        for s in sections:
            shown.setdefault(s, []).append(number)
        picked = np.linspace(0, len(sections) - 1, min(settings.lesion_sections, len(sections))).round().astype(int)
        keep.update(sections[i] for i in picked)
    kept = sorted(keep)
    images = np.stack([grid.section(volume.voxels, s) for s in kept])
    masks = np.zeros(images.shape, bool)
    pairs = []
    for row, s in enumerate(kept):
        if s not in shown:
            continue
        masks[row] = grid.section(binary, s) >= 128
        if masks[row].any():
            pairs += [(row, number) for number in shown[s]]
    return {
        "images": images,
        "masks": np.packbits(masks, axis=-1),
        "sections": np.asarray(kept, np.int32),
        "lesions": np.asarray(pairs, np.int32).reshape(-1, 2),
    }


def _lesion_arrays(volume: AnnotatedVolume, seed: int, settings: CohortSettings) -> dict[str, NDArray]:
    """Triplets [lesion, box, frame, plane, row, column], their boxes, and what is known of each lesion."""
    rng = np.random.default_rng([seed, 72])
    size, count = settings.crop_size, len(volume.truth)
    triplets = np.zeros((count, settings.boxes, settings.frames, len(Plane), size, size), np.uint8)
    boxes = np.zeros((count, settings.boxes, 2, 3), np.float32)
    for number, lesion in enumerate(volume.truth):
        for b, box in enumerate(_boxes(lesion.box_mm, settings, rng)):
            boxes[number, b] = box.min, box.max
            triplets[number, b] = _triplets(volume, box, settings)
    return {
        "triplets": triplets,
        "triplet_boxes_mm": boxes,
        "lesion_boxes_mm": np.asarray([(v.box_mm.min, v.box_mm.max) for v in volume.truth], np.float32).reshape(
            -1, 2, 3
        ),
        "lesion_malignant": np.asarray([v.malignant for v in volume.truth], bool),
        "lesion_diameters_mm": np.asarray([v.diameters_mm for v in volume.truth], np.float32).reshape(-1, 3),
    }


def _triplets(volume: AnnotatedVolume, box: Box, settings: CohortSettings) -> NDArray[np.uint8]:
    indices = triplet_indices(volume.geometry, box, settings.frames)
    out = np.zeros((settings.frames, len(Plane), settings.crop_size, settings.crop_size), np.uint8)
    for p, plane in enumerate(Plane):
        side = stored_side_mm(box, plane)
        for f, index in enumerate(indices[plane]):
            cut = crop(volume.voxels, volume.geometry, plane, index, box, side_mm=side, size=settings.crop_size)
            out[f, p] = cut.pixels
    return out


def _boxes(box_mm: Box, settings: CohortSettings, rng: np.random.Generator) -> Iterator[Box]:
    yield box_mm
    for _ in range(settings.boxes - 1):
        yield jittered(box_mm, rng)


def crops_window(box_mm: Box, number: int, settings: CohortSettings) -> Box:
    """All that the stored crops of the first lesion of volume `number` show, in mm; at least 48 mm a side."""
    wanted = [cube_around(box_mm)]
    for box in _boxes(box_mm, settings, np.random.default_rng([number, 72])):
        for plane in Plane:
            side = stored_side_mm(box, plane)
            for axis in (plane.rows, plane.columns):
                low, high = list(box.min), list(box.max)
                low[axis], high[axis] = box.centre[axis] - side / 2, box.centre[axis] + side / 2
                wanted.append(Box(tuple(low), tuple(high)))  # type: ignore[arg-type]
    return Box(
        tuple(np.min([b.min for b in wanted], 0).tolist()),
        tuple(np.max([b.max for b in wanted], 0).tolist()),
    )


def stored_side_mm(box_mm: Box, plane: Plane) -> float:
    """Side in mm of a lesion's stored crop in `plane`: that of the deployed one, times 4 / 3."""
    return crop_side_mm(box_mm, plane, DEPLOYED_MARGIN) * (STORED_MARGIN / DEPLOYED_MARGIN)


def jittered(box_mm: Box, rng: np.random.Generator) -> Box:
    """The box as an imperfect segmentation would give it: each end off by up to 12 % of the side, or 0.8 mm."""
    low, high = np.asarray(box_mm.min, float), np.asarray(box_mm.max, float)
    reach = np.maximum(0.12 * (high - low), 0.8)
    reach = np.minimum(reach, 0.3 * (high - low))
    low = low + rng.uniform(-1, 1, 3) * reach
    high = high + rng.uniform(-1, 1, 3) * reach
    return Box(tuple(low.tolist()), tuple(high.tolist()))
