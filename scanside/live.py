"""From a sweep that arrives to a folder of findings; what `scanside live` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Protocol

from scanside.errors import ExamReadError, ScansideError
from scanside.exam.volume import VolumeInfo, Voxels

if TYPE_CHECKING:
    from scanside.engine.pipeline import OnLesions
    from scanside.engine.predictor import OnProgress, Predictor
    from scanside.report.model import Report


class Sweep(Protocol):
    """A source of frames; see `scanside.exam.incoming`."""

    info: VolumeInfo

    def frames(self) -> Iterator[tuple[int, Voxels]]: ...


@dataclass(frozen=True)
class Outcome:
    """The report as written, and what went wrong with the source, if anything did."""

    report: Report
    fault: ExamReadError | None


def live_to_folder(
    predictor: Predictor,
    open_sweep: Callable[[], Sweep],
    out_dir: str | os.PathLike[str],
    *,
    progress: OnProgress | None = None,
    on_lesions: OnLesions | None = None,
    cancel: Event | None = None,
) -> Outcome:
    """Analyse a sweep while it arrives and write its report folder.

    A source that stalls, ends early or gives what is no frame of the sweep ends it: the findings so far are written,
    in a report that says how many frames are missing and why.

    Parameters
    ----------
    predictor : Predictor
        From `scanside.load`, best under policy ``confirm``.
    open_sweep : callable
        Opens the source; called once it is known that `out_dir` can be written.
    out_dir : path
        As for `scanside.report.write.write_report`.
    progress, on_lesions, cancel : optional
        As for `Predictor.start`.

    Raises
    ------
    ExamReadError
        Not a single frame came.
    OutputError
        `out_dir` cannot be written, or holds something else.
    Cancelled
        `cancel` was set; nothing is written.
    """
    from scanside.report.folder import refuse_foreign
    from scanside.report.write import write_report

    refuse_foreign(Path(out_dir))
    sweep = open_sweep()
    fault: ExamReadError | None = None
    with predictor.start(sweep.info, progress=progress, on_lesions=on_lesions, cancel=cancel) as session:
        try:
            for index, frame in sweep.frames():
                session.push(frame, index)
        except ExamReadError as error:
            if session.missing == len(session.voxels):
                raise
            fault = error
        report = session.finish()
    if fault is not None:
        exam = replace(report.exam, warnings=(*report.exam.warnings, _without_path(fault)))
        report = replace(report, exam=exam)
    return Outcome(write_report(report, session.voxels, out_dir, cancel=cancel), fault)


def require_complete(outcome: Outcome) -> None:
    """Say with an error that a sweep was not analysed whole: a script must not take its report for complete.

    Raises
    ------
    ExamReadError
        The source's fault, or that frames are missing. The report is written all the same.
    """
    if outcome.fault is not None:
        raise outcome.fault
    exam = outcome.report.exam
    if not exam.complete:
        raise ExamReadError(
            "the sweep ended early; the findings so far are in the report",
            where=exam.source,
            expected=f"{exam.shape[0]} frames",
            found=exam.shape[0] - exam.missing_frames,
        )


def _without_path(error: ScansideError) -> str:
    """The error without the file it names: names of files may name a patient."""
    return str(ScansideError(error.what, expected=error.expected, found=error.found))
