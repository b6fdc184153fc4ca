"""Volumes spread over many DICOM files, one frame each: grouped by series, ordered by position or instance number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scanside.errors import ExamReadError, GeometryError
from scanside.exam.readers.dicom import assemble
from scanside.exam.readers.dicom_file import DicomFile
from scanside.exam.readers.dicom_geometry import FramePlanes, Triple, frame_planes_from
from scanside.exam.readers.dicom_pixels import PixelData
from scanside.exam.volume import Volume

_SAME = ("PixelSpacing", "SpacingBetweenSlices", "ImageLaterality", "Laterality")


def volume(files: Sequence[DicomFile], spacing_mm: Triple | None) -> Volume:
    """One volume from the single-frame files of one series.

    Frames follow ImagePositionPatient where every file states it, else InstanceNumber, which must then count without a
    gap. Of the two directions along the sweep, the one in which InstanceNumber rises is taken.

    Parameters
    ----------
    files : sequence of DicomFile
        The files of one SeriesInstanceUID, in any order, their kind checked.
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral), used only for what the headers do not state.

    Raises
    ------
    ExamReadError
        A single file, files that differ in size or kind, a missing or doubled frame, or unusable pixels.
    GeometryError
        No usable spacing, or frames that are not evenly spaced.
    """
    first = files[0]
    if len(files) < 2:
        raise ExamReadError(
            "the series holds a single frame",
            where=first.where,
            expected="a volume of at least 2 frames",
            found="1 frame",
            remedy="open the folder that holds the whole series",
        )
    files = sorted(files, key=lambda file: (_number(file), file.where))
    first = files[0]
    pixels = [PixelData(file) for file in files]
    for file, stored in zip(files, pixels, strict=True):
        if stored.form != pixels[0].form:
            raise ExamReadError(
                "the frames of the series differ in size or kind",
                where=file.where,
                expected=_described(pixels[0]),
                found=_described(stored),
            )
        for keyword in _SAME:
            if file.header.text(keyword) != first.header.text(keyword):
                raise GeometryError(f"the frames of the series differ in {keyword}", where=file.where)
    planes = _planes(files)
    if planes is None:
        _check_numbers(files)
    uids = tuple(file.header.text("SOPInstanceUID") for file in files)
    whole = assemble(first, [(stored, 0) for stored in pixels], planes, spacing_mm, uids)
    return replace(whole, info=replace(whole.info, format=f"{whole.info.format}, {len(files)} files"))


def _planes(files: Sequence[DicomFile]) -> FramePlanes | None:
    positions = [file.header.numbers("ImagePositionPatient", 3) for file in files]
    directions = [file.header.numbers("ImageOrientationPatient", 6) for file in files]
    if not any(positions) or any(direction is None for direction in directions):
        return None
    stated = [direction for direction in directions if direction is not None]
    if len(set(positions)) == 1:
        return None
    numbers = tuple(_number(file) for file in files)
    return frame_planes_from(positions, stated, True, "ImagePositionPatient", files[0].where, numbers)


def _check_numbers(files: Sequence[DicomFile]) -> None:
    numbers = [_number(file) for file in files]
    for before, after, file in zip(numbers, numbers[1:], files[1:], strict=False):
        if after != before + 1:
            raise ExamReadError(
                "the frames of the series cannot be put in order: one is missing, doubled or not numbered",
                where=file.where,
                expected=f"InstanceNumber {before + 1}",
                found=after,
                remedy="export the whole series again",
            )


def _number(file: DicomFile) -> int:
    number = file.header.integer("InstanceNumber")
    return 0 if number is None else number


def _described(pixels: PixelData) -> str:
    form = pixels.form
    return f"{form.rows} x {form.columns}, {form.bits_stored} bits, {form.photometric}"
