"""A sweep that arrives while it is made: files that fill a folder, or raw frames on a stream.

Both give what `scanside.engine.live.Session` wants: what is known of the sweep before its first frame, then
(index, frame) pairs. A sweep ends when all its frames have come or its source says so. Before its first frame a source
may be silent for `wait_s`, since a scanner is readied for minutes; after it one that says nothing for `timeout_s` has
stalled. Both are errors.

A **stream** is one line of JSON, ``{"shape": [sweep, depth, lateral], "spacing_mm": [sweep, depth, lateral]}`` with
``laterality`` and ``view`` if known, and after it the frames in sweep order, each depth x lateral bytes of grey. The
end of the file is the end of the sweep.

A **folder** fills with one file a frame, DICOM Ultrasound Images (placed by InstanceNumber, from 1) or 8-bit grey PNG
(placed by the last number of the name, from 0 or 1). A file is taken once its size rests between two looks; names that
begin with a dot or end in .part or .tmp are left alone. ``sweep.json`` in it may state what the line of a stream
states. A file called ``end`` ends the sweep.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from scanside.errors import Cancelled, ExamReadError, GeometryError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Laterality, VolumeInfo, Voxels

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_WAIT_S = 600.0
END_NAME = "end"
HEADER_NAME = "sweep.json"
MAX_HEADER_BYTES = 65_536
SETTLE_S = 1.0
"""How long a file may be unreadable before it is taken for damaged: its writer may pause."""
_POLL_S = 0.05
_NUMBER = re.compile(r"(\d+)\D*\Z")

Frame = tuple[int, Voxels]
Spacing = tuple[float, float, float]


def info_from_header(content: Any, source: str, where: str) -> VolumeInfo:
    """What the JSON header of a sweep states.

    Raises
    ------
    ExamReadError
        It is no such header.
    GeometryError
        Its shape or spacing is unusable.
    """
    fits = isinstance(content, Mapping) and all(
        isinstance(content.get(key), list)
        and len(content[key]) == 3
        and all(isinstance(v, kinds) and not isinstance(v, bool) for v in content[key])
        for key, kinds in (("shape", int), ("spacing_mm", (int, float)))
    )
    if not fits:
        raise ExamReadError(
            "the header of the sweep makes no sense",
            where=where,
            expected='{"shape": [sweep, depth, lateral], "spacing_mm": [sweep, depth, lateral]}',
            found=json.dumps(content)[:100],
        )
    side = str(content.get("laterality", "unknown"))
    if side not in Laterality.__members__.values():
        raise ExamReadError("unknown laterality", where=where, expected="left | right | unknown", found=side[:40])
    return VolumeInfo(
        Geometry(tuple(content["shape"]), tuple(content["spacing_mm"])),  # type: ignore[arg-type]
        source,
        "the sweep's header",
        "live",
        laterality=Laterality(side),
        laterality_source="the sweep's header" if side != "unknown" else "none",
        view=str(content.get("view", "unknown"))[:40],
    )


class StreamSweep:
    """Raw frames on a file descriptor; see the module.

    Parameters
    ----------
    descriptor : int
        Open for reading, in binary.
    timeout_s, wait_s : float
        Longest silence after the first frame, and before it.
    cancel : Event, optional
        Stops the waiting.

    Raises
    ------
    ExamReadError
        No usable header.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        wait_s: float = DEFAULT_WAIT_S,
        cancel: Event | None = None,
    ) -> None:
        self._descriptor, self._cancel = descriptor, cancel or Event()
        self._silence = _Silence("stream", timeout_s, wait_s)
        self._ahead = b""
        self.info = info_from_header(self._header(), "stream", "standard input: the first line")

    def frames(self) -> Iterator[Frame]:
        """The frames in order.

        Raises
        ------
        ExamReadError
            The source stalled, ended inside a frame, or gave more than the sweep has.
        Cancelled
            `cancel` was set.
        """
        count, *shape = self.info.geometry.shape
        for k in range(count):
            frame = np.empty(shape, np.uint8)
            view, done = frame.data.cast("B"), 0
            while done < len(view):
                data = self._read(len(view) - done)
                if not data:
                    if done:
                        raise ExamReadError(
                            "the stream ended inside a frame",
                            where=f"stream: frame {k}",
                            expected=f"{len(view)} bytes",
                            found=done,
                        )
                    return
                view[done : done + len(data)] = data
                done += len(data)
                self._silence.heard()
            yield k, frame
            self._silence.heard()
        if self._read(1):
            raise ExamReadError("the stream goes on after the last frame", where="stream", expected=f"{count} frames")

    def _header(self) -> Any:
        line = b""
        while b"\n" not in line:
            data = self._read(4096)
            line += data
            if not data or len(line) > MAX_HEADER_BYTES:
                raise ExamReadError(
                    "the stream has no header", where="standard input", expected="one line of JSON", found=line[:60]
                )
        line, _, self._ahead = line.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            raise ExamReadError(
                "the stream has no header", where="standard input", expected="one line of JSON", found=line[:60]
            ) from None

    def _read(self, most: int) -> bytes:
        """Some bytes, at most `most`; none at the end."""
        if self._ahead:
            data, self._ahead = self._ahead[:most], self._ahead[most:]
            return data
        while os.name == "posix" and not select.select([self._descriptor], [], [], _POLL_S)[0]:
            _heed(self._cancel)
            self._silence.check()
        _heed(self._cancel)
        return os.read(self._descriptor, most)


