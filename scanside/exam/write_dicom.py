"""Exams as DICOM, the way the scanners' makers write them; synthetic or research data only.

`write_dicom` is the vendors' form: one Ultrasound Multi-frame object a volume, no Frame of Reference, the geometry in
PixelSpacing and SpacingBetweenSlices. `write_enhanced_us` (PS3.3 A.59) and `write_dicom_series` carry the patient
orientation as well. Dates are fixed and UIDs follow from the arguments, so equal arguments give equal bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from scanside.errors import UsageError
from scanside.exam.encode import ENCAPSULATED, LOSSY, NATIVE, encode_frame
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Laterality, Voxels
from scanside.exam.write import atomic_file

Photometric = Literal["MONOCHROME2", "YBR_FULL_422", "RGB"]

US_MULTI_FRAME = UID("1.2.840.10008.5.1.4.1.1.3.1")
US_SINGLE_FRAME = UID("1.2.840.10008.5.1.4.1.1.6.1")
ENHANCED_US_VOLUME = UID("1.2.840.10008.5.1.4.1.1.6.2")

# Manufacturer, model, private creator of group 0021.
_VENDORS: dict[str, tuple[str, str, str]] = {
    "siemens": ("SIEMENS", "ACUSON S2000", ""),
    "ge": ("GE Healthcare", "Invenia ABUS 2.0", "General Electric Company 01"),
    "generic": ("Scanside", "Synthetic volume", ""),
}
_SIDES = {Laterality.LEFT: "L", Laterality.RIGHT: "R"}
_DATE, _TIME = "20000101", "000000"
# Where no orientation is known, objects that must state one lie supine: lateral to the patient's left, depth to the
# back, sweep to the head.
_NOMINAL = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def write_dicom(
    path: str | os.PathLike[str],
    voxels: Voxels,
    geometry: Geometry,
    *,
    vendor: str = "siemens",
    laterality: Laterality = Laterality.RIGHT,
    view: str = "AP",
    transfer_syntax: str = ExplicitVRLittleEndian,
    seed: int = 0,
    photometric: Photometric = "MONOCHROME2",
    quality: int = 95,
    nipple_mm: tuple[float, float, float] | None = None,
    probe_radius_mm: float = 0.0,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Write a volume as one Ultrasound Multi-frame object (1.2.840.10008.5.1.4.1.1.3.1).

    Frames are written one at a time: a memory map needs no more memory than a frame.

    Parameters
    ----------
    path : path
        Target file, replaced atomically.
    voxels : uint8 array [sweep, depth, lateral]
        Or [sweep, depth, lateral, 3] RGB, for colour.
    geometry : Geometry
        Its orientation is not written: these objects have no Frame of Reference.
    vendor : {"siemens", "ge", "generic"}
        Whose habits to follow. `ge` adds private group 0021 (probe and track curvature, nipple, scan depth).
    laterality, view
        Written to Laterality and, in words, to SeriesDescription ("RIGHT AP").
    transfer_syntax : UID
        Implicit or explicit little endian, explicit big endian, RLE, JPEG Baseline, JPEG Lossless SV1, JPEG-LS
        Lossless, JPEG 2000 lossless or lossy.
    seed : int
        Names the synthetic patient ("PHANTOM-<seed>") and, with the other arguments, the UIDs.
    photometric : str
        Colour forms repeat a grey value in the three channels.
    quality : int
        JPEG Baseline's quality, 1 to 100.
    nipple_mm : tuple of float, optional
        (sweep, depth, lateral) in the volume's mm frame; `ge` only, stored as lateral, depth, sweep.
    probe_radius_mm : float
        `ge` only; 0 says the probe face is flat, as in these volumes.
    overrides : mapping, optional
        DICOM keyword to value, set last; None deletes the element.

    Raises
    ------
    UsageError
        Arguments that do not fit together.
    OutputError
        The file cannot be written.
    """
    syntax = _checked(voxels, geometry, vendor, transfer_syntax)
    dataset = _header(US_MULTI_FRAME, geometry, vendor, laterality, view, seed, f"{syntax} {photometric}")
    _set_pixel_module(dataset, geometry, syntax, photometric)
    sweep, depth, lateral = geometry.spacing_mm
    dataset.PixelSpacing = [_ds(depth), _ds(lateral)]
    dataset.SpacingBetweenSlices = _ds(sweep)
    dataset.NumberOfFrames = geometry.shape[0]
    dataset.FrameTime = _ds(60_000 / geometry.shape[0])
    dataset.FrameIncrementPointer = 0x00181063
    if vendor == "ge":
        _set_ge_block(dataset, geometry, nipple_mm, probe_radius_mm)
    _override(dataset, overrides)
    frames = (encode_frame(frame, syntax, photometric, quality) for frame in voxels)
    return _write(Path(path), dataset, syntax, frames, len(voxels))


