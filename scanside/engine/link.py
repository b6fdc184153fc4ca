"""Linking: the components of neighbouring grid sections that overlap are one 3-D object, and large ones are lesions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.engine.components import Components, components
from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane

MAX_CANDIDATES = 100


@dataclass(frozen=True)
class Candidate:
    """A lesion before it is classified, on the section grid.

    `box_mm` is half-open, inside the volume. `centroid_mm` weighs each voxel by its probability. `detection_score` is
    the mean fused probability over the lesion's voxels (0 to 1), `plane_scores` the same of each plane alone, and
    `planes_seen` names the planes whose own score reaches the threshold.
    """

    id: int
    box_mm: Box
    centroid_mm: tuple[float, float, float]
    volume_mm3: float
    detection_score: float
    plane_scores: Mapping[Plane, float]
    planes_seen: tuple[Plane, ...]


@dataclass(frozen=True)
class Linked:
    """Candidates, surest first, and their ids on the section grid (uint16, 0 is background).

    `dropped` counts candidates beyond `MAX_CANDIDATES`, the least sure ones.
    """

    candidates: tuple[Candidate, ...]
    labels: NDArray[np.uint16]
    dropped: int = 0


@dataclass(frozen=True)
class Objects:
    """3-D objects: `labels` int32 (sweep, depth, lateral) numbered from 1, and half-open index boxes (n, 2, 3)."""

    labels: NDArray[np.int32]
    boxes: NDArray[np.int64]
    voxels: NDArray[np.int64]
    sums: NDArray[np.float64]
    """(n, k): sum over each object of the k maps given to `label_objects`, then of position times the first map."""


def link(
    fused: NDArray[np.uint8],
    planes: Mapping[Plane, NDArray[np.uint8]],
    geometry: Geometry,
    extent_mm: tuple[float, float, float],
    *,
    level: int,
    min_lesion_mm: float,
    min_detection_score: float = 0.0,
) -> Linked:
    """Lesion candidates in the fused probability.

    Parameters
    ----------
    fused : uint8 (sweep, depth, lateral)
        Fused probability on the section grid.
    planes : mapping
        What each plane alone says, on the same grid.
    geometry : Geometry
        The section grid (see `support.section_geometry`).
    extent_mm : tuple of float
        The volume's size; boxes end there.
    level : int
        Smallest uint8 probability that belongs to a lesion.
    min_lesion_mm : float
        Objects whose volume is below that of a ball of this diameter are dropped.
    min_detection_score : float
        Objects whose detection score is below it are dropped.

    Returns
    -------
    Linked
        Ordered by detection score, then by position, so that the same input always gives the same ids.
    """
    objects = label_objects(fused, level, tuple(planes.values()))
    smallest_mm3 = math.pi / 6 * min_lesion_mm**3
    scores = objects.sums[:, 0] / objects.voxels / 255
    large = objects.voxels * geometry.voxel_mm3 >= smallest_mm3 - 1e-9
    kept = sorted(
        np.flatnonzero(large & (scores >= min_detection_score)).tolist(),
        key=lambda i: (-scores[i], *objects.boxes[i, 0].tolist()),
    )
    dropped = max(0, len(kept) - MAX_CANDIDATES)
    kept = kept[:MAX_CANDIDATES]
    ids = np.zeros(len(objects.voxels) + 1, np.uint16)
    found = []
    for id_, i in enumerate(kept, start=1):
        ids[i + 1] = id_
        own = {p: float(objects.sums[i, 1 + k] / objects.voxels[i] / 255) for k, p in enumerate(planes)}
        grid_box = geometry.box_mm_from_index(Box(tuple(objects.boxes[i, 0]), tuple(objects.boxes[i, 1])))
        box_mm = Box(grid_box.min, tuple(min(a, b) for a, b in zip(grid_box.max, extent_mm, strict=True)))  # type: ignore[arg-type]
        centroid = geometry.mm_from_index(objects.sums[i, -3:] / objects.sums[i, 0])
        centroid = np.clip(centroid, box_mm.min, box_mm.max)
        found.append(
            Candidate(
                id=id_,
                box_mm=box_mm,
                centroid_mm=tuple(centroid.tolist()),
                volume_mm3=float(objects.voxels[i] * geometry.voxel_mm3),
                detection_score=float(scores[i]),
                plane_scores=own,
                planes_seen=tuple(p for p, score in own.items() if score * 255 >= level),
            )
        )
    return Linked(tuple(found), ids[objects.labels], dropped)


def label_objects(fused: NDArray[np.uint8], level: int, maps: tuple[NDArray[np.uint8], ...] = ()) -> Objects:
    """Connected 3-D objects of voxels >= `level`: by side or corner inside a section, by face across sections."""
    linker = Linker(level)
    sections = [linker.add(section) for section in fused]
    starts = np.concatenate([[0], np.cumsum([len(c) for c in sections])]).astype(np.int64)
    roots = linker.roots()
    _, object_of = np.unique(roots, return_inverse=True)
    count = int(object_of.max()) + 1 if len(roots) else 0

    rows, columns = (axis.astype(np.float64) for axis in np.indices(fused.shape[1:]))
    boxes = np.empty((count, 2, 3), np.int64)
    boxes[:, 0], boxes[:, 1] = np.iinfo(np.int64).max, 0
    voxels = np.zeros(count, np.int64)
    sums = np.zeros((count, 1 + len(maps) + 3))
    labels = np.zeros(fused.shape, np.int32)
    for k, found in enumerate(sections):
        if not len(found):
            continue
        owner = object_of[starts[k] : starts[k + 1]]
        np.add.at(voxels, owner, found.areas)
        np.minimum.at(boxes[:, 0], owner, np.insert(found.boxes[:, :2], 0, k, axis=1))
        np.maximum.at(boxes[:, 1], owner, np.insert(found.boxes[:, 2:], 0, k + 1, axis=1))
        p = fused[k].astype(np.float64)
        p_sum, p_rows, p_columns, *others = found.sums(p, p * rows, p * columns, *(m[k] for m in maps))
        np.add.at(sums, owner, np.stack([p_sum, *others, k * p_sum, p_rows, p_columns], axis=1))
        labels[k] = np.concatenate([[0], owner + 1])[found.labels]
    return Objects(labels, boxes, voxels, sums)


class Linker:
    """Union-find over the components of sections that come in sweep order; components count through all sections."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._parent: list[int] = []
        self._last: Components | None = None

    def add(self, section: NDArray[np.uint8]) -> Components:
        """The components of the next section; they are one object with those of the section before they overlap."""
        found = components(section, self._level)
        start = len(self._parent)
        self._parent.extend(range(start, start + len(found)))
        if self._last is not None and len(self._last) and len(found):
            for a, b in _overlaps(self._last, start - len(self._last), found, start).tolist():
                a, b = self._root(a), self._root(b)
                self._parent[max(a, b)] = min(a, b)
        self._last = found
        return found

    def roots(self) -> NDArray[np.int64]:
        """For each component the smallest number among those it is linked with."""
        return np.array([self._root(i) for i in range(len(self._parent))], np.int64)

    @property
    def open(self) -> int:
        """How many components, the last ones, may still be linked with what comes."""
        return 0 if self._last is None else len(self._last)

    def _root(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i


def _overlaps(a: Components, a_start: int, b: Components, b_start: int) -> NDArray[np.int64]:
    """Pairs (n, 2) of component numbers that share a pixel, counted through all sections."""
    both = np.flatnonzero((a.labels.ravel() > 0) & (b.labels.ravel() > 0))
    of_a = a.labels.ravel()[both].astype(np.int64) - 1
    of_b = b.labels.ravel()[both].astype(np.int64) - 1
    pairs = np.unique(of_a * len(b) + of_b)
    return np.stack([pairs // len(b) + a_start, pairs % len(b) + b_start], axis=1)
