"""The volume on a GPU: uploaded once, frame by frame, and cut there into sections of all planes.

Frames go up through two pinned buffers in a stream of their own; whoever cuts waits for them on the GPU, by an event.
Sections are written by one kernel into the buffer that the network reads, so no pixel of them is ever in this
computer's memory. The kernel's pixels are those of `SectionGrid.section` (see `exam.taps`).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.engine.cuda import Argument, Buffer, Device, Event, Kernel, Owned, Stream
from scanside.engine.kernels import SECTION_KERNEL, ptx
from scanside.engine.sections import Window
from scanside.errors import EngineError
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.taps import SectionTaps, Taps
from scanside.exam.volume import Voxels

STAGED_FRAMES = 2
BLOCK = (32, 8)
_ALIGNMENT = 256
_NOTHING = np.zeros((0, 0, 0), np.uint8)


@dataclass(frozen=True)
class _Table:
    """A plane's weights, and where they lie in the buffer of tables: row first, row weights, column first and so on."""

    taps: SectionTaps
    offsets: tuple[int, ...]


class DeviceVolume:
    """Room on a GPU for volumes of one geometry; `begin` starts the next one. See `sections.Source`.

    Parameters
    ----------
    device : Device
    grids : mapping of Plane to SectionGrid
        Of the planes that will be cut.

    Raises
    ------
    EngineError
        The GPU has no room, or refuses a step.
    """

    def __init__(self, device: Device, grids: Mapping[Plane, SectionGrid]) -> None:
        self._device = device
        shape = next(iter(grids.values())).geometry.shape
        self._strides = (shape[1] * shape[2], shape[2], 1)
        self._lock = threading.Lock()
        self._voxels = _NOTHING
        self._here = np.zeros(shape[0], bool)
        self._shows: Mapping[int, NDArray[np.bool_]] = {}
        """For each axis which native slices show anything, once all frames are here."""
        self._staged: list[tuple[NDArray[np.uint8], Event]] = []
        self._stream: Stream | None = None
        self._grids = grids
        self._owned = Owned(device)
        content, self._tables = _packed({plane: SectionTaps.of(grid) for plane, grid in grids.items()})
        with device.active():
            try:
                self._make(shape, content)
            except BaseException:
                self.close()
                raise

    def fits(self, grids: Mapping[Plane, SectionGrid]) -> bool:
        """Whether it was made for grids like these."""
        return _described(grids) == _described(self._grids)

    def begin(self, voxels: Voxels) -> None:
        """From now on `voxels` are uploaded."""
        self._voxels = voxels
        self._here[:] = False
        self._shows = {}

    def end(self) -> None:
        """Forget the volume, of which nothing is being cut any more."""
        self._voxels = _NOTHING

    def cut(self, grid: SectionGrid, window: Window) -> DeviceCut:
        """Make ready to cut a window's sections. Outside the transverse plane its frames must be there."""
        if grid.plane is not Plane.TRANSVERSE:
            self.upload(*self._frames(grid.plane, window))
            if not self._shows and self._here.all():
                shadow = np.bitwise_or.reduce(self._voxels, axis=0) != 0
                self._shows = {1: shadow.any(axis=1), 2: shadow.any(axis=0)}
        return DeviceCut(self, grid, window)

    def upload(self, first: int, end: int) -> None:
        """Start uploading the frames `first` to `end`, the last not included, that have not been so far."""
        with self._lock, self._device.active():
            if self._stream is None:
                raise EngineError("the volume is closed", where=self._device.name)
            for k in (first + np.flatnonzero(~self._here[first:end])).tolist():
                frame, sent = self._staged[k % len(self._staged)]
                sent.synchronize()
                np.copyto(frame, self._voxels[k])
                self._device.copy_in(self._volume, frame, self._stream, offset=k * self._strides[0])
                sent.record(self._stream)
                self._uploaded.record(self._stream)
                self._here[k] = True

    def shows(self, plane: Plane, index: int) -> bool:
        """False where native slice `index` is known to be black all over."""
        if plane is Plane.TRANSVERSE:
            return bool(cv2.hasNonZero(self._voxels[index]))
        shows = self._shows.get(plane.normal)
        return shows is None or bool(shows[index])

    def write(self, sections: DeviceSections, buffer: Buffer, stream: Stream) -> None:
        """Cut `sections` one behind the other into `buffer`, in `stream`."""
        window, plane = sections.window, sections.window.plane
        height, width = window.shape
        grid = tuple(-(-n // size) for n, size in zip((width, height), BLOCK, strict=True))
        stream.wait(self._uploaded)
        common = self._arguments(window)
        for i, index in enumerate(sections.indices):
            native = self._volume.address + index * self._strides[plane.normal]
            places = (ctypes.c_void_p(native), ctypes.c_void_p(buffer.address + i * height * width))
            self._kernel.launch(stream, grid, BLOCK, (*places, *common))  # type: ignore[arg-type]

    def close(self) -> None:
        """Wait for what runs and free everything. Safe to call twice."""
        with self._device.active():
            stream, self._stream = self._stream, None
            if stream is not None:
                with suppress(EngineError):
                    stream.synchronize()
            self._owned.free()

    def _make(self, shape: tuple[int, int, int], content: NDArray[np.uint8]) -> None:
        device, own = self._device, self._owned.push
        self._stream = stream = own(device.stream())
        self._kernel: Kernel = own(device.kernel(ptx(SECTION_KERNEL), "cut_section"))
        self._volume: Buffer = own(device.allocate(int(np.prod(shape))))
        self._weights: Buffer = own(device.allocate(content.nbytes))
        self._uploaded: Event = own(device.event())
        for _ in range(STAGED_FRAMES):
            self._staged.append((self._owned.pinned(shape[1:], np.dtype(np.uint8)), own(device.event())))
        pinned = self._owned.pinned(content.shape, content.dtype)
        np.copyto(pinned, content)
        device.copy_in(self._weights, pinned, stream)
        self._uploaded.record(stream)

    def _arguments(self, window: Window) -> tuple[Argument, ...]:
        table, plane = self._tables[window.plane], window.plane
        base = self._weights.address
        taps = table.taps
        axes = [(taps.columns, plane.columns, table.offsets[2:]), (taps.rows, plane.rows, table.offsets[:2])]
        arguments: list[Argument] = []
        axes = axes[::-1] if taps.rounded else axes  # the inner one, then the outer
        for one, axis, (first, weights) in axes:
            arguments += [
                ctypes.c_void_p(base + first),
                ctypes.c_void_p(base + weights),
                ctypes.c_int(one.weights.shape[1]),
                ctypes.c_int(one.native - 1),
                ctypes.c_longlong(self._strides[axis]),
            ]
        seen = (min(n, whole) for n, whole in zip(window.shape, self._grids[plane].shape, strict=True))
        grows = (int(one.grows) for one, _, _ in axes)
        numbers = (*window.corner, *seen, *window.shape, int(taps.rounded), *grows)
        return (*arguments, *(ctypes.c_int(number) for number in numbers))

    def _frames(self, plane: Plane, window: Window) -> tuple[int, int]:
        taps = self._tables[plane].taps
        along: Taps = taps.rows if plane.rows == 0 else taps.columns
        axis = 0 if plane.rows == 0 else 1
        return along.needs(window.corner[axis], window.corner[axis] + window.shape[axis])


@dataclass(frozen=True)
class DeviceSections:
    """Sections that are cut on the GPU when a runtime takes them; see `runtime.Made`. `indices` are native slices."""

    volume: DeviceVolume
    window: Window
    indices: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.indices), 1, *self.window.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> DeviceSections:
        return replace(self, indices=self.indices[part])

    def make(self, buffer: Buffer, stream: Stream) -> None:
        self.volume.write(self, buffer, stream)


class DeviceCut:
    """One window's sections; see `sections.Cut`."""

    def __init__(self, volume: DeviceVolume, grid: SectionGrid, window: Window) -> None:
        self._volume, self._window = volume, window
        self._indices = grid.indices[list(window.sections)].tolist()

    def section(self, number: int, out: NDArray[np.uint8]) -> bool:
        index = self._indices[number]
        if self._window.plane is Plane.TRANSVERSE:
            self._volume.upload(index, index + 1)
        return self._volume.shows(self._window.plane, index)

    def batch(self, numbers: Sequence[int], pixels: NDArray[np.uint8]) -> DeviceSections:
        return DeviceSections(self._volume, self._window, tuple(self._indices[number] for number in numbers))


class DeviceVolumes:
    """Volumes of one GPU, lent to one run at a time. One stays for the next exam, which then allocates nothing."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._idle: DeviceVolume | None = None
        self._closed = False

    def take(self, grids: Mapping[Plane, SectionGrid]) -> DeviceVolume:
        """Room for a volume that `grids` cut.

        Raises
        ------
        EngineError
            The GPU has no room, or refuses a step.
        """
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None:
            if idle.fits(grids):
                return idle
            idle.close()
        return DeviceVolume(self._device, grids)

    def give_back(self, volume: DeviceVolume) -> None:
        """Its run is over."""
        volume.end()
        with self._lock:
            kept = self._idle is None and not self._closed
            if kept:
                self._idle = volume
        if not kept:
            volume.close()

    def close(self) -> None:
        """Free the volume that waits for an exam; those that are lent go when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()


def _described(grids: Mapping[Plane, SectionGrid]) -> list[object]:
    return [(plane, g.pitch_mm, g.shape, g.geometry.shape, g.geometry.spacing_mm) for plane, g in grids.items()]


def _packed(all_taps: Mapping[Plane, SectionTaps]) -> tuple[NDArray[np.uint8], dict[Plane, _Table]]:
    """All tables in one array of bytes, each aligned, and where they begin."""
    parts: list[NDArray[np.uint8]] = []
    tables, end = {}, 0
    for plane, taps in all_taps.items():
        offsets = []
        for array in (taps.rows.first, taps.rows.weights, taps.columns.first, taps.columns.weights):
            offsets.append(end)
            part = np.zeros(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT, np.uint8)
            part[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            parts.append(part)
            end += part.nbytes
        tables[plane] = _Table(taps, tuple(offsets))
    return np.concatenate(parts), tables
