"""One door to every exam: a file, a folder or a zip archive, known by its first bytes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from scanside.errors import ExamReadError, GeometryError, UsageError
from scanside.exam.volume import Exam, FrameSource, Refusal, Volume, Voxels

if TYPE_CHECKING:
    from scanside.exam.archive import UnpackedArchive
    from scanside.exam.readers.dicom_file import DicomFile

MAX_FILES = 100_000
_HEAD_BYTES = 352

Triple = tuple[float, float, float]

_SUFFIXES = {
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".npy": "numpy",
    ".npz": "numpy",
    ".dcm": "dicom",
    ".dicom": "dicom",
}
_FORMATS = "DICOM, NRRD, NIfTI, MetaImage (MHA/MHD), NumPy (.npy/.npz), a folder or a zip archive of these"
_OTHERS = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"GIF8", "a GIF picture"),
    (b"\x1f\x8b", "a gzip file"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"{", "a JSON file"),
)
_COMPANIONS = {".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",), ".gz": (".nhdr",), ".img": (".hdr",)}
_MASK_NAME = re.compile(r"(?:^|[^a-z])(?:mask|masks|label|labels|seg|segmentation|annotation)(?:[^a-z]|$)")


def open_exam(path: str | os.PathLike[str], *, spacing_mm: Triple | None = None) -> Exam:
    """Open an exam: headers are read and checked, pixels stay where they are until they are asked for.

    Parameters
    ----------
    path : path
        A DICOM (Ultrasound Multi-frame, Enhanced US Volume), NRRD, NIfTI, MetaImage or NumPy file; a folder with
        volumes of one patient, or with series of single-frame DICOM files; or a zip archive of those.
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral) voxel size, used for what a header does not state.

    Returns
    -------
    Exam
        At least one volume, in the order of their names; what else was found, with the reason it was refused.

    Raises
    ------
    ExamReadError
        Nothing usable, a damaged or hostile file, or images of several patients.
    GeometryError
        The only volume has no usable spacing, or `spacing_mm` is out of bounds.
    UsageError
        `spacing_mm` is not three numbers.

    Examples
    --------
    >>> exam = open_exam("exam.dcm")  # doctest: +SKIP
    >>> exam.only().info.geometry.extent_mm  # doctest: +SKIP
    (168.0, 60.0, 154.0)
    """
    path = Path(path)
    if spacing_mm is not None:
        spacing_mm = _checked_spacing(spacing_mm)
    try:
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            raise ExamReadError("there is no such file or folder", where=path)
    except OSError as error:
        raise _unreadable(error, str(path)) from error
    if is_folder:
        return _open_folder(path, path, spacing_mm)
    kind = _kind(path, path.name)
    if kind == "zip":
        from scanside.exam.archive import UnpackedArchive

        archive = UnpackedArchive(path)
        try:
            return _open_folder(archive.folder, path, spacing_mm, archive)
        except BaseException:
            archive.close()
            raise
    volume = _reader(kind)(path, spacing_mm)
    return Exam(path, (_labelled(volume, path.name, None),))


@dataclass
class _Findings:
    """What a walk over a folder found, by label."""

    volumes: list[tuple[str, Volume]] = field(default_factory=list)
    refused: list[tuple[str, ExamReadError]] = field(default_factory=list)
    ignored: list[tuple[str, ExamReadError]] = field(default_factory=list)

    def attempt(self, label: str, read: Callable[[], Volume]) -> None:
        """Keep the volume that `read` gives, or why it gives none."""
        try:
            self.volumes.append((label, read()))
        except ExamReadError as error:
            self.refused.append((label, error))


def _open_folder(folder: Path, source: Path, spacing_mm: Triple | None, archive: UnpackedArchive | None = None) -> Exam:
    found = _Findings()
    dicom: list[DicomFile] = []
    for path, label in _files(folder, source.name):
        try:
            kind = _kind(path, label)
        except ExamReadError as error:
            if not _companion(path):
                (found.refused if _suffix(path) else found.ignored).append((label, error))
            continue
        if kind == "zip":
            found.ignored.append((label, ExamReadError("an archive in a folder stays closed", where=label)))
        elif kind == "dicom":
            try:
                dicom.append(_dicom_file(path, label))
            except ExamReadError as error:
                found.refused.append((label, error))
        elif _MASK_NAME.search(path.stem.lower()):
            found.ignored.append((label, ExamReadError("a mask by its name, not an exam", where=label)))
        else:
            found.attempt(label, partial(_read_alone, kind, path, label, spacing_mm))
    if dicom:
        _check_patients(dicom, source)
        _open_dicom(dicom, spacing_mm, found)
    if not found.volumes:
        raise _nothing_usable(found, source)
    volumes = sorted(found.volumes, key=lambda entry: _natural(entry[0]))
    return Exam(
        source,
        tuple(_labelled(volume, label, archive) for label, volume in volumes),
        _refusals(found.refused),
        _refusals(found.ignored),
    )


def _refusals(entries: list[tuple[str, ExamReadError]]) -> tuple[Refusal, ...]:
    return tuple(Refusal(label, error) for label, error in sorted(entries, key=lambda entry: _natural(entry[0])))


def _open_dicom(files: list[DicomFile], spacing_mm: Triple | None, found: _Findings) -> None:
    """Volumes of the DICOM files of a folder: multi-frame ones alone, single-frame ones by series."""
    from scanside.exam.readers import dicom, dicom_series
    from scanside.exam.readers.dicom_pixels import frame_count

    series: dict[str, list[DicomFile]] = {}
    for file in _without_duplicates(files, found):
        if file.sop_class not in dicom.SOP_CLASSES and "Rows" not in file.header:
            found.ignored.append((file.where, ExamReadError("a DICOM object without an image", where=file.where)))
            continue
        try:
            dicom.check_object(file)
            single = frame_count(file.header) == 1
            key = file.header.text("SeriesInstanceUID")
            if single and not key:
                raise ExamReadError("the frame belongs to no series", where=file.where, expected="SeriesInstanceUID")
        except ExamReadError as error:
            found.refused.append((file.where, error))
            continue
        if single:
            series.setdefault(key, []).append(file)
        else:
            found.attempt(file.where, partial(dicom.volume, file, spacing_mm))
    for members in series.values():
        found.attempt(members[0].where, partial(dicom_series.volume, members, spacing_mm))


def _without_duplicates(files: list[DicomFile], found: _Findings) -> list[DicomFile]:
    """The files less repeated SOP instances: exact copies are dropped, files that differ under one UID all refused."""
    import filecmp

    by_uid: dict[str, list[DicomFile]] = {}
    for n, file in enumerate(files):
        by_uid.setdefault(file.header.text("SOPInstanceUID") or f"none {n}", []).append(file)
    kept = []
    for group in by_uid.values():
        first, *others = group
        if all(filecmp.cmp(first.path, other.path, shallow=False) for other in others):
            kept.append(first)
            for other in others:
                found.ignored.append((other.where, ExamReadError("a copy of another file", where=other.where)))
            continue
        for file in group:
            error = ExamReadError(
                "different files claim the same SOP Instance UID",
                where=file.where,
                found=f"{len(group)} files",
                remedy="keep the one that the scanner wrote",
            )
            found.refused.append((file.where, error))
    return kept


def _check_patients(files: list[DicomFile], source: Path) -> None:
    """Refuse a folder of several patients. No name or id leaves this function."""
    ids, names = set(), set()
    for file in files:
        ids.add(file.header.text("PatientID").casefold())
        name = file.header.text("PatientName")
        names.add("".join(c for c in name.casefold() if c.isalnum()))
    names.discard("")
    if len(ids) > 1 or len(names) > 1:
        raise ExamReadError(
            "the images belong to several patients",
            where=source,
            expected="one patient (PatientID, PatientName)",
            found=f"{max(len(ids), len(names))} different ones in {len(files)} DICOM files",
            remedy="open one patient's folder, or one file, at a time",
        )


def _dicom_file(path: Path, label: str) -> DicomFile:
    from scanside.exam.readers.dicom_file import read_dicom_file

    return read_dicom_file(path, label)


def _reader(kind: str) -> Callable[[Path, Triple | None], Volume]:
    """The `read` of a format's module, loaded only now."""
    reader: Callable[[Path, Triple | None], Volume] = import_module(f"scanside.exam.readers.{kind}").read
    return reader


