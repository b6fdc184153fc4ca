"""One lesion of a synthetic exam at full resolution, without making the rest of the exam."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scanside.errors import UsageError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.phantom.descriptors import TABLE_1, Population
from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE, Phantom
from scanside.exam.phantom.scene import Scene, truth_of
from scanside.exam.phantom.seeds import NEXT_SEED
from scanside.exam.phantom.speckle import Acquisition

SIDE_MM = 48.0
_ATTEMPTS = 8


def cube_around(box_mm: Box) -> Box:
    """48 mm a side around the middle of a lesion's box."""
    return Box(
        tuple(c - SIDE_MM / 2 for c in box_mm.centre),  # type: ignore[arg-type]
        tuple(c + SIDE_MM / 2 for c in box_mm.centre),  # type: ignore[arg-type]
    )


def make_lesion(
    seed: int,
    *,
    shape: tuple[int, int, int] = STANDARD_SHAPE,
    extent_mm: tuple[float, float, float] = STANDARD_EXTENT_MM,
    acquisition: Acquisition | None = None,
    population: Population = TABLE_1,
    window_mm: Callable[[Box], Box] = cube_around,
) -> Phantom:
    """The part of a one-lesion exam around its lesion; voxel for voxel that of ``make_phantom(seed, lesions=1, ...)``.

    Speckle and tissue are those of the whole exam, so a lesion cut out of it looks the same; only what lies outside
    the window is never drawn. The phantom's geometry, truth and nipple are in the window's own index and mm.

    Parameters
    ----------
    seed : int
        The exam's. Where no lesion of the drawn size fits, the exam of `seed` + 1,000,000 is taken instead.
    shape, extent_mm, acquisition, population
        Of the whole exam, see `make_phantom`; rows and columns of `shape` must be even.
    window_mm : callable
        The window wanted around a lesion's box, both in the exam's mm; it is cut at the exam's borders.

    Raises
    ------
    UsageError
        A negative seed, odd rows or columns, or no lesion fits an exam of this size.
    """
    if seed < 0:
        raise UsageError("a seed cannot be negative", found=seed)
    if shape[1] % 2 or shape[2] % 2:
        raise UsageError("a lesion's exam needs even rows and columns", found=f"shape {shape}")
    geometry = Geometry(shape, tuple(e / n for e, n in zip(extent_mm, shape, strict=True)))  # type: ignore[arg-type]
    for attempt in range(_ATTEMPTS):
        scene = Scene(seed + attempt * NEXT_SEED, geometry, 1, acquisition, population)
        if scene.lesions and (body := scene.body_mask(scene.painters[0])).any():
            break
    else:
        raise UsageError("no lesion fits an exam of this size", found=f"{extent_mm} mm, seed {seed}")
    lesion = scene.lesions[0]
    corner = np.array(scene.body_index(lesion).min, int)
    whole = truth_of(lesion, body, corner, geometry)
    low, high = _window_index(geometry, whole.box_index, window_mm(whole.box_mm))
    window = Geometry(tuple((high - low).tolist()), geometry.spacing_mm)
    voxels = np.empty(window.shape, np.uint8)
    scene.cut(slice(int(low[1]), int(high[1])), slice(int(low[2]), int(high[2]))).render(
        int(low[0]), int(high[0]), voxels
    )
    # The body's box may reach beyond the window; the body itself does not.
    (a0, a1, a2), (b0, b1, b2) = (v - corner for v in (np.array(whole.box_index.min, int), whole.box_index.max))
    own = body[int(a0) : int(b0), int(a1) : int(b1), int(a2) : int(b2)]
    inside = np.array(whole.box_index.min, int) - low
    mask = np.zeros(window.shape, np.uint8)
    mask[tuple(slice(int(a), int(a) + n) for a, n in zip(inside, own.shape, strict=True))] = own * np.uint8(lesion.id)
    truth = truth_of(lesion, own, inside, window)
    nipple = tuple(float(v) for v in np.subtract(scene.nipple_mm, low * geometry.spacing_mm))
    return Phantom(scene.seed, voxels, mask, window, (truth,), nipple)  # type: ignore[arg-type]


def _window_index(geometry: Geometry, lesion: Box, wanted_mm: Box) -> tuple[np.ndarray, np.ndarray]:
    """The window's corners as indices: what is wanted, cut at the exam's borders, and at least the lesion itself."""
    wanted = geometry.box_index_from_mm(wanted_mm)
    low = np.minimum(np.array(wanted.min, int), np.array(lesion.min, int))
    high = np.maximum(np.array(wanted.max, int), np.array(lesion.max, int))
    return low, high
