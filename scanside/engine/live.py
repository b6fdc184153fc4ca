"""A sweep that is analysed while the scanner makes it: frames are pushed, findings appear, the report comes at the end.

Back-pressure: none reaches the scanner. The volume's memory is there from the start, so `push` copies the frame into
its place and returns; it never waits for the analysis and never drops a frame. What is behind is the analysis, and
`finish` waits for it. The report is the one that `analyze` gives for the same frames under the same policy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scanside.engine.flow import Progress
from scanside.engine.pipeline import Findings, OnLesions, Run
from scanside.errors import Cancelled, ExamReadError, UsageError
from scanside.exam.volume import VolumeInfo
from scanside.report.model import Report

if TYPE_CHECKING:
    from scanside.engine.predictor import Predictor

_POLL_S = 0.05


class Session:
    """One sweep; made by `Predictor.start`. All methods may be called from any thread.

    It is a context manager: leaving it without `finish` cancels the run. Whoever holds a session ends it, by `finish`,
    by `cancel` or by leaving the context; until then its threads wait for frames.
    """

    def __init__(
        self,
        predictor: Predictor,
        info: VolumeInfo,
        *,
        progress: Callable[[Progress], object] | None = None,
        on_lesions: OnLesions | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self.info = info
        try:
            self.voxels = np.zeros(info.geometry.shape, np.uint8)
        except MemoryError:
            raise ExamReadError(
                "the sweep does not fit in memory", where=info.source, found=f"{info.geometry.bytes} bytes"
            ) from None
        self._predictor = predictor
        self._run = Run(
            info.geometry,
            self.voxels,
            predictor.segmenter,
            predictor.classifier,
            policy=predictor.policy,
            explain=predictor.explain,
            progress=progress,
            on_lesions=on_lesions,
            cancel=cancel,
        )
        self._here = np.zeros(len(self.voxels), bool)
        self._next = 0
        self._closed = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._found: Findings | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="scanside-live", daemon=True)
        self._thread.start()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def missing(self) -> int:
        """How many frames have not come yet."""
        return int((~self._here).sum())

    @property
    def looked_at(self) -> dict[str, int]:
        """How many sections of each plane have been answered so far."""
        return {plane.value: n for plane, n in self._run.sections.items()}

    def push(self, frame: NDArray[np.uint8], index: int | None = None) -> None:
        """Take one frame; it is copied, so the caller may use its memory again.

        Parameters
        ----------
        frame : uint8 array (depth, lateral)
            As acquired.
        index : int, optional
            Its place in the sweep, from 0; the one after the last pushed if absent. Frames may come in any order.

        Raises
        ------
        ExamReadError
            A frame of another size or type, one that came before, or one too many. The sweep can go on without it.
        UsageError
            The session has ended.
        ScansideError, or what a callback raised
            The analysis has failed.
        """
        with self._lock:
            if self._over.is_set() and self._error is not None:
                raise self._error
            if self._closed:
                raise UsageError("the sweep has ended", where=self.info.source, found="another frame")
            k = self._next if index is None else index
            self._refuse(frame, k)
            with self._run.flow.trace.span("decode", frame=k):
                self.voxels[k] = frame
            self._here[k] = True
            self._next = k + 1
            done = self._run.arrivals.mark(k)
        try:
            self._run.flow.report("decode", done, len(self.voxels))
        except BaseException as error:
            self._run.flow.fail(error)
            raise

    def finish(self) -> Report:
        """Say that no more frames come, and wait for the report.

        Frames that never came are taken as black; the report then says how many (`ExamRecord.missing_frames`) and is
        not complete.

        Raises
        ------
        ExamReadError
            No frame came at all.
        UsageError
            The session has ended before.
        Cancelled
            `cancel` was called, or the caller's event set.
        ScansideError, or what a callback raised
            The analysis has failed.
        """
        with self._lock:
            if self._closed and self._error is None:
                raise UsageError("the sweep has ended before", where=self.info.source)
            self._closed = True
            missing = self.missing
        if missing == len(self.voxels):
            self.cancel()
            raise ExamReadError("no frame came", where=self.info.source, expected=f"{len(self.voxels)} frames")
        if missing:
            self._run.arrivals.mark_all()
        try:
            while not self._over.wait(_POLL_S):
                pass
        except BaseException:  # Ctrl-C
            self.cancel()
            raise
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._predictor.report(self.info, self._found, missing=missing)

    def cancel(self) -> None:
        """End the session without a report; returns when all its threads have ended. Safe at any time."""
        self._closed = True
        if not self._over.is_set():
            self._run.flow.fail(Cancelled("stopped by the caller", where=self.info.source))
        self._over.wait()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._found = self._run.execute(self._run.arrivals.wait_all)
        except BaseException as error:  # raised by push or finish, in the caller's thread
            self._error = error
        finally:
            self._over.set()

    def _refuse(self, frame: NDArray[np.uint8], k: int) -> None:
        where = f"{self.info.source}: frame {k}"
        frames, *size = self.voxels.shape
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != tuple(size):
            found = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ExamReadError("the frame does not fit the sweep", where=where, expected=f"uint8 {size}", found=found)
        if not 0 <= k < frames:
            raise ExamReadError("the sweep has no such frame", where=where, expected=f"0 to {frames - 1}", found=k)
        if self._here[k]:
            raise ExamReadError("the frame came twice", where=where, expected="each frame once")
