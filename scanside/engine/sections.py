"""Reformatting: the volume's sections of all planes, in a fixed order, in batches of padded network inputs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.engine.flow import Channel, Flow
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Voxels

BLOCK_COLUMNS = 64
POOL_BUFFERS = 3


@dataclass(frozen=True)
class SectionBatch:
    """Sections `first` to `first + count` of one plane and room for their probabilities.

    `pixels` and `probability` are uint8 [count, 1, height, width]; a section lies in the top-left corner, the rest is
    zero. `buffers` goes back to `pool` when the batch has been used.
    """

    plane: Plane
    first: int
    count: int
    pixels: NDArray[np.uint8]
    probability: NDArray[np.uint8]
    buffers: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    pool: Channel[Any]

    def release(self) -> None:
        """Give the buffers back. The arrays must not be used afterwards."""
        self.pool.put(self.buffers)


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

    def wait_all(self) -> None:
        """Wait for every frame."""
        self._wait(lambda: self._count == len(self._here))

    def _wait(self, arrived: Any) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._flow.stopping.is_set() or arrived())
        self._flow.check()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Reformatter:
    """Cuts the sections of `grids` into batches, each section padded to multiples of `size_multiple`.

    A batch holds `batch` of the smallest plane's sections; of larger ones as many as have no more pixels together (at
    least one), since a network's working memory grows with a batch's pixels and its speed does not.
    """

    def __init__(self, flow: Flow, grids: Mapping[Plane, SectionGrid], *, batch: int, size_multiple: int) -> None:
        self._flow = flow
        self._grids = grids
        self._shapes = {plane: padded_shape(grid.shape, size_multiple) for plane, grid in grids.items()}
        smallest = min(height * width for height, width in self._shapes.values())
        self._batches = {s: max(1, batch * smallest // (s[0] * s[1])) for s in self._shapes.values()}
        self._pools: dict[tuple[int, int], Channel[Any]] = {}
        for shape, count in self._batches.items():
            longest = max(len(grid) for plane, grid in grids.items() if self._shapes[plane] == shape)
            full = (min(count, longest), 1, *shape)
            self._pools[shape] = flow.channel(POOL_BUFFERS)
            for _ in range(POOL_BUFFERS):
                self._pools[shape].put((np.zeros(full, np.uint8), np.zeros(full, np.uint8)))

    @property
    def total(self) -> int:
        """Sections of all planes together."""
        return sum(len(grid) for grid in self._grids.values())

    def batches(self, voxels: Voxels, arrivals: Arrivals) -> Iterator[SectionBatch]:
        """All batches in plane and section order; a section is cut as soon as the frames it needs are there."""
        for plane, grid in self._grids.items():
            pool, size = self._pools[self._shapes[plane]], self._batches[self._shapes[plane]]
            if plane is not Plane.TRANSVERSE:
                arrivals.wait_all()
            natives = native_slices(voxels, grid)
            for first in range(0, len(grid), size):
                count = min(size, len(grid) - first)
                buffers = pool.take()
                batch = SectionBatch(plane, first, count, buffers[0][:count], buffers[1][:count], buffers, pool)
                for i in range(count):
                    if plane is Plane.TRANSVERSE:
                        arrivals.wait(int(grid.indices[first + i]))
                    self._flow.check()
                    with self._flow.trace.span("reformat", plane=plane.value, section=first + i):
                        grid.section_of(next(natives), out=batch.pixels[i, 0])
                yield batch


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The smallest (height, width) of whole multiples that holds `shape`."""
    height, width = (-(-n // multiple) * multiple for n in shape)
    return height, width


def native_slices(voxels: Voxels, grid: SectionGrid) -> Iterator[NDArray[np.uint8]]:
    """The native slice of each section of `grid`, contiguous (rows, columns), in order."""
    if grid.plane is Plane.SAGITTAL:
        return _sagittal_slices(voxels, grid.indices.tolist())
    return (np.ascontiguousarray(grid.plane.slice(voxels, index)) for index in grid.indices.tolist())


def _sagittal_slices(voxels: Voxels, laterals: list[int]) -> Iterator[NDArray[np.uint8]]:
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
