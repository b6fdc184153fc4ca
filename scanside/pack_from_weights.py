"""From a user's own trained networks to a model pack that `scanside analyze` runs; what `scanside pack create` does.

The golden cases, which prove the pack wherever it is loaded, are sections and crops of small phantoms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.exam.phantom import Phantom, make_phantom
from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE
from scanside.exam.planes import Plane, SectionGrid, crop, crop_side_mm, triplet_indices
from scanside.export.pack import PackParameters, create_pack
from scanside.models.backbones import StrideAt
from scanside.models.own_weights import Normalisation, load_classifier, load_segmenter
from scanside.models.unet import SIZE_MULTIPLE
from scanside.models.weights import weights_sha256
from scanside.pack.manifest import Licence

GOLDEN_SEEDS = (4200, 4201, 4202)
GOLDEN_SHAPE = (72, 240, 280)
GOLDEN_LESIONS = 3
GOLDEN = {"phantom_seeds": list(GOLDEN_SEEDS), "shape": list(GOLDEN_SHAPE)}
"""What a manifest records of the golden cases."""


@dataclass(frozen=True)
class OwnWeights:
    """A user's weight files and what must be known to read them; see `models.own_weights`.

    `classifier` is one file, or a file for each plane; `variant` says what one file holds.
    """

    segmenter: Path
    classifier: Path | Mapping[str, Path]
    segmenter_input: Normalisation
    classifier_input: Normalisation
    backbone: str = "resnet50"
    variant: str | None = None
    stride_at: StrideAt = "3x3"

    @property
    def files(self) -> dict[str, Path]:
        """The files by network, or by network and plane."""
        if not isinstance(self.classifier, Mapping):
            return {"segmenter": self.segmenter, "classifier": self.classifier}
        return {"segmenter": self.segmenter} | {f"classifier {p}": path for p, path in self.classifier.items()}


def pack_from_weights(
    out: str | os.PathLike[str],
    weights: OwnWeights,
    *,
    name: str,
    version: str = "1",
    licence: str = "not stated",
    parameters: PackParameters | None = None,
    planes: tuple[str, ...] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Path:
    """Make a pack of a user's own segmenter and classifier at `out` and return its folder.

    Parameters
    ----------
    out : path
        A folder that does not exist yet, an empty one, or an earlier pack, which is replaced as a whole.
    licence : str
        The licence of the weights, for the manifest.
    parameters : PackParameters, optional
        Input size, pitch, margin, thresholds; its `planes` are replaced.
    planes : tuple of str, optional
        The planes whose sections are segmented; the classifier's own if None.
    progress : callable, optional
        Called with (stage, done, total).

    Raises
    ------
    CheckpointError, UsageError
        A file cannot be used as it is described.
    EngineError, OutputError
        As `export.create_pack`.
    """

    def finished(stage: str) -> None:
        if progress is not None:
            progress(stage, 1, 1)

    segmenter = load_segmenter(weights.segmenter, weights.segmenter_input)
    classifier = load_classifier(
        weights.classifier,
        backbone=weights.backbone,
        variant=weights.variant,
        normalisation=weights.classifier_input,
        stride_at=weights.stride_at,
    )
    finished("weights")
    parameters = replace(parameters or PackParameters(), planes=planes or classifier.planes)
    phantoms = golden_phantoms()
    sections, triplets = golden_sections(phantoms[0], parameters), golden_triplets(phantoms, parameters)
    finished("phantom")
    made = create_pack(
        out,
        segmenter=segmenter,
        classifier=classifier,
        name=name,
        version=version,
        sections=sections,
        triplets=[triplets],
        provenance=_provenance(weights),
        licences=[Licence("weights", licence)],
        parameters=parameters,
    )
    finished("export")
    return made


def golden_phantoms() -> list[Phantom]:
    """Small phantoms of the standard voxel size, each with a few lesions.

    Several, since the classifier's case is judged by its mean error: on three lesions one close call would decide.
    """
    extent = tuple(
        mm * n / standard for mm, n, standard in zip(STANDARD_EXTENT_MM, GOLDEN_SHAPE, STANDARD_SHAPE, strict=True)
    )
    return [make_phantom(seed, shape=GOLDEN_SHAPE, extent_mm=extent, lesions=GOLDEN_LESIONS) for seed in GOLDEN_SEEDS]  # type: ignore[arg-type]


def golden_sections(phantom: Phantom, parameters: PackParameters) -> list[NDArray[np.uint8]]:
    """For each segmented plane the section through every lesion's centre, uint8 [N, 1, H, W], padded as deployed."""
    batches = []
    for plane in (Plane(name) for name in parameters.planes):
        grid = SectionGrid.over(phantom.geometry, plane, parameters.pitch_mm, parameters.every_mm)
        height, width = (-(-n // SIZE_MULTIPLE) * SIZE_MULTIPLE for n in grid.shape)
        batch = np.zeros((len(phantom.truth), 1, height, width), np.uint8)
        for i, lesion in enumerate(phantom.truth):
            centre = phantom.geometry.index_from_mm(lesion.centroid_mm)[plane.normal]
            grid.section(phantom.voxels, int(np.abs(grid.indices - centre).argmin()), out=batch[i, 0])
        batches.append(batch)
    return batches


def golden_triplets(phantoms: Sequence[Phantom], parameters: PackParameters) -> dict[str, NDArray[np.uint8]]:
    """The middle triplet of every lesion, uint8 [N, 1, size, size] a plane, cut as the engine cuts them."""
    size, frame = parameters.crop_size, parameters.frames // 2
    crops: dict[str, list[NDArray[np.uint8]]] = {plane.value: [] for plane in Plane}
    for phantom, lesion in ((own, lesion) for own in phantoms for lesion in own.truth):
        indices = triplet_indices(phantom.geometry, lesion.box_mm, parameters.frames)
        for plane in Plane:
            side_mm = crop_side_mm(lesion.box_mm, plane, parameters.margin)
            index = indices[plane][frame]
            cut = crop(phantom.voxels, phantom.geometry, plane, index, lesion.box_mm, side_mm=side_mm, size=size)
            crops[plane.value].append(cut.pixels)
    return {plane: np.stack(pixels)[:, None] for plane, pixels in crops.items()}


def _provenance(weights: OwnWeights) -> dict[str, Any]:
    """What the manifest records of the weights: file names and hashes, and how the inputs were normalised."""
    return {
        "made_by": "scanside pack create",
        "files": {
            network: {"name": path.name, "sha256": weights_sha256(path)} for network, path in weights.files.items()
        },
        "segmenter_input": {key: list(values) for key, values in asdict(weights.segmenter_input).items()},
        "classifier_input": {key: list(values) for key, values in asdict(weights.classifier_input).items()},
        "stride_at": weights.stride_at,
        "golden": GOLDEN,
    }
