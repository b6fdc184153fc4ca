"""Cohorts: what training needs of many full-size phantoms, one compact file each.

A phantom's file holds, a plane, a subset of its sections at the segmenter's pitch with their lesion masks (packed to
bits), and for every lesion the triplets of crops that the classifier sees, cut as the engine cuts them: around the
true box, and around boxes as an imperfect segmentation would give them.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.errors import UsageError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane, SectionGrid, crop, crop_side_mm, triplet_indices

logger = logging.getLogger(__name__)

FORMAT = "scanside-cohort/1"
DEPLOYED_MARGIN = 1.35
STORED_MARGIN = 1.8


class TruthLike(Protocol):
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


class PhantomLike(Protocol):
    """The part of `scanside.exam.phantom.Phantom` that a cohort uses."""

    @property
    def voxels(self) -> NDArray[np.uint8]: ...

    @property
    def mask(self) -> NDArray[np.uint8]: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def truth(self) -> tuple[TruthLike, ...]: ...


MakePhantom = Callable[[int, int], PhantomLike]
"""A phantom from (seed, number of lesions)."""


@dataclass(frozen=True)
class CohortSettings:
    """How a phantom is cut. Sections lie every `every_mm` at `pitch_mm` as deployed.

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
class PhantomMaker:
    """Makes phantoms on one thread; another shape keeps the standard voxel size, so the extent follows."""

    shape: tuple[int, int, int] | None = None

    def __call__(self, seed: int, lesions: int) -> PhantomLike:
        """The phantom of `seed` with `lesions` lesions."""
        from scanside.exam.phantom import make_phantom
        from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE

        shape = self.shape or STANDARD_SHAPE
        extent = [mm * n / standard for mm, n, standard in zip(STANDARD_EXTENT_MM, shape, STANDARD_SHAPE, strict=True)]
        return make_phantom(seed, shape=shape, extent_mm=tuple(extent), lesions=lesions, threads=1)  # type: ignore[arg-type]


STANDARD_PHANTOM = PhantomMaker()
"""Full-size phantoms."""


def cohort_file(folder: str | Path, seed: int) -> Path:
    """Where the phantom of `seed` lies."""
    return Path(folder) / f"phantom-{seed:06d}.npz"


def lesion_count(seed: int, lesions: tuple[int, int]) -> int:
    """How many lesions the phantom of `seed` is asked for, between both ends of `lesions`."""
    low, high = lesions
    return int(np.random.default_rng([seed, 71]).integers(low, high + 1))


