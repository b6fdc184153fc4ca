"""From a path to a folder of findings: open, analyse each volume, write; what `scanside analyze` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from scanside.errors import ExamReadError
from scanside.exam.open import open_exam
from scanside.exam.volume import Exam, Refusal, Verdict, Volume, Voxels

if TYPE_CHECKING:
    from scanside.engine.predictor import OnProgress, Predictor
    from scanside.report.model import Report
    from scanside.report.tables import Study


def analyze_to_folder(
    predictor: Predictor,
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    progress: OnProgress | None = None,
    on_volume: Callable[[int, int, str], None] | None = None,
    cancel: Event | None = None,
) -> Report | Study:
    """Analyse the exam at `path` and write its report, or the study's reports with their summary, into `out_dir`.

    One usable volume and nothing refused gives a report folder; anything else a study. A volume of a study that turns
    out to be unreadable while it is decoded becomes a refusal of its own: the other volumes are not lost.

    Parameters
    ----------
    predictor : Predictor
        From `scanside.load`.
    path, out_dir : path
        The exam (file, folder or zip), and the folder to write.
    spacing_mm : tuple, optional
        (sweep, depth, lateral) voxel size, where the exam states none.
    progress : callable, optional
        As for `Predictor.analyze`.
    on_volume : callable, optional
        Called with (number, count, source) as each volume of a study begins.
    cancel : Event, optional
        Set it to stop; nothing is written then.

    Raises
    ------
    ExamReadError
        No volume could be analysed.
    OutputError
        `out_dir` cannot be written, or holds something that is not an earlier report.
    Cancelled
        `cancel` was set.
    """
    from scanside.report.folder import refuse_foreign
    from scanside.report.write import write_study

    refuse_foreign(Path(out_dir))
    exam = open_exam(path, spacing_mm=spacing_mm)
    if len(exam.volumes) == 1 and not exam.refused:
        return analyze_volume_to_folder(predictor, exam.only(), out_dir, progress=progress, cancel=cancel)
    results = _results(predictor, exam, progress, on_volume, cancel)
    return write_study(results, out_dir, source=exam.source.name, cancel=cancel)


def analyze_volume_to_folder(
    predictor: Predictor,
    volume: Volume,
    out_dir: str | os.PathLike[str],
    *,
    progress: OnProgress | None = None,
    cancel: Event | None = None,
) -> Report:
    """Analyse one volume and write its report folder; parameters and errors as for `analyze_to_folder`."""
    from scanside.report.folder import refuse_foreign
    from scanside.report.write import write_report

    refuse_foreign(Path(out_dir))
    report, voxels = predictor.analyze_volume(volume, progress=progress, cancel=cancel)
    return write_report(report, voxels, out_dir, cancel=cancel)


def require_all_analyzed(outcome: Report | Study) -> None:
    """Say with an error that a study's summary lists refused volumes: a script must not take it for complete.

    Raises
    ------
    ExamReadError
        Some volume was refused. The reports of the others are written all the same.
    """
    rows = getattr(outcome, "rows", ())
    refused = [row for row in rows if row.verdict == Verdict.REFUSED]
    if refused:
        raise ExamReadError(
            f"{len(refused)} of {len(rows)} volumes refused; the others are in the report",
            where=outcome.source,  # type: ignore[union-attr]
            found="; ".join(f"{row.source}: {row.reason}" for row in refused),
        )


def _results(
    predictor: Predictor,
    exam: Exam,
    progress: OnProgress | None,
    on_volume: Callable[[int, int, str], None] | None,
    cancel: Event | None,
) -> Iterator[tuple[Report, Voxels] | Refusal]:
    """The result of each volume, one in memory at a time, then what was refused."""
    usable = 0
    for number, volume in enumerate(exam.volumes, 1):
        if on_volume is not None:
            on_volume(number, len(exam.volumes), volume.info.source)
        try:
            yield predictor.analyze_volume(volume, progress=progress, cancel=cancel)
            usable += 1
        except ExamReadError as error:
            yield Refusal(volume.info.source, error)
    if not usable:
        raise ExamReadError(
            "no volume could be analysed",
            where=exam.source.name,
            found=f"{len(exam.volumes) + len(exam.refused)} refused",
            remedy="`scanside inspect` says why",
        )
    yield from exam.refused
