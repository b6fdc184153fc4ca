"""Calibration data: exams and phantoms opened one at a time, what is selected cut from them and kept on disk."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.calibration.observe import Batch
from scanside.calibration.selection import (
    SCHEMA,
    Lesion,
    SectionChoice,
    Selection,
    TripletChoice,
    choose_sections,
    choose_triplets,
    refuse_test_cases,
    section_grids,
)
from scanside.engine.sections import padded_shape
from scanside.engine.triplets import CropRule, triplet_batches
from scanside.errors import CalibrationError, OutputError, UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.phantom.seeds import phantoms_named
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Volume, Voxels
from scanside.exam.write import atomic_file
from scanside.pack import Manifest

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Loaded:
    """A decoded exam: its lesions, and where they are voxel by voxel (0 is none) when the truth is known."""

    voxels: Voxels
    lesions: tuple[Lesion, ...]
    mask: NDArray[np.uint8] | None = None


Find = Callable[[Volume], Loaded]


class Source(Protocol):
    """An exam to calibrate on. `names` is everything it may be called by in a list of test cases."""

    @property
    def name(self) -> str: ...

    @property
    def names(self) -> Collection[str]: ...

    @property
    def geometry(self) -> Geometry: ...

    def load(self) -> Loaded:
        """The decoded exam."""


@dataclass(frozen=True)
class PhantomSource:
    """A synthetic exam, made when its turn comes; its lesions are the true ones."""

    seed: int
    shape: tuple[int, int, int] | None = None

    @property
    def name(self) -> str:
        return f"phantom {self.seed}"

    @property
    def names(self) -> Collection[str]:
        return (self.name,)

    @property
    def geometry(self) -> Geometry:
        from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE

        spacing = tuple(mm / n for mm, n in zip(STANDARD_EXTENT_MM, STANDARD_SHAPE, strict=True))
        return Geometry(self.shape or STANDARD_SHAPE, spacing)  # type: ignore[arg-type]

    def load(self) -> Loaded:
        from scanside.exam.phantom import make_phantom

        geometry = self.geometry
        phantom = make_phantom(self.seed, shape=geometry.shape, extent_mm=geometry.extent_mm)
        lesions = tuple(Lesion(v.id, v.box_mm, v.malignant) for v in phantom.truth)
        return Loaded(phantom.voxels, lesions, phantom.mask)


@dataclass(frozen=True)
class ExamSource:
    """One volume of an exam; its lesions are what `find` finds."""

    volume: Volume
    find: Find

    @property
    def name(self) -> str:
        return self.volume.info.source

    @property
    def names(self) -> Collection[str]:
        return (self.name, Path(self.name).name, *self.volume.info.sop_instance_uids)

    @property
    def geometry(self) -> Geometry:
        return self.volume.geometry

    def load(self) -> Loaded:
        return self.find(self.volume)


@dataclass(frozen=True)
class Amount:
    """How much is selected in all, and the seed."""

    sections: int = 480
    triplets: int = 240
    seed: int = 0


def sources_of(texts: Sequence[str], find: Find) -> list[Source]:
    """The exams that `--data` names: each text a file, folder or zip, or `phantom:FIRST:END[:SWEEPxDEPTHxLATERAL]`.

    Raises
    ------
    UsageError
        A phantom range that is none, or nothing named.
    ExamReadError
        A path that holds no usable exam.
    """
    from scanside.exam.open import open_exam

    sources: list[Source] = []
    for text in texts:
        if text.startswith("phantom:"):
            seeds, shape = phantoms_named(text, "--data")
            sources += [PhantomSource(seed, shape) for seed in seeds]
        else:
            sources += [ExamSource(volume, find) for volume in open_exam(text).volumes]
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not sources or twice:
        raise UsageError(
            "an exam is named twice" if twice else "no exam to calibrate on",
            where="--data",
            expected="EXAM or phantom:FIRST:END",
            found=", ".join(twice) or None,
        )
    return sources


class CalibrationData:
    """What was selected, on disk in `folder`, one file an exam; batches are read when asked for.

    Attributes
    ----------
    selection : Selection
    """

    def __init__(self, files: Sequence[Path], selection: Selection) -> None:
        self._files = tuple(files)
        self.selection = selection

    def section_batches(self, tensor: str, batch: int) -> list[Callable[[], Batch]]:
        """Batches of at most `batch` sections of one size each, as the segmenter takes them."""
        return [
            lambda file=file, key=key, at=at: {tensor: _read(file, key)[at : at + batch]}  # type: ignore[misc]
            for file in self._files
            for key, count in _counts(file)
            if key.startswith("sections_")
            for at in range(0, count, batch)
        ]

    def mask_batches(self, batch: int) -> list[Callable[[], NDArray[np.bool_]]] | None:
        """The true masks of `section_batches`, in the same batches; None where the truth of an exam is not known."""
        masks: list[Callable[[], NDArray[np.bool_]]] = []
        for file in self._files:
            counts = dict(_counts(file))
            for key in (key for key in counts if key.startswith("sections_")):
                name = key.replace("sections_", "masks_")
                if name not in counts:
                    return None
                masks += [
                    lambda file=file, name=name, at=at: _read(file, name)[at : at + batch]  # type: ignore[misc]
                    for at in range(0, counts[key], batch)
                ]
        return masks

    def triplet_batches(self, tensors: dict[str, str], batch: int) -> list[Callable[[], Batch]]:
        """Batches of at most `batch` triplets; `tensors` maps a plane to the classifier's input."""
        batches: list[Callable[[], Batch]] = []
        for file in self._files:
            count = dict(_counts(file)).get(f"triplets_{next(iter(tensors))}", 0)
            for at in range(0, count, batch):
                batches.append(
                    lambda file=file, at=at: {  # type: ignore[misc]
                        name: _read(file, f"triplets_{plane}")[at : at + batch] for plane, name in tensors.items()
                    }
                )
        return batches