def build_cohort(
    out: str | Path,
    seeds: Iterable[int],
    *,
    workers: int = 2,
    lesions: tuple[int, int] = (2, 9),
    settings: CohortSettings | None = None,
    make: MakePhantom = STANDARD_PHANTOM,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make the phantoms of `seeds` and store what training needs of them, one file a seed.

    Finished seeds are skipped, files are written whole or not at all, and each phantom is made in a process of its
    own (`workers` at once; 0 makes them in this process).

    Parameters
    ----------
    lesions : (int, int)
        Fewest and most lesions a phantom; the number is drawn by the seed.
    make : callable
        A phantom from (seed, lesions); replaced in tests.
    progress : callable, optional
        Called with (phantoms done, phantoms).

    Raises
    ------
    UsageError
        A lesion range that is none, or files made with other settings in `out`.
    """
    settings = settings or CohortSettings()
    if not 0 <= lesions[0] <= lesions[1]:
        raise UsageError("the lesion range is none", expected="FEWEST:MOST", found=f"{lesions[0]}:{lesions[1]}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    seeds = list(dict.fromkeys(int(s) for s in seeds))
    files = [cohort_file(out, seed) for seed in seeds]
    todo = []
    for seed, file in zip(seeds, files, strict=True):
        if file.is_file():
            _check_settings(file, settings)
        else:
            todo.append(seed)
    done = len(seeds) - len(todo)
    if progress is not None and done:
        progress(done, len(seeds))
    for _ in _built(out, todo, workers, lesions, settings, make):
        done += 1
        logger.info("phantom %d of %d stored", done, len(seeds))
        if progress is not None:
            progress(done, len(seeds))
    return files


def _built(
    out: Path, seeds: list[int], workers: int, lesions: tuple[int, int], settings: CohortSettings, make: MakePhantom
) -> Iterable[None]:
    jobs = [(cohort_file(out, seed), seed, lesion_count(seed, lesions), settings, make) for seed in seeds]
    if workers < 1:
        for job in jobs:
            _store_phantom(*job)
            yield
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread, max_tasks_per_child=1) as pool:
        waiting = [pool.submit(_store_phantom, *job) for job in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _store_phantom(file: Path, seed: int, lesions: int, settings: CohortSettings, make: MakePhantom) -> None:
    arrays = phantom_arrays(make(seed, lesions), seed, settings)
    temporary = file.with_name(file.name + ".part")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def phantom_arrays(phantom: PhantomLike, seed: int, settings: CohortSettings) -> dict[str, NDArray]:
    """The arrays of one phantom's file, by name."""
    arrays: dict[str, NDArray] = {}
    binary = np.where(phantom.mask > 0, np.uint8(255), np.uint8(0))
    for plane in Plane:
        for name, array in _plane_arrays(phantom, binary, plane, seed, settings).items():
            arrays[f"{plane}_{name}"] = array
    del binary
    arrays |= _lesion_arrays(phantom, seed, settings)
    meta = {"format": FORMAT, "seed": seed, "settings": asdict(settings), "spacing_mm": phantom.geometry.spacing_mm}
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    return arrays


def _plane_arrays(
    phantom: PhantomLike, binary: NDArray[np.uint8], plane: Plane, seed: int, settings: CohortSettings
) -> dict[str, NDArray]:
    """Kept sections of one plane: images, packed masks, section numbers, and (row, lesion) pairs."""
    grid = SectionGrid.over(phantom.geometry, plane, settings.pitch_mm, settings.every_mm)
    keep = set(range(seed % settings.keep_every, len(grid), settings.keep_every))
    shown: dict[int, list[int]] = {}
    for number, lesion in enumerate(phantom.truth):
        window = tuple(slice(int(a), int(b)) for a, b in zip(lesion.box_index.min, lesion.box_index.max, strict=True))
        others = tuple(a for a in range(3) if a != plane.normal)
        seen = (phantom.mask[window] == lesion.id).any(axis=others)
        low = int(lesion.box_index.min[plane.normal])
        sections = [s for s, i in enumerate(grid.indices) if 0 <= i - low < len(seen) and seen[i - low]]
        for s in sections:
            shown.setdefault(s, []).append(number)
        picked = np.linspace(0, len(sections) - 1, min(settings.lesion_sections, len(sections))).round().astype(int)
        keep.update(sections[i] for i in picked)
    kept = sorted(keep)
    images = np.stack([grid.section(phantom.voxels, s) for s in kept])
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


def _lesion_arrays(phantom: PhantomLike, seed: int, settings: CohortSettings) -> dict[str, NDArray]:
    """Triplets [lesion, box, frame, plane, row, column], their boxes, and what is known of each lesion."""
    rng = np.random.default_rng([seed, 72])
    size, count = settings.crop_size, len(phantom.truth)
    triplets = np.zeros((count, settings.boxes, settings.frames, len(Plane), size, size), np.uint8)
    boxes = np.zeros((count, settings.boxes, 2, 3), np.float32)
    for number, lesion in enumerate(phantom.truth):
        for b in range(settings.boxes):
            box = lesion.box_mm if b == 0 else jittered(lesion.box_mm, rng)
            boxes[number, b] = box.min, box.max
            triplets[number, b] = _triplets(phantom, box, settings)
    return {
        "triplets": triplets,
        "triplet_boxes_mm": boxes,
        "lesion_boxes_mm": np.asarray([(v.box_mm.min, v.box_mm.max) for v in phantom.truth], np.float32).reshape(
            -1, 2, 3
        ),
        "lesion_malignant": np.asarray([v.malignant for v in phantom.truth], bool),
        "lesion_diameters_mm": np.asarray([v.diameters_mm for v in phantom.truth], np.float32).reshape(-1, 3),
    }


def _triplets(phantom: PhantomLike, box: Box, settings: CohortSettings) -> NDArray[np.uint8]:
    indices = triplet_indices(phantom.geometry, box, settings.frames)
    out = np.zeros((settings.frames, len(Plane), settings.crop_size, settings.crop_size), np.uint8)
    for p, plane in enumerate(Plane):
        side = crop_side_mm(box, plane, DEPLOYED_MARGIN) * (STORED_MARGIN / DEPLOYED_MARGIN)
        for f, index in enumerate(indices[plane]):
            cut = crop(phantom.voxels, phantom.geometry, plane, index, box, side_mm=side, size=settings.crop_size)
            out[f, p] = cut.pixels
    return out


def jittered(box_mm: Box, rng: np.random.Generator) -> Box:
    """The box as an imperfect segmentation would give it: each end off by up to 12 % of the side, or 0.8 mm."""
    low, high = np.asarray(box_mm.min, float), np.asarray(box_mm.max, float)
    reach = np.maximum(0.12 * (high - low), 0.8)
    reach = np.minimum(reach, 0.3 * (high - low))
    low = low + rng.uniform(-1, 1, 3) * reach
    high = high + rng.uniform(-1, 1, 3) * reach
    return Box(tuple(low.tolist()), tuple(high.tolist()))


def _check_settings(file: Path, settings: CohortSettings) -> None:
    from scanside.training.cohort_data import read_meta

    found = read_meta(file)["settings"]
    if found != asdict(settings):
        differ = sorted(k for k, v in asdict(settings).items() if found.get(k) != v)
        raise UsageError(
            "the cohort here was made with other settings",
            where=file,
            found=f"other {', '.join(differ)}",
            remedy="use another --out",
        )
