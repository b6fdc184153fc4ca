"""What every peer shares, so that only what is compared differs: which sections, votes, linking and crops.

Section geometry, voting, linking and the crop rule are Scanside's own functions, called one after the other. That
favours the peers: they get code that was tuned. Decoding, the networks, their runtime and how work overlaps are each
peer's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.engine.components import level_of
from scanside.engine.link import link
from scanside.engine.sections import padded_shape
from scanside.engine.support import Support
from scanside.engine.triplets import CropRule, triplet_batches
from scanside.errors import EngineError
from scanside.exam.geometry import Geometry
from scanside.exam.open import open_exam
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Voxels
from scanside.pack import Manifest, Pack

if TYPE_CHECKING:
    from torch import nn


class CannotRunError(EngineError):
    """This machine or this pack lacks what a peer needs: it is left out. Any other error of a peer ends a benchmark."""

    cannot_run = True


def torch_networks(pack: Pack) -> tuple[nn.Module, nn.Module]:
    """The pack's segmenter and classifier in PyTorch.

    Raises
    ------
    CannotRunError
        The pack's graphs are not those of this package's networks.
    """
    from scanside.export.read_back import ForeignGraphError, torch_classifier, torch_segmenter

    try:
        return torch_segmenter(pack), torch_classifier(pack)
    except ForeignGraphError as error:
        raise CannotRunError(error.what, where=error.where, expected=error.expected, found=error.found) from error


Segment = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""uint8 [n, 1, height, width] -> probability, the same shape and type."""
Classify = Callable[[Mapping[str, NDArray[np.uint8]]], NDArray[np.float32]]
"""uint8 [n, 1, size, size] by plane -> P(malignant) [n]."""


@dataclass(frozen=True)
class Found:
    """A lesion: half-open box and centroid in mm (sweep, depth, lateral), detection score and P(malignant)."""

    box_mm: tuple[tuple[float, ...], tuple[float, ...]]
    centroid_mm: tuple[float, ...]
    detection_score: float
    probability: float


class Peer(Protocol):
    """One way to run an exam. Made once; `analyze` is what is timed, from the file to the lesions.

    Its first run is not timed: a peer may measure there what suits it best, and tell the record in `settings`.
    """

    precision: str
    """The arithmetic of its networks: fp32, bf16 or fp16."""

    def analyze(self, exam: Path) -> list[Found]: ...


@dataclass(frozen=True)
class Task:
    """Sections and crops of one exam, by the pack's manifest."""

    manifest: Manifest
    geometry: Geometry

    @property
    def grids(self) -> dict[Plane, SectionGrid]:
        """The sections of each plane the pack looks at."""
        spec = self.manifest.segmenter
        planes = [plane for plane in Plane if plane.value in spec.planes]
        return {p: SectionGrid.over(self.geometry, p, spec.pitch_mm, spec.every_mm) for p in planes}

    def network_shape(self, grid: SectionGrid) -> tuple[int, int]:
        """Height and width of a plane's network input."""
        return padded_shape(grid.shape, self.manifest.segmenter.size_multiple)

    @property
    def rule(self) -> CropRule:
        """How crops are cut."""
        spec = self.manifest.classifier
        return CropRule(spec.frames, spec.margin, spec.size, tuple(p for p in Plane if p.value in spec.inputs))


def pixel_array(exam: Path) -> Voxels:
    """The frames as any Python programmer reads them."""
    import pydicom

    return pydicom.dcmread(exam).pixel_array


def task_of(exam: Path, manifest: Manifest, voxels: Voxels) -> Task:
    """The task of `exam`: its geometry from the header, checked against the decoded frames.

    Raises
    ------
    EngineError
        The frames are not the header's.
    """
    geometry = open_exam(exam).only().geometry
    if voxels.shape != geometry.shape or voxels.dtype != np.uint8:
        expected = f"uint8 {geometry.shape}"
        raise EngineError(
            "a peer reads other frames", where=exam, expected=expected, found=f"{voxels.dtype} {voxels.shape}"
        )
    return Task(manifest, geometry)


def section_batches(
    task: Task, grid: SectionGrid, natives: Iterator[NDArray[np.uint8]], batch: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(first, pixels) of all sections of a plane, uint8 [n, 1, height, width]; the last batch may be shorter."""
    for first in range(0, len(grid), batch):
        pixels = np.zeros((min(batch, len(grid) - first), 1, *task.network_shape(grid)), np.uint8)
        for row in pixels:
            grid.section_of(next(natives), out=row[0])
        yield first, pixels


def plain_slices(voxels: Voxels, grid: SectionGrid) -> Iterator[NDArray[np.uint8]]:
    """Each section's native slice, one at a time."""
    return (np.ascontiguousarray(grid.plane.slice(voxels, index)) for index in grid.indices.tolist())


def serial_exam(voxels: Voxels, task: Task, segment: Segment, classify: Classify) -> list[Found]:
    """All sections, then the vote, then the triplets: one thing after another, batches of the pack's size."""
    support = Support(task.grids)
    for plane, grid in task.grids.items():
        for first, pixels in section_batches(task, grid, plain_slices(voxels, grid), task.manifest.segmenter.batch):
            support.add(plane, first, segment(pixels)[:, 0])
    return lesions_of(voxels, task, support, classify)


def lesions_of(voxels: Voxels, task: Task, support: Support, classify: Classify) -> list[Found]:
    """Vote, link, crop and classify."""
    spec = task.manifest.segmenter
    planes = {plane: support.plane(plane) for plane in support.planes}
    linked = link(
        support.smoothed(support.fused(planes.values()), spec.smoothing_mm),
        planes,
        support.geometry,
        task.geometry.extent_mm,
        level=level_of(spec.threshold),
        min_lesion_mm=spec.min_lesion_mm,
        min_detection_score=spec.min_detection_score,
    )
    boxes = [candidate.box_mm for candidate in linked.candidates]
    batches = triplet_batches(voxels, task.geometry, boxes, task.rule, task.manifest.classifier.batch)
    answers = [classify({plane.value: crops for plane, crops in batch.crops.items()}) for batch in batches]
    probabilities = np.concatenate([*answers, np.empty(0, np.float32)]).reshape(-1, task.rule.frames)
    return [
        Found((c.box_mm.min, c.box_mm.max), c.centroid_mm, c.detection_score, float(p.mean(dtype=np.float64)))
        for c, p in zip(linked.candidates, probabilities, strict=True)
    ]


def classifier_inputs(pack: Pack, crops: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    """Crops by the classifier graph's tensor names."""
    names = pack.manifest.classifier.inputs
    return {names[plane]: pixels for plane, pixels in crops.items()}
