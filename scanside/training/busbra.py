"""BUS-BRA: 1,875 real breast ultrasound images with lesion masks (Gomez-Flores et al., Medical Physics 2023).

**Folds.** `kFold` of 5-fold-cv.csv is the fold in which an image is tested: fold 1 is held out here. `valid_1` marks,
among the other images, the official validation part (0) of that fold's training. A `Case` (patient) is never split.

**Resize rule.** BUS-BRA states no pixel spacing, so an image is brought to a nominal size: its longer side becomes a
fixed number of pixels (160 as deployed), the other side follows with the same factor (pixels stay square), and zeros
are added at the bottom and right up to a multiple of 32. Training varies the factor by 0.65 to 1.15, so that the
network does not rely on it. A mask is brought back to the image's own pixels before it is compared.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.training.errors import LeakError, TrainingDataError
from scanside.training.tables import check_once, malignant_from

LONGER_SIDE = 160
SIZE_MULTIPLE = 32
TEST_FOLD = 1


@dataclass(frozen=True)
class BusbraImage:
    """One image. `official_validation` tells whether it is in the validation part of the test fold's training."""

    id: str
    case: str
    fold: int
    official_validation: bool
    malignant: bool
    image_file: Path
    mask_file: Path

    def pixels(self) -> NDArray[np.uint8]:
        """The grey image, uint8 (rows, columns)."""
        return _read_grey(self.image_file)

    def mask(self) -> NDArray[np.uint8]:
        """The lesion mask, uint8 0 or 1, on the image's pixels."""
        return (_read_grey(self.mask_file) > 127).astype(np.uint8)


@dataclass(frozen=True)
class BusbraSplit:
    """Images by use; no case is in two of them."""

    train: tuple[BusbraImage, ...]
    validation: tuple[BusbraImage, ...]
    test: tuple[BusbraImage, ...]

    def __post_init__(self) -> None:
        check_cases(self.train, self.validation, self.test)


def read_busbra(folder: str | Path, *, test_fold: int = TEST_FOLD) -> tuple[BusbraImage, ...]:
    """All images of BUS-BRA under `folder` (bus_data.csv, 5-fold-cv.csv, Images, Masks), in the order of the table.

    Raises
    ------
    TrainingDataError
        A table, column, row or picture is missing, an image is listed twice, or a fold or pathology is unknown.
    """
    folder = Path(folder)
    table = _rows(folder / "bus_data.csv", ("ID", "Case", "Pathology"))
    part = f"valid_{test_fold}"
    check_once((row["ID"] for row in table), where=folder / "bus_data.csv")
    folds = {row["ID"]: row for row in _rows(folder / "5-fold-cv.csv", ("ID", "kFold", part))}
    images = []
    for row in table:
        name = row["ID"]
        if name not in folds:
            raise TrainingDataError("an image has no fold", where=folder / "5-fold-cv.csv", found=name)
        fold = folds[name]["kFold"]
        if not fold.isdigit():
            raise TrainingDataError(
                "the fold is no number", where=folder / "5-fold-cv.csv", found=f"{fold!r} of {name}"
            )
        image = BusbraImage(
            name,
            row["Case"],
            int(fold),
            folds[name][part] == "0",
            malignant_from(row["Pathology"], where=f"{folder / 'bus_data.csv'}, {name}"),
            folder / "Images" / f"{name}.png",
            folder / "Masks" / f"{name.replace('bus', 'mask', 1)}.png",
        )
        for file in (image.image_file, image.mask_file):
            if not file.is_file():
                raise TrainingDataError("a picture of BUS-BRA is missing", where=file)
        images.append(image)
    return tuple(images)


def split_busbra(
    images: Iterable[BusbraImage], *, test_fold: int = TEST_FOLD, validation_images: int = 48
) -> BusbraSplit:
    """Split by case: the test fold, a few whole cases of the official validation part, and the rest for training.

    Raises
    ------
    LeakError
        A case lies in several folds.
    """
    images = tuple(images)
    test = tuple(v for v in images if v.fold == test_fold)
    rest = tuple(v for v in images if v.fold != test_fold)
    candidates = list(dict.fromkeys(v.case for v in rest if v.official_validation))
    order = np.random.default_rng(20230).permutation(len(candidates))
    chosen: set[str] = set()
    count = 0
    for i in order:
        if count >= validation_images:
            break
        chosen.add(candidates[i])
        count += sum(v.case == candidates[i] for v in rest)
    validation = tuple(v for v in rest if v.case in chosen)
    return BusbraSplit(tuple(v for v in rest if v.case not in chosen), validation, test)


def check_cases(*parts: Iterable[BusbraImage]) -> None:
    """Raise `LeakError` when a case is in two of `parts`."""
    seen: dict[str, int] = {}
    for number, part in enumerate(parts):
        for image in part:
            if seen.setdefault(image.case, number) != number:
                raise LeakError(
                    "a case is on both sides of the split", where=f"case {image.case}", remedy="split by Case"
                )


def resized(image: NDArray[np.uint8], longer_side: int) -> NDArray[np.uint8]:
    """`image` with its longer side at `longer_side` pixels, aspect kept; shrinking averages, growing interpolates."""
    factor = longer_side / max(image.shape)
    shape = [max(1, round(n * factor)) for n in image.shape]
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)  # type: ignore[return-value]


def resized_mask(mask: NDArray[np.uint8], longer_side: int) -> NDArray[np.uint8]:
    """A 0/1 mask by the same rule: a pixel belongs to the lesion when at least half of it does."""
    return (resized(mask * np.uint8(255), longer_side) >= 128).astype(np.uint8)


def padded(image: NDArray, multiple: int = SIZE_MULTIPLE) -> NDArray:
    """`image` with zeros at the bottom and right up to multiples of `multiple`."""
    rows, columns = (-n % multiple for n in image.shape)
    return np.pad(image, ((0, rows), (0, columns)))


def _rows(file: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise TrainingDataError("a table lacks columns", where=file, expected=", ".join(missing))
            return list(reader)
    except OSError as error:
        raise TrainingDataError("a table of BUS-BRA is missing", where=file, found=error.strerror) from None


def _read_grey(file: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise TrainingDataError("the picture cannot be read", where=file)
    return image  # type: ignore[return-value]