def write_enhanced_us(
    path: str | os.PathLike[str],
    voxels: Voxels,
    geometry: Geometry,
    *,
    vendor: str = "generic",
    laterality: Laterality = Laterality.RIGHT,
    view: str = "AP",
    transfer_syntax: str = ExplicitVRLittleEndian,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Write a volume as one Enhanced US Volume (1.2.840.10008.5.1.4.1.1.6.2) with functional groups.

    The position and orientation of every frame are the geometry's; where it knows none, a nominal supine one.
    Arguments and errors are those of `write_dicom`.
    """
    syntax = _checked(voxels, geometry, vendor, transfer_syntax)
    dataset = _header(ENHANCED_US_VOLUME, geometry, vendor, laterality, view, seed, str(syntax))
    _set_pixel_module(dataset, geometry, syntax, "MONOCHROME2")
    dataset.NumberOfFrames = geometry.shape[0]
    dataset.FrameOfReferenceUID = _uid("frame of reference", seed, laterality, view)
    dataset.PositionReferenceIndicator = ""
    dataset.UltrasoundAcquisitionGeometry = "PATIENT"
    dataset.DimensionOrganizationType = "3D"
    oriented = _oriented(geometry)
    dataset.SharedFunctionalGroupsSequence = DicomSequence([_shared_groups(oriented, laterality)])
    per_frame = []
    for k in range(geometry.shape[0]):
        position = Dataset()
        position.ImagePositionPatient = [_ds(v) for v in oriented.patient_from_index((k, 0, 0))]
        group = Dataset()
        group.PlanePositionSequence = DicomSequence([position])
        per_frame.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(per_frame)
    _override(dataset, overrides)
    frames = (encode_frame(frame, syntax, "MONOCHROME2", 95) for frame in voxels)
    return _write(Path(path), dataset, syntax, frames, len(voxels))


def write_dicom_series(
    folder: str | os.PathLike[str],
    voxels: Voxels,
    geometry: Geometry,
    *,
    vendor: str = "generic",
    laterality: Laterality = Laterality.RIGHT,
    view: str = "AP",
    transfer_syntax: str = ExplicitVRLittleEndian,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Path, ...]:
    """Write a volume as one Ultrasound Image object (1.2.840.10008.5.1.4.1.1.6.1) a frame, `frame-0001.dcm` onwards.

    Every object has its position and orientation, the geometry's or else a nominal supine one, and its InstanceNumber.
    Arguments and errors are those of `write_dicom`; the folder is made when it is missing.
    """
    syntax = _checked(voxels, geometry, vendor, transfer_syntax)
    oriented = _oriented(geometry)
    folder = Path(folder)
    with suppress(OSError):  # the first file reports it, with the remedy
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, frame in enumerate(voxels):
        dataset = _header(US_SINGLE_FRAME, geometry, vendor, laterality, view, seed, f"{syntax} frame {k}")
        _set_pixel_module(dataset, geometry, syntax, "MONOCHROME2")
        dataset.InstanceNumber = k + 1
        dataset.FrameOfReferenceUID = _uid("frame of reference", seed, laterality, view)
        dataset.PositionReferenceIndicator = ""
        dataset.PixelSpacing = [_ds(s) for s in geometry.spacing_mm[1:]]
        dataset.SpacingBetweenSlices = _ds(geometry.spacing_mm[0])
        dataset.ImageOrientationPatient = _orientation(oriented)
        dataset.ImagePositionPatient = [_ds(v) for v in oriented.patient_from_index((k, 0, 0))]
        _override(dataset, overrides)
        encoded = encode_frame(frame, syntax, "MONOCHROME2", 95)
        paths.append(_write(folder / f"frame-{k + 1:04d}.dcm", dataset, syntax, [encoded], 1))
    return tuple(paths)


def _checked(voxels: Voxels, geometry: Geometry, vendor: str, transfer_syntax: str) -> UID:
    syntax = UID(transfer_syntax)
    if vendor not in _VENDORS:
        raise UsageError("unknown vendor", expected=" or ".join(_VENDORS), found=vendor)
    if syntax not in (*NATIVE, *ENCAPSULATED):
        known = ", ".join(known.name for known in (*NATIVE, *ENCAPSULATED))
        raise UsageError("this transfer syntax is not written", expected=f"one of {known}", found=syntax.name)
    shape = voxels.shape[:3]
    if voxels.dtype != np.uint8 or shape != geometry.shape or voxels.shape[3:] not in ((), (3,)):
        raise UsageError(
            "the voxels do not fit the geometry",
            expected=f"uint8 {list(geometry.shape)}",
            found=f"{voxels.dtype} {list(voxels.shape)}",
        )
    return syntax


def _uid(*content: object) -> UID:
    """A UID (PS3.5 B.2) that follows from its content."""
    digest = hashlib.sha256("/".join(str(part) for part in ("scanside", *content)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def _ds(value: float) -> str:
    return format_number_as_ds(float(value) + 0.0)


def _header(
    sop_class: UID, geometry: Geometry, vendor: str, laterality: Laterality, view: str, seed: int, kind: str
) -> Dataset:
    manufacturer, model, _ = _VENDORS[vendor]
    series = (sop_class, vendor, laterality, view, geometry.shape, geometry.spacing_mm, seed)
    side = laterality.value.upper() if laterality is not Laterality.UNKNOWN else ""
    dataset = Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = _uid("instance", *series, kind)
    dataset.StudyInstanceUID = _uid("study", seed)
    dataset.SeriesInstanceUID = _uid("series", *series, kind.split(" frame ")[0])
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = _DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = _TIME
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.Modality = "US"
    dataset.Manufacturer, dataset.ManufacturerModelName = manufacturer, model
    dataset.StudyDescription = "Synthetic ABVS exam, research only"
    dataset.SeriesDescription = f"{side} {view}".strip()
    dataset.PatientName, dataset.PatientID = "PHANTOM^SYNTHETIC", f"PHANTOM-{seed}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.BodyPartExamined = "BREAST"
    if laterality in _SIDES:
        dataset.Laterality = _SIDES[laterality]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.BurnedInAnnotation = "NO"
    return dataset


def _set_pixel_module(dataset: Dataset, geometry: Geometry, syntax: UID, photometric: str) -> None:
    dataset.SamplesPerPixel = 1 if photometric == "MONOCHROME2" else 3
    dataset.PhotometricInterpretation = photometric
    if photometric != "MONOCHROME2":
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = geometry.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.LossyImageCompression = "01" if syntax in LOSSY else "00"
    if syntax in LOSSY:
        dataset.LossyImageCompressionMethod = LOSSY[syntax]


def _set_ge_block(
    dataset: Dataset, geometry: Geometry, nipple_mm: Sequence[float] | None, probe_radius_mm: float
) -> None:
    block = dataset.private_block(0x0021, _VENDORS["ge"][2], create=True)
    if nipple_mm is not None:
        block.add_new(0x20, "DS", [_ds(v) for v in reversed(nipple_mm)])
    block.add_new(0x40, "DS", _ds(probe_radius_mm))
    block.add_new(0x41, "DS", _ds(0.0))
    block.add_new(0x62, "DS", _ds(1 / geometry.spacing_mm[2]))
    block.add_new(0x63, "DS", _ds(geometry.extent_mm[1] / 10))


def _oriented(geometry: Geometry) -> Geometry:
    if geometry.patient_from_mm is not None:
        return geometry
    return Geometry(geometry.shape, geometry.spacing_mm, _NOMINAL)


def _orientation(oriented: Geometry) -> list[str]:
    """ImageOrientationPatient (PS3.3 C.7.6.2.1.1): where columns and then rows run in the patient."""
    matrix = oriented.patient_from_mm
    assert matrix is not None
    return [_ds(v) for v in (*matrix[:3, 2], *matrix[:3, 1])]


def _shared_groups(oriented: Geometry, laterality: Laterality) -> Dataset:
    measures, orientation, anatomy, shared = Dataset(), Dataset(), Dataset(), Dataset()
    sweep, depth, lateral = oriented.spacing_mm
    measures.PixelSpacing = [_ds(depth), _ds(lateral)]
    measures.SliceThickness = measures.SpacingBetweenSlices = _ds(sweep)
    orientation.ImageOrientationPatient = _orientation(oriented)
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    if laterality in _SIDES:
        anatomy.FrameLaterality = _SIDES[laterality]
        shared.FrameAnatomySequence = DicomSequence([anatomy])
    return shared


def _override(dataset: Dataset, overrides: Mapping[str, Any] | None) -> None:
    for keyword, value in (overrides or {}).items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)


def _write(path: Path, dataset: Dataset, syntax: UID, frames: Iterable[bytes], n_frames: int) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", US_MULTI_FRAME)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", _uid("instance"))
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = _uid("implementation")
    meta.ImplementationVersionName = "SCANSIDE"
    dataset.file_meta = meta
    with atomic_file(path) as file:
        dcmwrite(file, dataset, enforce_file_format=True)
        if syntax in NATIVE:
            _append_native(file, syntax, frames)
        else:
            _append_encapsulated(file, frames, n_frames)
    return path


def _append_native(file: BinaryIO, syntax: UID, frames: Iterable[bytes]) -> None:
    """PixelData with its length, filled in once the frames are written (PS3.5 8.1.1)."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    file.write(struct.pack(order + "HH", 0x7FE0, 0x0010))
    file.write(b"" if syntax == ImplicitVRLittleEndian else b"OB\0\0")
    length_at = file.tell()
    file.write(b"\0\0\0\0")
    written = 0
    for frame in frames:
        file.write(frame)
        written += len(frame)
    file.write(b"\0" * (written % 2))
    file.seek(length_at)
    file.write(struct.pack(order + "I", written + written % 2))
    file.seek(0, os.SEEK_END)


def _append_encapsulated(file: BinaryIO, frames: Iterable[bytes], n_frames: int) -> None:
    """Encapsulated PixelData, one fragment a frame, with its Basic Offset Table (PS3.5 A.4)."""
    file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    file.write(struct.pack("<HHI", 0xFFFE, 0xE000, 4 * n_frames))
    table_at = file.tell()
    file.write(bytes(4 * n_frames))
    start = file.tell()
    offsets = []
    for frame in frames:
        offsets.append(file.tell() - start)
        file.write(struct.pack("<HHI", 0xFFFE, 0xE000, len(frame) + len(frame) % 2))
        file.write(frame + b"\0" * (len(frame) % 2))
    file.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    file.seek(table_at)
    file.write(struct.pack(f"<{n_frames}I", *offsets))
    file.seek(0, os.SEEK_END)
