"""One door to every data set: known by its layout, brought to one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scanside.training.busbra import TEST_FOLD, read_busbra, split_busbra
from scanside.training.cohort import OnCase, build_files
from scanside.training.cohort_data import cohort_files, read_origin
from scanside.training.cutting import CohortSettings, Origin
from scanside.training.datasets import busi, exams, tdsc
from scanside.training.datasets.pictures import Picture
from scanside.training.datasets.volumes import VolumeCase
from scanside.training.errors import TrainingDataError

BUSBRA = "BUS-BRA"
VALIDATION_IMAGES = 48
LAYOUTS = """a phantom cohort (phantom-*.npz), BUS-BRA (bus_data.csv), TDSC-ABUS 2023 (Train/DATA, Train/MASK, \
Train/labels.csv), BUSI (benign/, malignant/), or exams with masks (cases.csv)"""


@dataclass(frozen=True)
class DataSet:
    """A data set ready for training: `pictures`, or `files` of cut volumes, each with its `origins` in that order."""

    name: str
    origins: tuple[Origin, ...]
    pictures: tuple[Picture, ...] = ()
    files: tuple[Path, ...] = ()


def open_data(
    folder: str | Path,
    work: str | Path,
    *,
    validation_images: int = VALIDATION_IMAGES,
    settings: CohortSettings | None = None,
    workers: int = 2,
    progress: OnCase | None = None,
) -> DataSet:
    """The data set in `folder`, whichever of the known layouts it has.

    Volumes are cut first, into files below ``WORK/<folder's name>``; what a killed run has cut is not cut again.

    Parameters
    ----------
    validation_images : int
        How many of BUS-BRA's own validation pictures are used so (see `split_busbra`).
    progress : callable, optional
        Called with (volumes cut, volumes).

    Raises
    ------
    TrainingDataError
        No known layout, or the data set is incomplete or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TrainingDataError("there is no such folder", where=folder)
    if any(folder.glob("phantom-*.npz")):
        files = tuple(cohort_files(folder).values())
        origins = tuple(read_origin(file) for file in files)
        return DataSet(origins[0].data, origins, files=files)
    if (folder / "bus_data.csv").is_file():
        return open_busbra(folder, validation_images=validation_images)
    if busi.is_busi(folder):
        pictures = busi.read_busi(folder)
        return DataSet(busi.NAME, tuple(Origin(busi.NAME, p.id, p.case) for p in pictures), pictures)
    if (folder / exams.TABLE).is_file():
        cases, name = exams.read_exams(folder), folder.name
    elif tdsc.is_tdsc(folder):
        cases, name = tdsc.read_tdsc(folder), tdsc.NAME
    else:
        raise TrainingDataError("no data set is known by this layout", where=folder, expected=LAYOUTS)
    return _cut(name, cases, Path(work) / folder.name, settings or CohortSettings(), workers, progress)


def open_busbra(folder: str | Path, *, test_fold: int = TEST_FOLD, validation_images: int) -> DataSet:
    """BUS-BRA with the images of `test_fold` as its test part; see `split_busbra`."""
    images = read_busbra(folder, test_fold=test_fold)
    split = split_busbra(images, test_fold=test_fold, validation_images=validation_images)
    parts = {
        image.id: name
        for name, part in (("train", split.train), ("validation", split.validation), ("test", split.test))
        for image in part
    }
    return DataSet(BUSBRA, tuple(Origin(BUSBRA, v.id, v.case, parts[v.id]) for v in images), images)


def _cut(
    name: str,
    cases: Sequence[VolumeCase],
    out: Path,
    settings: CohortSettings,
    workers: int,
    progress: OnCase | None,
) -> DataSet:
    files = build_files(out, cases, workers=workers, settings=settings, progress=progress)
    return DataSet(name, tuple(case.origin for case in cases), files=tuple(files))