def prepare(
    sources: Sequence[Source],
    manifest: Manifest,
    amount: Amount,
    folder: Path,
    *,
    test_cases: Collection[str] = (),
    progress: Progress | None = None,
) -> CalibrationData:
    """Select from the exams and cut what is selected into `folder`, exam by exam; exams already cut are skipped.

    Raises
    ------
    CalibrationError
        A test case among the exams; pictures all of one grey; nothing to cut triplets from; a damaged file.
    OutputError
        `folder` cannot be written.
    """
    refuse_test_cases({source.name: source.names for source in sources}, test_cases)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise OutputError("the calibration data cannot be kept", where=folder, found=found) from None
    files = []
    sections: list[SectionChoice] = []
    triplets: list[TripletChoice] = []
    for number, source in enumerate(sources):
        sections_share, triplets_share = (
            _share(total, number, len(sources)) for total in (amount.sections, amount.triplets)
        )
        share = Amount(sections_share, triplets_share, amount.seed)
        file = folder / f"{number:03d}-{zlib.crc32(repr((source.name, share)).encode()):08x}.npz"
        if not file.is_file():
            _cut(source, manifest, share, file)
        chosen = json.loads(bytes(_read(file, "choices")))
        sections += [SectionChoice(**row) for row in chosen["sections"]]
        triplets += [TripletChoice(**row) for row in chosen["triplets"]]
        files.append(file)
        if progress is not None:
            progress(number + 1, len(sources))
    selection = Selection(SCHEMA, amount.seed, len(test_cases), tuple(sections), tuple(triplets))
    data = CalibrationData(files, selection)
    _require_pictures(data, files)
    return data


def _share(total: int, number: int, parts: int) -> int:
    return total // parts + (number < total % parts)


