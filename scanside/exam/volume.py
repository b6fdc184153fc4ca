"""An exam as the scanner made it: volumes whose headers are known and whose frames are decoded on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.errors import Cancelled, ExamReadError
from scanside.exam.geometry import Geometry

Voxels = NDArray[np.uint8]


class Laterality(StrEnum):
    LEFT = "left"
    RIGHT = "right"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """What `scanside inspect` says of a volume."""

    READY = "ready"
    DEGRADED = "degraded"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class VendorProfile:
    """Which scanner's habits were recognised, how surely (0 to 1), and why."""

    name: str = "generic"
    confidence: float = 0.0
    reason: str = "no vendor marks in the header"


@dataclass(frozen=True)
class VolumeInfo:
    """Everything known of a volume before a pixel is decoded.

    `geometry_source` and `laterality_source` name where the values came from; `nipple_mm` is in the volume's mm frame.
    `verdict` is `degraded` when a warning may change the findings; a refused volume is an `ExamReadError` instead,
    or, inside an exam of several volumes, an entry of `Exam.refused`.
    """

    geometry: Geometry
    source: str
    geometry_source: str
    format: str
    laterality: Laterality = Laterality.UNKNOWN
    laterality_source: str = "none"
    view: str = "unknown"
    profile: VendorProfile = field(default_factory=VendorProfile)
    sop_instance_uids: tuple[str, ...] = ()
    nipple_mm: tuple[float, float, float] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return Verdict.DEGRADED if self.warnings else Verdict.READY


class FrameSource(Protocol):
    """Where the pixels of a volume come from. `read` is called from several threads at once."""

    def read(self, k: int, out: Voxels) -> None:
        """Decode frame `k` into `out`, uint8 (depth, lateral)."""


class ArrayFrames:
    """Frames of an array already in memory, shape (sweep, depth, lateral)."""

    def __init__(self, voxels: Voxels) -> None:
        self.voxels = voxels

    def read(self, k: int, out: Voxels) -> None:
        out[...] = self.voxels[k]


@dataclass(frozen=True)
class Volume:
    """One sweep of the scanner: what is known of it, and its frames."""

    info: VolumeInfo
    source: FrameSource

    @classmethod
    def from_array(
        cls,
        voxels: Voxels,
        spacing_mm: tuple[float, float, float],
        *,
        laterality: Laterality = Laterality.UNKNOWN,
        source: str = "array",
    ) -> Volume:
        """A volume from a uint8 array (sweep, depth, lateral) and its voxel size in mm in the same order.

        Raises
        ------
        ExamReadError
            The array is not 3-D uint8.
        GeometryError
            The spacing is unusable.
        """
        voxels = np.asarray(voxels)
        if voxels.ndim != 3 or voxels.dtype != np.uint8:
            raise ExamReadError(
                "the array is no volume",
                where=source,
                expected="uint8 [sweep, depth, lateral]",
                found=f"{voxels.dtype} {list(voxels.shape)}",
            )
        geometry = Geometry(voxels.shape, spacing_mm)  # type: ignore[arg-type]
        info = VolumeInfo(
            geometry,
            source,
            "the caller's spacing_mm",
            "array",
            laterality=laterality,
            laterality_source="the caller" if laterality is not Laterality.UNKNOWN else "none",
        )
        return cls(info, ArrayFrames(voxels))

    @property
    def geometry(self) -> Geometry:
        return self.info.geometry

    def with_warning(self, text: str) -> Volume:
        """The same volume with one more warning."""
        return replace(self, info=replace(self.info, warnings=(*self.info.warnings, text)))

    def empty_voxels(self) -> Voxels:
        """Memory for the decoded volume, not yet filled.

        Raises
        ------
        ExamReadError
            It does not fit in memory.
        """
        try:
            return np.empty(self.geometry.shape, np.uint8)
        except MemoryError:
            raise ExamReadError(
                "the volume does not fit in memory", where=self.info.source, found=f"{self.geometry.bytes} bytes"
            ) from None

    def frames(self) -> Iterator[Voxels]:
        """Frames in sweep order, each a fresh uint8 (depth, lateral) array."""
        sweep, depth, lateral = self.geometry.shape
        for k in range(sweep):
            frame = np.empty((depth, lateral), np.uint8)
            self.source.read(k, frame)
            yield frame

    def decode(
        self,
        *,
        threads: int | None = None,
        on_frame: Callable[[int], None] | None = None,
        cancel: Event | None = None,
        out: Voxels | None = None,
    ) -> Voxels:
        """All frames, decoded in parallel into one preallocated uint8 volume (sweep, depth, lateral).

        `on_frame(k)` is called from a decoding thread when frame `k` is in place; frames may finish out of order.
        With `out` (see `empty_voxels`) the frames go there, so that a caller can use them as they arrive.

        Raises
        ------
        ExamReadError
            A frame cannot be decoded.
        Cancelled
            `cancel` was set.
        """
        if isinstance(self.source, ArrayFrames) and on_frame is None and out is None:
            return np.ascontiguousarray(self.source.voxels)
        voxels = self.empty_voxels() if out is None else out
        stop = Event()

        def read(k: int) -> None:
            if stop.is_set() or (cancel is not None and cancel.is_set()):
                return
            try:
                self.source.read(k, voxels[k])
                if on_frame is not None:
                    on_frame(k)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="scanside-decode") as pool:
            jobs = [pool.submit(read, k) for k in range(len(voxels))]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            stop.set()
            for job in done:
                job.result()
        if cancel is not None and cancel.is_set():
            raise Cancelled("stopped while decoding", where=self.info.source)
        return voxels


@dataclass(frozen=True, slots=True)
class Refusal:
    """A volume or file that was looked at and not taken, and why."""

    source: str
    error: ExamReadError


@dataclass(frozen=True)
class Exam:
    """The volumes of one patient found under one path.

    `refused` are exam files that cannot be used; `ignored` are files that are no exam at all (notes, pictures, masks,
    copies), each with its reason.
    """

    source: Path
    volumes: tuple[Volume, ...]
    refused: tuple[Refusal, ...] = ()
    ignored: tuple[Refusal, ...] = ()

    def only(self) -> Volume:
        """The exam's single volume.

        Raises
        ------
        ExamReadError
            There are several; analyse the study instead.
        """
        if len(self.volumes) != 1:
            raise ExamReadError(
                "the exam holds several volumes",
                where=self.source,
                expected="one volume",
                found=f"{len(self.volumes)}",
                remedy="use analyze_study(), or pick one of open_exam(path).volumes",
            )
        return self.volumes[0]
