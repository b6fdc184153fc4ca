"""Voxels stored as one block in a file, plain or compressed: found at open, read on demand, never trusted.

The size is known from the header before anything is allocated; a stream that ends early or goes on too long is an
`ExamReadError`, and unpacking stops one byte past the expected end.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from scanside.errors import ExamReadError
from scanside.exam.geometry import Geometry
from scanside.exam.readers.intensity import Window, choose_window, label_map_error
from scanside.exam.volume import FrameSource, Volume, VolumeInfo, Voxels

MAX_VOXELS = 1 << 30
_MAX_DEFLATE_RATIO = 1032
_CHUNK_BYTES = 1 << 16

ENCODINGS = ("raw", "gzip", "bzip2", "zlib", "zip")


@dataclass(frozen=True)
class StoredVoxels:
    """Where the voxels of a volume lie in a file and how they are packed.

    Parameters
    ----------
    path : Path
        The file with the data.
    offset : int
        Bytes of `path` before the (packed) data; of the zip member's own header for `zip`.
    encoding : str
        One of `ENCODINGS`.
    dtype : dtype
        As stored, byte order included.
    shape : tuple of int
        (sweep, depth, lateral); lateral is stored fastest.
    skip : int
        Unpacked bytes before the first voxel, for compressed encodings.
    slope, intercept : float
        What a stored value is multiplied with and added to.
    member : str
        The zip member, for `zip`.

    Raises
    ------
    ExamReadError
        More voxels than this package takes, or a file too small (raw: or too large) to hold them.
    """

    path: Path
    offset: int
    encoding: str
    dtype: np.dtype
    shape: tuple[int, int, int]
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    member: str = ""

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or math.prod(self.shape) > MAX_VOXELS:
            raise ExamReadError(
                "the header states an impossible size",
                where=self.path.name,
                expected=f"three axes of at least one voxel, {MAX_VOXELS} voxels at most",
                found=f"{' x '.join(map(str, self.shape))}",
            )
        packed = self.path.stat().st_size - self.offset
        if self.encoding == "raw" and packed != self.n_bytes:
            raise self._size_error(f"{packed} bytes")
        if self.encoding in ("gzip", "zlib") and packed * _MAX_DEFLATE_RATIO < self.n_bytes:
            raise self._size_error(f"{packed} compressed bytes, which cannot hold them")

    @property
    def n_bytes(self) -> int:
        """Bytes of the unpacked voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_uint8(self) -> bool:
        """Whether stored values are the volume's own."""
        return self.dtype == np.uint8 and self.slope == 1 and self.intercept == 0

    def frames(self) -> Iterator[NDArray]:
        """The frames (depth, lateral) in sweep order as stored, slope and intercept applied.

        Raises
        ------
        ExamReadError
            The data end early, go on too long, or cannot be unpacked.
        """
        frame_bytes = self.n_bytes // self.shape[0]
        try:
            with self._stream() as stream:
                for k in range(self.shape[0]):
                    yield self._values(_read_up_to(stream, frame_bytes), k)
                if stream.read(1):
                    raise self._size_error(f"more than {self.n_bytes} bytes")
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise ExamReadError(
                "the voxels cannot be unpacked", where=self.path.name, found=str(error) or type(error).__name__
            ) from error

    def frame(self, k: int) -> NDArray:
        """One frame of a raw block, values as in `frames`."""
        frame_bytes = self.n_bytes // self.shape[0]
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset + k * frame_bytes)
                return self._values(file.read(frame_bytes), k)
        except OSError as error:
            raise ExamReadError("the file cannot be read", where=self.path.name, found=error.strerror) from error

    def _values(self, data: bytes, k: int) -> NDArray:
        if len(data) < self.n_bytes // self.shape[0]:
            raise self._size_error(f"an end inside frame {k}")
        values = np.frombuffer(data, self.dtype).reshape(self.shape[1:])
        return values if self.slope == 1 and self.intercept == 0 else values * self.slope + self.intercept

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        with ExitStack() as stack:
            if self.encoding == "zip":
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                stream = stack.enter_context(archive.open(self.member))
                _read_up_to(stream, self.offset)
            else:
                file = stack.enter_context(open(self.path, "rb"))
                file.seek(self.offset)
                stream = stack.enter_context(_unpacked(file, self.encoding))
            if len(_read_up_to(stream, self.skip)) < self.skip:
                raise self._size_error("fewer bytes than the header skips")
            yield stream

    def _size_error(self, found: str) -> ExamReadError:
        return ExamReadError(
            "the data do not match the header",
            where=self.path.name,
            expected=f"{self.n_bytes} bytes of voxels",
            found=found,
            remedy="copy or export the file again",
        )