def _cut(source: Source, manifest: Manifest, amount: Amount, file: Path) -> None:
    segmenter, classifier = manifest.segmenter, manifest.classifier
    grids = section_grids(source.geometry, segmenter.planes, segmenter.pitch_mm, segmenter.every_mm)
    exam = source.load()
    sections = choose_sections(source.name, grids, exam.lesions, amount.sections, amount.seed)
    triplets = choose_triplets(source.name, exam.lesions, classifier.frames, amount.triplets, amount.seed)
    arrays: dict[str, NDArray] = {}
    for plane, grid in grids.items():
        wanted = [choice.section for choice in sections if choice.plane == plane.value]
        cut = np.zeros((len(wanted), 1, *padded_shape(grid.shape, segmenter.size_multiple)), np.uint8)
        for i, section in enumerate(wanted):
            grid.section(exam.voxels, section, out=cut[i, 0])
        arrays[f"sections_{plane.value}"] = cut
        if exam.mask is not None:
            arrays[f"masks_{plane.value}"] = _masks(exam.mask, grid, wanted, cut.shape)
    rule = CropRule(
        classifier.frames, classifier.margin, classifier.size, tuple(p for p in Plane if p.value in classifier.inputs)
    )
    crops = [_triplet(exam.voxels, source.geometry, choice, rule) for choice in triplets]
    for plane in rule.planes:
        empty = np.zeros((0, 1, rule.size, rule.size), np.uint8)
        arrays[f"triplets_{plane.value}"] = np.concatenate([empty, *(crop[plane] for crop in crops)])
    listed = {"sections": [asdict(c) for c in sections], "triplets": [asdict(c) for c in triplets]}
    arrays["choices"] = np.frombuffer(json.dumps(listed).encode(), np.uint8)
    with atomic_file(file) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _masks(
    mask: NDArray[np.uint8], grid: SectionGrid, wanted: Sequence[int], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """The true masks of the sections: a pixel belongs to a lesion when half of it does."""
    cut = np.zeros(shape, np.uint8)
    for i, section in enumerate(wanted):
        native = grid.plane.slice(mask, int(grid.indices[section]))
        grid.section_of(np.where(native > 0, np.uint8(255), np.uint8(0)), out=cut[i, 0])
    return cut >= 128


def _triplet(
    voxels: Voxels, geometry: Geometry, choice: TripletChoice, rule: CropRule
) -> dict[Plane, NDArray[np.uint8]]:
    """One frame's crops, cut by the engine's own rule."""
    batches = triplet_batches(voxels, geometry, [choice.box_mm], rule, 1)
    crops = next(batch.crops for number, batch in enumerate(batches) if number == choice.frame)
    return {plane: pixels.copy() for plane, pixels in crops.items()}


def _require_pictures(data: CalibrationData, files: Sequence[Path]) -> None:
    low, high, triplets = 255, 0, 0
    for file in files:
        for key, count in _counts(file):
            if key.startswith("sections_") and count:
                pixels = _read(file, key)
                low, high = min(low, int(pixels.min())), max(high, int(pixels.max()))
    triplets = len(data.selection.triplets)
    if not data.selection.sections or low >= high:
        raise CalibrationError(
            "the calibration pictures are all of one grey",
            where=", ".join(sorted({c.source for c in data.selection.sections})) or "--data",
            expected="ultrasound images",
            found=f"grey {low}" if data.selection.sections else "no sections",
            remedy="calibrate on other exams",
        )
    if not triplets:
        raise CalibrationError(
            "no lesion to cut the classifier's triplets from",
            where=", ".join(sorted({c.source for c in data.selection.sections})),
            remedy="calibrate on exams in which the pack finds lesions, or on phantoms",
        )


def _counts(file: Path) -> Iterator[tuple[str, int]]:
    """Each array of a file and its length, the file's arrays not kept."""
    for key in _keys(file):
        yield key, len(_read(file, key))


def _keys(file: Path) -> list[str]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return list(arrays.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(file, error) from None


def _read(file: Path, key: str) -> NDArray[np.uint8]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> CalibrationError:
    found = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CalibrationError(
        "a file of cut calibration data is damaged", where=file, found=found, remedy="delete it to cut it again"
    )
