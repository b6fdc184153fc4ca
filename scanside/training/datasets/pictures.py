"""Two-dimensional data sets: pictures with a lesion mask each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane, crop
from scanside.training.cohort_data import PhantomData
from scanside.training.cutting import CohortSettings, Origin, stored_side_mm
from scanside.training.errors import TrainingDataError


class Picture(Protocol):
    """One picture: `case` is its patient, as far as the data set knows; `malignant` is None without a lesion."""

    @property
    def id(self) -> str: ...

    @property
    def case(self) -> str: ...

    @property
    def malignant(self) -> bool | None: ...

    def pixels(self) -> NDArray[np.uint8]:
        """Grey, uint8 (rows, columns)."""

    def mask(self) -> NDArray[np.uint8]:
        """0 or 1, uint8 (rows, columns)."""


@dataclass(frozen=True)
class MaskedPicture:
    """A picture file and the files of its masks, which are merged."""

    id: str
    case: str
    malignant: bool | None
    image_file: Path
    mask_files: tuple[Path, ...]

    def pixels(self) -> NDArray[np.uint8]:
        """The grey image, uint8 (rows, columns)."""
        return _grey(self.image_file)

    def mask(self) -> NDArray[np.uint8]:
        """All masks in one, uint8 0 or 1.

        Raises
        ------
        TrainingDataError
            A mask cannot be read, or is of another size than the others.
        """
        masks = [_grey(file) > 127 for file in self.mask_files]
        for file, mask in zip(self.mask_files, masks, strict=True):
            if mask.shape != masks[0].shape:
                raise _size_error(file, masks[0].shape, mask.shape)
        return np.any(masks, axis=0).astype(np.uint8)


def checked_pair(picture: Picture) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture's pixels and mask.

    Raises
    ------
    TrainingDataError
        The mask is of another size than the picture, or empty although there is a lesion.
    """
    pixels, mask = picture.pixels(), picture.mask()
    if pixels.shape != mask.shape:
        raise _size_error(picture.id, pixels.shape, mask.shape)
    if picture.malignant is not None and not mask.any():
        raise TrainingDataError("the lesion's mask is empty", where=picture.id)
    return pixels, mask


def picture_lesion(picture: Picture, number: int, origin: Origin) -> PhantomData | None:
    """A picture's lesion as the classifier reads a volume's: one view, in the place of all three planes.

    Cut like a volume's crops, with the mask's box and square pixels for mm. None without a lesion.
    """
    if picture.malignant is None:
        return None
    pixels, mask = checked_pair(picture)
    points = np.argwhere(mask)
    low, high = points.min(0), points.max(0) + 1
    box = Box((0.0, *map(float, low)), (1.0, *map(float, high)))  # type: ignore[arg-type]
    geometry = Geometry((1, *pixels.shape), (1.0, 1.0, 1.0))
    size = CohortSettings().crop_size
    plane = Plane.TRANSVERSE
    view = crop(pixels[None], geometry, plane, 0, box, side_mm=stored_side_mm(box, plane), size=size).pixels
    return PhantomData(
        seed=number,
        pitch_mm=1.0,
        planes={},
        triplets=np.broadcast_to(view, (1, 1, 1, len(Plane), size, size)),
        malignant=np.array([picture.malignant]),
        boxes_mm=np.array([[box.min, box.max]], np.float32),
        diameters_mm=np.full((1, 3), np.nan, np.float32),
        origin=origin,
    )


def _grey(file: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise TrainingDataError("the picture cannot be read", where=file)
    return image  # type: ignore[return-value]


def _size_error(where: object, expected: tuple[int, ...], found: tuple[int, ...]) -> TrainingDataError:
    return TrainingDataError(
        "the mask is of another size than its picture",
        where=where,
        expected=" x ".join(map(str, expected)),
        found=" x ".join(map(str, found)),
    )