def _read_alone(kind: str, path: Path, label: str, spacing_mm: Triple | None) -> Volume:
    """One file's volume; errors name it by its label."""
    try:
        return _reader(kind)(path, spacing_mm)
    except ExamReadError as error:
        raise _relocated(error, label) from error


def _kind(path: Path, label: str) -> str:
    """The reader's name for a file, or "zip", by its first bytes and then by its suffix.

    Raises
    ------
    ExamReadError
        No plain file, unreadable, empty, or of no known format.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ExamReadError("this is no plain file", where=label)
        if status.st_size == 0:
            raise ExamReadError("the file is empty", where=label)
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise _unreadable(error, label) from error
    by_suffix = _suffix(path)
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if head.startswith(b"\x93NUMPY"):
        return "numpy"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "numpy" if by_suffix == "numpy" else "zip"
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return "nifti"
    if by_suffix is not None:
        return by_suffix
    found = next((name for magic, name in _OTHERS if head.startswith(magic)), f"a file that begins with {head[:8]!r}")
    if not any(head[:132]):
        found = "only zeros in its first bytes"
    raise ExamReadError("this is no exam", where=label, expected=_FORMATS, found=found)


def _suffix(path: Path) -> str | None:
    """The reader that a file's suffix promises."""
    return _SUFFIXES.get("".join(path.suffixes[-2:]).lower()) or _SUFFIXES.get(path.suffix.lower())


