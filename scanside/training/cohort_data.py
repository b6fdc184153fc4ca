"""A cohort read back: all phantoms of a folder in memory, split by seed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.exam.planes import Plane
from scanside.training.cutting import FORMAT, Origin
from scanside.training.errors import TrainingDataError

_NAME = re.compile(r"phantom-(\d+)\.npz")


@dataclass(frozen=True)
class PlaneSections:
    """Stored sections of one plane of one phantom.

    `images` is uint8 [n, rows, columns]; `packed` the masks with the columns packed to bits; `lesions` int32 [m, 2]
    pairs of (row of `images`, lesion number); `empty` the rows that show no lesion.
    """

    images: NDArray[np.uint8]
    packed: NDArray[np.uint8]
    sections: NDArray[np.int32]
    lesions: NDArray[np.int32]
    empty: NDArray[np.intp]

    def mask(self, row: int) -> NDArray[np.uint8]:
        """The lesion mask of a row, uint8 0 or 1."""
        return np.unpackbits(self.packed[row], axis=-1, count=self.images.shape[2])


@dataclass(frozen=True)
class PhantomData:
    """What is stored of one volume, mostly a phantom. See `CohortSettings` and `scanside.training.cutting`.

    `seed` is the phantom's, or the volume's number in its data set. `planes` holds what was asked for.
    """

    seed: int
    pitch_mm: float
    planes: dict[Plane, PlaneSections]
    triplets: NDArray[np.uint8]
    malignant: NDArray[np.bool_]
    boxes_mm: NDArray[np.float32]
    diameters_mm: NDArray[np.float32]
    origin: Origin


def cohort_files(folder: str | Path) -> dict[int, Path]:
    """The files of a cohort by seed, in order of the seeds.

    Raises
    ------
    TrainingDataError
        There is no phantom in `folder`.
    """
    found = {int(m[1]): path for path in Path(folder).glob("phantom-*.npz") if (m := _NAME.fullmatch(path.name))}
    if not found:
        raise TrainingDataError(
            "no cohort here",
            where=folder,
            expected="phantom-*.npz",
            remedy="make it with: scanside cohort phantoms --out DIR --seeds FIRST:LAST",
        )
    return dict(sorted(found.items()))


def read_meta(file: Path) -> dict[str, Any]:
    """What a phantom's file says of itself.

    Raises
    ------
    TrainingDataError
        The file is damaged, or no phantom of this format.
    """
    with _opened(file) as arrays:
        return _meta(arrays, file)


def read_phantom(file: Path, *, sections: Sequence[Plane] = tuple(Plane), triplets: bool = True) -> PhantomData:
    """One phantom's file in memory: only the planes named in `sections`, and the triplets if wanted.

    Raises
    ------
    TrainingDataError
        The file is damaged, or no phantom of this format.
    """
    with _opened(file) as arrays:
        meta = _meta(arrays, file)
        planes = {}
        if sections and f"{sections[0]}_images" not in arrays:
            raise TrainingDataError(
                "this cohort holds lesions alone",
                where=file.parent,
                expected="sections of whole volumes",
                remedy="train the segmenter on a cohort of whole phantoms, volumes or pictures",
            )
        for plane in sections:
            lesions, images = arrays[f"{plane}_lesions"], arrays[f"{plane}_images"]
            packed = arrays[f"{plane}_masks"]
            empty = np.flatnonzero(~packed.reshape(len(packed), -1).any(1))
            planes[plane] = PlaneSections(images, packed, arrays[f"{plane}_sections"], lesions, empty)
        return PhantomData(
            meta["seed"],
            meta["settings"]["pitch_mm"],
            planes,
            arrays["triplets"] if triplets else np.zeros((0, 0, 0, 3, 1, 1), np.uint8),
            arrays["lesion_malignant"],
            arrays["lesion_boxes_mm"],
            arrays["lesion_diameters_mm"],
            _origin(meta),
        )


def read_origin(file: Path) -> Origin:
    """Where the case of a file comes from.

    Raises
    ------
    TrainingDataError
        The file is damaged, or of another format.
    """
    return _origin(read_meta(file))


class _opened:  # noqa: N801
    """`np.load` whose failures, whenever they show, are one error."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> Any:
        try:
            self.arrays = np.load(self.file, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise self._error(error) from None
        return self.arrays

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.arrays.close()
        if isinstance(error, OSError | ValueError | EOFError | KeyError | zipfile.BadZipFile):
            raise self._error(error) from None

    def _error(self, error: BaseException) -> TrainingDataError:
        return TrainingDataError(
            "the phantom's file cannot be read",
            where=self.file,
            found=str(error)[:120],
            remedy="delete it and run the cohort command again",
        )


def _meta(arrays: Any, file: Path) -> dict[str, Any]:
    meta = json.loads(arrays["meta"].tobytes())
    if meta.get("format") != FORMAT:
        raise TrainingDataError("the file is of another kind", where=file, expected=FORMAT, found=meta.get("format"))
    return meta


def _origin(meta: dict[str, Any]) -> Origin:
    """The origin that a file states; the first cohorts state none, and were phantoms."""
    name = f"phantom {meta['seed']}"
    return Origin(**meta.get("origin", {"data": "phantom", "case": name, "patient": name}))
