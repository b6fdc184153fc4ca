"""A tiny exam, and the ways in which the DICOM files made from it are spoilt."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import Tag

from scanside.exam.geometry import Geometry
from scanside.exam.volume import Voxels
from scanside.exam.write import write_dicom

SHAPE = (6, 32, 40)
SPACING_MM = (1.0, 0.4, 0.6)
ORIENTATION = np.array([[0, 0.6, 0.8, -12.5], [0, -0.8, 0.6, 40.25], [1, 0, 0, 7.0], [0, 0, 0, 1]])


def smooth(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Voxels:
    """Asymmetric frames that lossy codecs keep well; no two are alike."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    values = 40 + 60 * z + 80 * y * (1 - x) + 40 * np.sin(6 * x + 3 * z + seed)
    return np.clip(values, 0, 255).astype(np.uint8)


class DicomMaker:
    """Writes the tiny exam as DICOM, and edits the files afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.voxels = smooth()
        self.geometry = Geometry(SHAPE, SPACING_MM, ORIENTATION)

    def exam(self, name: str = "exam.dcm", voxels: Voxels | None = None, **options: Any) -> Path:
        """A multi-frame file."""
        voxels = self.voxels if voxels is None else voxels
        geometry = Geometry(voxels.shape[:3], SPACING_MM)
        return write_dicom(self.folder / name, voxels, geometry, **options)

    def edit(self, path: Path, **changes: Any) -> Path:
        """Change elements by keyword: None deletes, bytes are stored as they are, others are set as values."""
        data = path.read_bytes()
        with open(path, "rb") as file:
            dataset = dcmread(file, stop_before_pixels=True)
            start = file.tell()
        little = dataset.original_encoding[1]
        for keyword, value in changes.items():
            tag = Tag(tag_for_keyword(keyword))
            if value is None:
                del dataset[tag]
            elif isinstance(value, bytes):
                padded = value + b" " * (len(value) % 2)
                vr = dictionary_VR(tag)
                dataset[tag] = RawDataElement(tag, vr, len(padded), padded, 0, dataset.original_encoding[0], little)
            else:
                setattr(dataset, keyword, value)
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        path.write_bytes(buffer.getvalue() + data[start:])
        return path

    def declare_syntax(self, path: Path, uid: str) -> Path:
        """Change what the file says of its encoding, and nothing else."""
        meta = read_file_meta_info(path)
        data = path.read_bytes()
        body = data[132 + 12 + meta.FileMetaInformationGroupLength :]
        meta.TransferSyntaxUID = uid
        buffer = io.BytesIO()
        write_file_meta_info(buffer, meta)
        path.write_bytes(data[:132] + buffer.getvalue() + body)
        return path

    def pixel_start(self, path: Path) -> int:
        """Where the pixel element's tag stands in the file."""
        with open(path, "rb") as file:
            dcmread(file, stop_before_pixels=True)
            return file.tell()

    def items(self, path: Path) -> list[bytes]:
        """The items of encapsulated pixel data: the offset table, then the fragments."""
        data = path.read_bytes()
        at = self.pixel_start(path) + 12
        found = []
        while data[at : at + 4] == b"\xfe\xff\x00\xe0":
            (length,) = struct.unpack_from("<I", data, at + 4)
            found.append(data[at + 8 : at + 8 + length])
            at += 8 + length
        return found

    def with_items(self, path: Path, items: list[bytes]) -> Path:
        """Replace the items of encapsulated pixel data."""
        head = path.read_bytes()[: self.pixel_start(path) + 12]
        body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
        path.write_bytes(head + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
        return path


@pytest.fixture
def dicom(tmp_path: Path) -> DicomMaker:
    """Writes tiny DICOM exams into the test's folder."""
    return DicomMaker(tmp_path)


@pytest.fixture
def smooth_voxels() -> Callable[..., Voxels]:
    """Makes smooth asymmetric voxels."""
    return smooth
