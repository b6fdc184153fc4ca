"""Ultrasound volumes in one DICOM file: Ultrasound Multi-frame as the scanners write it, and Enhanced US Volume."""

from __future__ import annotations

from pathlib import Path

from scanside.errors import ExamReadError
from scanside.exam.profiles import recognise
from scanside.exam.readers import dicom_labels
from scanside.exam.readers.dicom_file import DicomFile, read_dicom_file
from scanside.exam.readers.dicom_geometry import FramePlanes, Triple, frame_planes, place
from scanside.exam.readers.dicom_header import SYNTAX_NAMES, Header, uid_name
from scanside.exam.readers.dicom_pixels import DicomFrames, PixelData, frame_count, grey_map
from scanside.exam.volume import Volume, VolumeInfo

SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.3.1": "Ultrasound Multi-frame",
    "1.2.840.10008.5.1.4.1.1.3": "Ultrasound Multi-frame (retired)",
    "1.2.840.10008.5.1.4.1.1.6.2": "Enhanced US Volume",
    "1.2.840.10008.5.1.4.1.1.6.1": "Ultrasound Image",
    "1.2.840.10008.5.1.4.1.1.6": "Ultrasound Image (retired)",
}


def read(path: Path, spacing_mm: Triple | None) -> Volume:
    """The volume of one multi-frame DICOM file, pixels unread.

    Parameters
    ----------
    path : Path
        A DICOM Part 10 file of an ultrasound SOP class.
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral), used only for what the header does not state.

    Raises
    ------
    ExamReadError
        No such file, a damaged one, another kind of object, a single frame, or pixels that do not match the header.
    GeometryError
        No usable spacing.
    """
    file = read_dicom_file(path, path.name)
    check_object(file)
    return volume(file, spacing_mm)


def check_object(file: DicomFile) -> None:
    """Refuse objects that are no original ultrasound images.

    Raises
    ------
    ExamReadError
        Another SOP class; an image that is derived (PS3.3 C.7.6.1.1.2), a localiser, or 4-D.
    """
    if file.sop_class not in SOP_CLASSES:
        raise ExamReadError(
            "this DICOM object is no ultrasound volume",
            where=file.where,
            expected="Ultrasound Multi-frame, Enhanced US Volume or a series of Ultrasound Images",
            found=uid_name(file.sop_class),
        )
    kinds = file.header.codes("ImageType")
    for kind, what in (("DERIVED", "a derived image"), ("LOCALIZER", "a localiser")):
        if kind in kinds:
            raise ExamReadError(
                f"this is {what}, not what the scanner acquired",
                where=file.where,
                expected="ImageType ORIGINAL",
                found=f"ImageType {'/'.join(kinds)[:64]}",
                remedy="export the original sweep",
            )
    if file.header.code("DimensionOrganizationType") == "3D_TEMPORAL":
        raise ExamReadError("the object holds several volumes over time", where=file.where, expected="one sweep")


def volume(file: DicomFile, spacing_mm: Triple | None) -> Volume:
    """The volume of a multi-frame file whose header was read and whose kind was checked; see `read`."""
    header = file.header
    count = frame_count(header)
    pixels = PixelData(file)
    if count < 2:
        raise ExamReadError(
            "the file holds a single frame",
            where=file.where,
            expected="a volume of at least 2 frames",
            found="1 frame",
            remedy="open the folder that holds the whole series",
        )
    planes = frame_planes(header, count)
    return assemble(file, [(pixels, k) for k in range(count)], planes, spacing_mm, (header.text("SOPInstanceUID"),))


def assemble(
    file: DicomFile,
    places: list[tuple[PixelData, int]],
    planes: FramePlanes | None,
    spacing_mm: Triple | None,
    uids: tuple[str, ...],
) -> Volume:
    """A volume from the places of its frames, in the order of `planes`; `file` is the first and speaks for all."""
    header: Header = file.header
    form = places[0][0].form
    shape = (len(places), form.rows, form.columns)
    habits = recognise(header, shape)
    placement = place(header, shape, habits, spacing_mm, planes)
    ordered = [places[k] for k in placement.order]
    grey = grey_map(ordered, header)
    side, side_source, side_warnings = dicom_labels.laterality(header)
    info = VolumeInfo(
        placement.geometry,
        file.where,
        placement.source,
        f"DICOM {SOP_CLASSES[file.sop_class]}, {SYNTAX_NAMES[file.syntax]}",
        laterality=side,
        laterality_source=side_source,
        view=dicom_labels.view(header),
        profile=habits.profile,
        sop_instance_uids=uids,
        nipple_mm=habits.nipple_mm,
        warnings=(
            *placement.warnings,
            *habits.warnings,
            *side_warnings,
            *dicom_labels.remarks(header),
            *grey.warnings,
        ),
    )
    return Volume(info, DicomFrames(ordered, grey))
