"""Reformatting: sections of the volume, in a fixed order, in batches of padded network inputs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.engine.flow import Flow
from scanside.engine.runtime import Input
from scanside.engine.slots import Ring, Slot
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Voxels

BLOCK_COLUMNS = 64
SPARE_BUFFERS = 2
"""Besides those the network has under way: one that is being filled, one that is being read."""

Buffers = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Window:
    """What is to be seen of some sections of one plane: a rectangle of `shape` pixels from `corner` (row, column).

    `sections` are numbers of the plane's `SectionGrid`, ascending. `owner` is whose question it is.
    """

    plane: Plane
    sections: tuple[int, ...]
    corner: tuple[int, int]
    shape: tuple[int, int]
    owner: Any = None


@dataclass(frozen=True)
class SectionBatch:
    """Some sections of a window and room for their probabilities.

    `first` counts within the window's sections. `seen` are the rows of the batch that show anything; the others are
    blank, every pixel zero, and need no network. `pixels`, uint8 [len(seen), 1, height, width], are those that are
    seen, each in the top-left corner, the rest zero: an array, or what a GPU cuts by itself. `probability`, uint8
    [count, 1, height, width], is for all. They live in `slot` and must not be used after `release`.
    """

    window: Window
    first: int
    count: int
    seen: tuple[int, ...]
    pixels: Input
    probability: NDArray[np.uint8]
    slot: Slot[Buffers]

    @property
    def plane(self) -> Plane:
        return self.window.plane

    @property
    def blank(self) -> tuple[int, ...]:
        """The rows that are not seen."""
        return tuple(sorted(set(range(self.count)) - set(self.seen)))

    def spread(self, answer: NDArray[np.uint8]) -> None:
        """Move the answers of what is seen from the front of `probability` to their rows; the others get `answer`."""
        for place, row in reversed(list(enumerate(self.seen))):
            self.probability[row] = self.probability[place]
        self.probability[list(self.blank)] = answer

    def release(self) -> None:
        """Give the buffers back."""
        self.slot.free()


class Cut(Protocol):
    """One window's sections on their way into batches."""

    def section(self, number: int, out: NDArray[np.uint8]) -> bool:
        """Take the next section, `number` in the window, into `out` if it is cut here; False if it is all black."""

    def batch(self, numbers: Sequence[int], pixels: NDArray[np.uint8]) -> Input:
        """The sections `numbers`, which lie in `pixels` one behind the other if they are cut here."""


class Source(Protocol):
    """Where sections are cut: this computer, or a GPU that holds the volume."""

    def cut(self, grid: SectionGrid, window: Window) -> Cut:
        """Begin with one window's sections."""


@dataclass(frozen=True)
class HostVolume:
    """A volume in this computer's memory, whose sections are cut here. `remark` says why, if a GPU could have."""

    voxels: Voxels
    remark: str = ""

    def cut(self, grid: SectionGrid, window: Window) -> HostCut:
        return HostCut(self.voxels, grid, window)


class HostCut:
    """See `Cut`."""

    def __init__(self, voxels: Voxels, grid: SectionGrid, window: Window) -> None:
        self._grid = grid
        self._natives = native_slices(voxels, grid.plane, grid.indices[list(window.sections)].tolist())
        row, column = window.corner
        self._rows, self._columns = (min(n, whole) for n, whole in zip(window.shape, grid.shape, strict=True))
        self._part = slice(row, row + self._rows), slice(column, column + self._columns)
        self._whole = window.corner == (0, 0) and (self._rows, self._columns) == grid.shape

    def section(self, number: int, out: NDArray[np.uint8]) -> bool:
        if self._whole:
            self._grid.section_of(next(self._natives), out=out)
        else:
            section = self._grid.section_of(next(self._natives))
            out[...] = 0
            out[: self._rows, : self._columns] = section[self._part]
        return bool(cv2.hasNonZero(out))

    def batch(self, numbers: Sequence[int], pixels: NDArray[np.uint8]) -> Input:
        return pixels[: len(numbers)]


