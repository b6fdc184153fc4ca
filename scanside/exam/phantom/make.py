"""The synthetic ABVS exam: anatomy, lesions and acquisition put together in slabs of frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.errors import UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.phantom.descriptors import TABLE_1, Population
from scanside.exam.phantom.scene import Scene, TruthLesion, truth_of
from scanside.exam.phantom.speckle import Acquisition

STANDARD_SHAPE = (318, 600, 800)
STANDARD_EXTENT_MM = (168.0, 60.0, 154.0)
MAX_LESIONS = 12
_SLAB = 24


@dataclass(frozen=True)
class Phantom:
    """A synthetic exam with its truth. `voxels` uint8 and `mask` uint8 (lesion ids) are (sweep, depth, lateral)."""

    seed: int
    voxels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    geometry: Geometry
    truth: tuple[TruthLesion, ...]
    nipple_mm: tuple[float, float, float]


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = STANDARD_SHAPE,
    extent_mm: tuple[float, float, float] = STANDARD_EXTENT_MM,
    lesions: int | None = None,
    acquisition: Acquisition | None = None,
    population: Population = TABLE_1,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Phantom:
    """A synthetic exam of the given (sweep, depth, lateral) shape and size; the same seed gives the same bytes.

    Parameters
    ----------
    seed : int
        Decides everything but the shape.
    lesions : int, optional
        How many lesions; 1 to 3 by the seed when not given. Fewer are made when no more fit without overlap
        outside the nipple's shadow and the contact loss (the paper excludes lesions hidden there).
    acquisition : Acquisition, optional
        The scanner's resolution and gain; drawn around the defaults by the seed when not given.
    population : Population
        Which lesions are drawn.
    progress : callable, optional
        Called with (frames done, frames).

    Raises
    ------
    UsageError
        A shape, extent or count that makes no volume.
    """
    if len(shape) != 3 or min(shape) < 8:
        raise UsageError("a phantom needs at least 8 voxels a side", found=f"shape {shape}")
    if lesions is not None and not 0 <= lesions <= MAX_LESIONS:
        raise UsageError("the lesion count is out of range", expected=f"0 to {MAX_LESIONS}", found=lesions)
    if seed < 0:
        raise UsageError("a seed cannot be negative", found=seed)
    geometry = Geometry(shape, tuple(e / n for e, n in zip(extent_mm, shape, strict=True)))  # type: ignore[arg-type]
    scene = Scene(seed, geometry, lesions, acquisition, population)
    voxels = np.empty(shape, np.uint8)
    mask = np.zeros(shape, np.uint8)

    def draw(slab: tuple[int, int]) -> int:
        scene.render(*slab, voxels[slice(*slab)])
        scene.draw_truth(*slab, mask[slice(*slab)])
        return slab[1] - slab[0]

    slabs = [(k, min(k + _SLAB, shape[0])) for k in range(0, shape[0], _SLAB)]
    with ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), thread_name_prefix="scanside-phantom") as pool:
        done = 0
        for frames in pool.map(draw, slabs):
            done += frames
            if progress is not None:
                progress(done, shape[0])
    return Phantom(seed, voxels, mask, geometry, _truth(scene, mask), scene.nipple_mm)


def _truth(scene: Scene, mask: NDArray[np.uint8]) -> tuple[TruthLesion, ...]:
    """Boxes, centroids and volumes measured on the mask itself."""
    truth = []
    for lesion in scene.lesions:
        body = scene.body_index(lesion)
        window = tuple(slice(int(a), int(b)) for a, b in zip(body.min, body.max, strict=True))
        own = mask[window] == lesion.id
        if own.any():
            truth.append(truth_of(lesion, own, np.array(body.min, int), scene.geometry))
    return tuple(truth)