def opener(
    source: str,
    *,
    frames: int | None = None,
    spacing_mm: Spacing | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    wait_s: float = DEFAULT_WAIT_S,
    cancel: Event | None = None,
) -> Callable[[], StreamSweep | FolderSweep]:
    """What opens the sweep of `source`: "-" is standard input, anything else a folder."""

    def open_sweep() -> StreamSweep | FolderSweep:
        if source == "-":
            return StreamSweep(sys.stdin.fileno(), timeout_s=timeout_s, wait_s=wait_s, cancel=cancel)
        return FolderSweep(
            Path(source), frames=frames, spacing_mm=spacing_mm, timeout_s=timeout_s, wait_s=wait_s, cancel=cancel
        )

    return open_sweep


@dataclass(frozen=True)
class _Picture:
    """One frame's file: its place, its pixels, and what a DICOM header says besides."""

    index: int
    pixels: Voxels
    info: VolumeInfo | None = None


class FolderSweep:
    """Files that fill a folder; see the module. Making one waits for the first frame.

    Parameters
    ----------
    folder : Path
        Exists already; what is in it belongs to the sweep.
    frames : int, optional
        How many will come, where ``sweep.json`` does not say.
    spacing_mm : tuple of float, optional
        Voxel size, for what neither ``sweep.json`` nor a DICOM header states.
    timeout_s, wait_s : float
        Longest silence after the first frame, and before it.
    cancel : Event, optional
        Stops the waiting.

    Raises
    ------
    ExamReadError
        Nothing came, or the first file is no frame.
    GeometryError
        Number of frames or spacing stated nowhere.
    """

    def __init__(
        self,
        folder: Path,
        *,
        frames: int | None = None,
        spacing_mm: Spacing | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        wait_s: float = DEFAULT_WAIT_S,
        cancel: Event | None = None,
    ) -> None:
        if not folder.is_dir():
            raise ExamReadError("there is no such folder", where=folder)
        self._folder, self._cancel = folder, cancel or Event()
        self._silence = _Silence(folder.name, timeout_s, wait_s)
        self._spacing_mm = spacing_mm
        self._resting: dict[str, tuple[int, int]] = {}
        self._taken: set[str] = set()
        self._unread: dict[str, float] = {}
        self._base: int | None = None
        self._first = next(self._pictures(), None)
        if self._first is None:
            raise ExamReadError("the sweep ended before its first frame", where=folder.name)
        self._silence.heard()
        self.info = self._info(self._first, frames)

    def frames(self) -> Iterator[Frame]:
        """The frames as they come.

        Raises
        ------
        ExamReadError
            The source stalled, or a file is no frame of this sweep.
        Cancelled
            `cancel` was set.
        """
        assert self._first is not None
        yield self._first.index, self._first.pixels
        self._silence.heard()
        left = self.info.geometry.shape[0] - 1
        pictures = self._pictures() if left else iter(())
        for picture in pictures:
            yield picture.index, picture.pixels
            left -= 1
            if not left:
                return

    def _info(self, first: _Picture, frames: int | None) -> VolumeInfo:
        header = self._folder / HEADER_NAME
        if header.is_file():
            try:
                content = json.loads(header.read_bytes()[:MAX_HEADER_BYTES])
            except ValueError:
                raise ExamReadError("the header of the sweep is no JSON", where=HEADER_NAME) from None
            return info_from_header(content, self._folder.name, HEADER_NAME)
        if frames is None:
            raise GeometryError(
                "how many frames the sweep will have is stated nowhere",
                where=self._folder.name,
                expected=f"--frames N, or {HEADER_NAME} in the folder",
            )
        if first.info is not None:
            geometry = replace(first.info.geometry, shape=(frames, *first.pixels.shape), patient_from_mm=None)
            return replace(first.info, geometry=geometry, source=self._folder.name, sop_instance_uids=())
        if self._spacing_mm is None:
            raise GeometryError(
                "PNG files state no spacing",
                where=self._folder.name,
                expected=f"--spacing SWEEP,DEPTH,LATERAL, or {HEADER_NAME} in the folder",
            )
        geometry = Geometry((frames, *first.pixels.shape), self._spacing_mm)  # type: ignore[arg-type]
        return VolumeInfo(geometry, self._folder.name, "the caller's spacing_mm", "PNG files")

    def _pictures(self) -> Iterator[_Picture]:
        """New files in the order of their names at each look, until the end is said."""
        while True:
            ending = (self._folder / END_NAME).exists()
            names = self._ready()
            for name in names:
                picture = self._tried(name)
                if picture is not None:
                    self._taken.add(name)
                    yield picture
                    self._silence.heard()
            if ending and not self._listed():
                return
            _heed(self._cancel)
            self._silence.check()
            self._cancel.wait(_POLL_S)

    def _listed(self) -> dict[str, tuple[int, int]]:
        """Files that have not been taken: (size, time of change) by name."""
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") or entry.name.endswith((".part", ".tmp"))
                if hidden or entry.name in (END_NAME, HEADER_NAME) or entry.name in self._taken or not entry.is_file():
                    continue
                state = entry.stat()
                found[entry.name] = (state.st_size, state.st_mtime_ns)
        return found

    def _ready(self) -> list[str]:
        """Names of files whose size has rested since the last look."""
        listed = self._listed()
        ready = [name for name, state in listed.items() if state[0] and self._resting.get(name) == state]
        self._resting = listed
        return sorted(ready)

    def _tried(self, name: str) -> _Picture | None:
        """The frame in a file; None while it may still be on its way: unreadable, but changed only now."""
        try:
            return self._read(name)
        except (ExamReadError, OSError) as error:
            begun = self._unread.setdefault(name, time.monotonic())
            if time.monotonic() - begun < SETTLE_S:
                return None
            if isinstance(error, OSError):
                raise ExamReadError("the file cannot be read", where=name, found=error.strerror) from error
            raise

    def _read(self, name: str) -> _Picture:
        path = self._folder / name
        with open(path, "rb") as file:
            head = file.read(132)
        if head.startswith(b"\x89PNG"):
            return self._png(path)
        if head[128:] == b"DICM":
            return self._dicom(path)
        raise ExamReadError("the file is no frame", where=name, expected="a DICOM or PNG file", found=head[:8])

    def _png(self, path: Path) -> _Picture:
        import cv2

        number = _NUMBER.search(path.stem)
        if number is None:
            raise ExamReadError("the name has no number", where=path.name, expected="for example frame-0001.png")
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2:
            found = "damaged" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
            raise ExamReadError("the picture is no frame", where=path.name, expected="8-bit grey", found=found)
        value = int(number.group(1))
        if self._base is None:  # the first look decides whether names count from 0 or 1
            self._base = min(1, value)
        return _Picture(value - self._base, np.ascontiguousarray(pixels, np.uint8))

    def _dicom(self, path: Path) -> _Picture:
        from scanside.exam.readers.dicom import assemble, check_object
        from scanside.exam.readers.dicom_file import read_dicom_file
        from scanside.exam.readers.dicom_pixels import PixelData

        file = read_dicom_file(path, path.name)
        check_object(file)
        number = file.header.integer("InstanceNumber")
        if number is None:
            raise ExamReadError("the frame has no InstanceNumber", where=path.name)
        pixels = PixelData(file)
        if pixels.count != 1 or pixels.form.bits_allocated != 8:
            raise ExamReadError(
                "a live sweep takes single 8-bit frames",
                where=path.name,
                found=f"{pixels.count} frames of {pixels.form.bits_allocated} bits",
            )
        volume = assemble(file, [(pixels, 0)], None, self._spacing_mm, ())
        return _Picture(number - 1, volume.decode(threads=1)[0], volume.info)


def _heed(cancel: Event) -> None:
    if cancel.is_set():
        raise Cancelled("stopped by the caller")


class _Silence:
    """How long a source has said nothing, and whether that is too long: `wait_s` before its first frame begins."""

    def __init__(self, where: str, timeout_s: float, wait_s: float) -> None:
        self._where, self._timeout_s, self._wait_s = where, timeout_s, wait_s
        self._begun = False
        self._last = time.monotonic()

    def heard(self) -> None:
        """Something of a frame came."""
        self._begun = True
        self._last = time.monotonic()

    def check(self) -> None:
        """Raise if the silence is too long."""
        if time.monotonic() - self._last <= (self._timeout_s if self._begun else self._wait_s):
            return
        if not self._begun:
            raise ExamReadError(
                "no frame came",
                where=self._where,
                expected=f"the first within {self._wait_s:g} s",
                found="nothing",
                remedy="a sweep that begins later needs a longer --wait",
            )
        raise ExamReadError(
            "the source has stalled",
            where=self._where,
            expected=f"a frame within {self._timeout_s:g} s",
            found="nothing",
            remedy="what came has been kept; a slower source needs a longer --timeout",
        )