class Arrivals:
    """Which frames are decoded. `mark` is called from decoding threads in any order."""

    def __init__(self, flow: Flow, frames: int) -> None:
        self._flow = flow
        self._here = np.zeros(frames, bool)
        self._count = 0
        self._changed = threading.Condition()
        flow.on_stop(self._wake)

    def mark(self, k: int) -> int:
        """Frame `k` is in place. Returns how many are."""
        with self._changed:
            if not self._here[k]:
                self._here[k] = True
                self._count += 1
            self._changed.notify_all()
            return self._count

    def mark_all(self) -> None:
        """Every frame is in place."""
        with self._changed:
            self._here[:] = True
            self._count = len(self._here)
            self._changed.notify_all()

    def wait(self, k: int) -> None:
        """Wait for frame `k`."""
        self._wait(lambda: bool(self._here[k]))

    def has(self, first: int, end: int) -> bool:
        """Whether the frames `first` to `end`, the last not included, are in place."""
        with self._changed:
            return bool(self._here[first:end].all())

    def wait_range(self, first: int, end: int) -> None:
        """Wait for the frames `first` to `end`, the last not included."""
        self._wait(lambda: bool(self._here[first:end].all()))

    def wait_all(self) -> None:
        """Wait for every frame."""
        self._wait(lambda: self._count == len(self._here))

    def _wait(self, arrived: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._flow.stopping.is_set() or arrived())
        self._flow.check()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Reformatter:
    """Cuts sections of `grids` into batches, each section padded to multiples of `size_multiple`.

    A batch holds `batch` of the smallest plane's sections; of larger ones as many as have no more pixels together (at
    least one), since a network's working memory grows with a batch's pixels and its speed does not. Buffers are made
    at the first use of a shape and go round: `in_flight(height, width)` says how many batches of it the network can
    have under way.
    """

    def __init__(
        self,
        flow: Flow,
        grids: Mapping[Plane, SectionGrid],
        *,
        batch: int,
        size_multiple: int,
        in_flight: Callable[[int, int], int] = lambda height, width: 1,
    ) -> None:
        self._flow = flow
        self._in_flight = in_flight
        self._grids = grids
        self._shapes = {plane: padded_shape(grid.shape, size_multiple) for plane, grid in grids.items()}
        self._batch = batch
        self._smallest = min(height * width for height, width in self._shapes.values())
        self._rings: dict[tuple[int, int], Ring[Buffers]] = {}
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Sections of all planes together."""
        return sum(len(grid) for grid in self._grids.values())

    def whole(self, plane: Plane) -> Window:
        """All sections of `plane`, each whole."""
        return Window(plane, tuple(range(len(self._grids[plane]))), (0, 0), self._shapes[plane])

    def batches(self, source: Source, arrivals: Arrivals, planes: Iterable[Plane]) -> Iterator[SectionBatch]:
        """All sections of `planes` in order; each is cut as soon as the frames it needs are there."""
        for plane in planes:
            if plane is not Plane.TRANSVERSE:
                arrivals.wait_all()
            yield from self.cut(source, self.whole(plane), arrivals)

    def cut(self, source: Source, window: Window, arrivals: Arrivals) -> Iterator[SectionBatch]:
        """The sections of one window in batches. Waits for frames in the transverse plane alone."""
        plane, grid = window.plane, self._grids[window.plane]
        indices = grid.indices[list(window.sections)].tolist()
        cut = source.cut(grid, window)
        ring, size = self._ring(window.shape), self._size(window.shape)
        for first in range(0, len(indices), size):
            count = min(size, len(indices) - first)
            slot = ring.take()
            pixels, probability = slot.buffers
            seen: list[int] = []
            for i in range(count):
                if plane is Plane.TRANSVERSE:
                    arrivals.wait(indices[first + i])
                self._flow.check()
                with self._flow.trace.span("reformat", plane=plane.value, section=window.sections[first + i]):
                    if cut.section(first + i, pixels[len(seen), 0]):
                        seen.append(i)
            taken = cut.batch([first + i for i in seen], pixels)
            yield SectionBatch(window, first, count, tuple(seen), taken, probability[:count], slot)

    def _size(self, shape: tuple[int, int]) -> int:
        return max(1, self._batch * self._smallest // (shape[0] * shape[1]))

    def _ring(self, shape: tuple[int, int]) -> Ring[Buffers]:
        with self._lock:
            if shape not in self._rings:
                longest = max(len(grid) for grid in self._grids.values())
                full = (min(self._size(shape), longest), 1, *shape)
                self._rings[shape] = Ring(
                    self._flow,
                    self._in_flight(*shape) + SPARE_BUFFERS,
                    lambda: (np.zeros(full, np.uint8), np.zeros(full, np.uint8)),
                )
            return self._rings[shape]


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The smallest (height, width) of whole multiples that holds `shape`."""
    height, width = (-(-n // multiple) * multiple for n in shape)
    return height, width


def native_slices(voxels: Voxels, plane: Plane, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Native slices of `plane`, contiguous (rows, columns), in the ascending order of `indices`."""
    if plane is Plane.SAGITTAL:
        return _sagittal_slices(voxels, indices)
    return (np.ascontiguousarray(plane.slice(voxels, index)) for index in indices)


def _sagittal_slices(voxels: Voxels, laterals: Iterable[int]) -> Iterator[NDArray[np.uint8]]:
    """Native sagittal slices (depth, sweep), a block of neighbouring laterals transposed at a time.

    One slice alone touches every cache line of the volume for one byte; a block reads each line once for all of its
    slices.
    """
    sweep, depth, lateral = voxels.shape
    rows = voxels.reshape(sweep * depth, lateral)
    for block in _blocks(laterals):
        columns = cv2.transpose(rows[:, block[0] : block[-1] + 1])
        for index in block:
            yield cv2.transpose(columns[index - block[0]].reshape(sweep, depth))


def _blocks(indices: Iterable[int]) -> Iterator[list[int]]:
    block: list[int] = []
    for index in indices:
        if block and index - block[0] >= BLOCK_COLUMNS:
            yield block
            block = []
        block.append(index)
    if block:
        yield block