def _files(folder: Path, name: str) -> list[tuple[Path, str]]:
    """The files under a folder, hidden ones left out and links to folders not followed, in natural order."""
    found: list[tuple[Path, str]] = []
    for parent, folders, names in os.walk(folder, onerror=None, followlinks=False):
        folders[:] = sorted(entry for entry in folders if not entry.startswith(".") and entry != "__MACOSX")
        found += [(Path(parent, entry), "") for entry in names if not entry.startswith(".")]
        if len(found) > MAX_FILES:
            raise ExamReadError(
                "the folder holds too many files", where=name, expected=f"at most {MAX_FILES}", found=f"{len(found)}"
            )
    labelled = [(path, path.relative_to(folder).as_posix()) for path, _ in found]
    return sorted(labelled, key=lambda entry: _natural(entry[1]))


def _companion(path: Path) -> bool:
    """Whether a file holds the data of a header beside it."""
    stem = path.name[: -len(path.suffix)] if path.suffix else path.name
    for suffix in _COMPANIONS.get(path.suffix.lower(), ()):
        base = stem.removesuffix(".raw") if path.suffix.lower() == ".gz" else stem
        if path.with_name(base + suffix).exists():
            return True
    return False


def _natural(label: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts frame-9 before frame-10."""
    parts = [part for part in re.split(r"([0-9]+)", label) if part]
    keys = [(1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts]
    return (*keys, (0, 0, label))


class _LentFrames:
    """Frames of a file in an unpacked archive: they keep its folder alive and name the member in errors."""

    def __init__(self, source: FrameSource, label: str, archive: UnpackedArchive) -> None:
        self._source, self._label, self._archive = source, label, archive

    def read(self, k: int, out: Voxels) -> None:
        """Decode frame `k` into `out`."""
        try:
            self._source.read(k, out)
        except ExamReadError as error:
            raise _relocated(error, self._label) from error


def _labelled(volume: Volume, label: str, archive: UnpackedArchive | None) -> Volume:
    info = replace(volume.info, source=label)
    source = volume.source if archive is None else _LentFrames(volume.source, label, archive)
    return Volume(info, source)


def _relocated(error: ExamReadError, label: str) -> ExamReadError:
    """The same error of a file in a folder, named by its place in that folder."""
    where = error.where if error.where is not None and error.where.startswith(label) else label
    return type(error)(error.what, where=where, expected=error.expected, found=error.found, remedy=error.remedy)


def _nothing_usable(found: _Findings, source: Path) -> ExamReadError:
    if len(found.refused) == 1:
        return found.refused[0][1]
    every = found.refused + found.ignored
    if not every:
        return ExamReadError("there is nothing in it", where=source, expected=_FORMATS)
    kinds = {type(error) for _, error in found.refused}
    kind = GeometryError if kinds == {GeometryError} else ExamReadError
    first = "; ".join(f"{label}: {error.what}" for label, error in every[:3])
    more = f"; and {len(every) - 3} more" if len(every) > 3 else ""
    error = kind("nothing here can be read as an exam", where=source, expected=_FORMATS, found=f"{first}{more}")
    error.refused = _refusals(every)
    return error


def _checked_spacing(spacing_mm: Triple) -> Triple:
    from scanside.exam.geometry import Geometry

    try:
        sweep, depth, lateral = (float(value) for value in spacing_mm)
    except (TypeError, ValueError):
        raise UsageError("spacing_mm is no (sweep, depth, lateral) in mm", found=repr(spacing_mm)[:80]) from None
    Geometry((1, 1, 1), (sweep, depth, lateral))
    return sweep, depth, lateral


def _unreadable(error: OSError, label: str) -> ExamReadError:
    return ExamReadError("the file cannot be read", where=label, found=error.strerror or type(error).__name__)