def _unpacked(file: IO[bytes], encoding: str) -> IO[bytes]:
    if encoding == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if encoding == "bzip2":
        return cast(IO[bytes], bz2.BZ2File(file))
    if encoding == "zlib":
        return cast(IO[bytes], io.BufferedReader(_Inflated(file)))
    return file


class _Inflated(io.RawIOBase):
    """A zlib stream read piece by piece; what follows its end in the file is handed on, to be found too long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj()
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            data = self._pending or self._file.read(_CHUNK_BYTES)
            if not data:
                raise EOFError("the compressed data end early")
            out = self._inflate.decompress(data, len(buffer))
            self._pending = self._inflate.unconsumed_tail
            if out:
                buffer[: len(out)] = out
                return len(out)
        return 0


def _read_up_to(stream: IO[bytes], count: int) -> bytes:
    """`count` bytes, fewer only at the end of the stream."""
    pieces = []
    while count > 0:
        piece = stream.read(min(count, 1 << 24))
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


class RawFrames:
    """Frames of an uncompressed block: each is read alone, from any thread."""

    def __init__(self, stored: StoredVoxels, window: Window | None) -> None:
        self._stored, self._window = stored, window

    def read(self, k: int, out: Voxels) -> None:
        """Frame `k` into `out`."""
        values = self._stored.frame(k)
        out[...] = values if self._window is None else self._window.to_uint8(values)


class StreamedFrames:
    """Frames of a compressed block: unpacked once, in order, as far as anyone has asked; then kept."""

    def __init__(self, stored: StoredVoxels, window: Window | None) -> None:
        self._stored, self._window = stored, window
        self._lock = Lock()
        self._frames: Iterator[NDArray] | None = None
        self._voxels: Voxels | None = None
        self._ready = 0
        self._error: ExamReadError | None = None

    def read(self, k: int, out: Voxels) -> None:
        """Frame `k` into `out`; a stream that failed once fails again the same way."""
        with self._lock:
            if self._error is not None:
                raise self._error
            try:
                voxels = self._unpack_to(k)
            except ExamReadError as error:
                self._error = error
                raise
        out[...] = voxels[k]

    def _unpack_to(self, k: int) -> Voxels:
        if self._voxels is None:
            try:
                self._voxels = np.empty(self._stored.shape, np.uint8)
            except MemoryError:
                where, found = self._stored.path.name, f"{math.prod(self._stored.shape)} bytes"
                raise ExamReadError("the volume does not fit in memory", where=where, found=found) from None
            self._frames = self._stored.frames()
        while self._ready <= k and self._frames is not None:
            frame = next(self._frames)
            self._voxels[self._ready] = frame if self._window is None else self._window.to_uint8(frame)
            self._ready += 1
            if self._ready == len(self._voxels):
                next(self._frames, None)  # runs into the check that nothing follows
                self._frames = None
        return self._voxels


def volume(
    stored: StoredVoxels,
    geometry: Geometry,
    *,
    format: str,
    source: str,
    geometry_source: str,
    warnings: tuple[str, ...] = (),
) -> Volume:
    """The volume of stored voxels. Reads as many of them as it takes to know what they are.

    8-bit data are looked at until a voxel brighter than 1 shows that they are no label map: as a rule, one frame.
    Deeper data are read once for their window, and gzip data whose trailer denies the header's size are unpacked once.

    Raises
    ------
    ExamReadError
        The data do not match the header, or are a label map.
    """
    window = None
    if stored.is_uint8:
        if _brightest_until(stored, 2) == 1:
            raise label_map_error(source)
        if stored.encoding == "gzip" and not _trailer_agrees(stored):
            for _ in stored.frames():
                pass
    else:
        window = choose_window(stored.frames(), math.prod(stored.shape), where=source)
        warnings = (*warnings, window.warning(stored.dtype.newbyteorder("=")))
    frames: FrameSource = (RawFrames if stored.encoding == "raw" else StreamedFrames)(stored, window)
    return Volume(VolumeInfo(geometry, source, geometry_source, format, warnings=warnings), frames)


def _brightest_until(stored: StoredVoxels, enough: int) -> int:
    """The brightest voxel, looking no further than the first frame that reaches `enough`."""
    brightest = 0
    for frame in stored.frames():
        brightest = max(brightest, int(frame.max()))
        if brightest >= enough:
            break
    return brightest


def _trailer_agrees(stored: StoredVoxels) -> bool:
    """Whether gzip's trailer (RFC 1952, ISIZE) states the expected size; one of several members honestly does not."""
    with open(stored.path, "rb") as file:
        file.seek(-4, io.SEEK_END)
        (size,) = struct.unpack("<I", file.read(4))
    return size == (stored.n_bytes + stored.skip) % 2**32
