"""The whole way on a synthetic exam whose lesions are known: phantom -> DICOM -> findings -> report -> truth."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from scanside.exam.phantom.make import STANDARD_SHAPE

if TYPE_CHECKING:
    from scanside.engine.predictor import OnProgress
    from scanside.evaluation.matching import Matches
    from scanside.exam.phantom import TruthLesion
    from scanside.report.model import Report

DEFAULT_SEED = 5000

Stages = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration made, found and missed, and where it lies."""

    exam_folder: Path
    report_folder: Path
    report: Report
    truth: tuple[TruthLesion, ...]
    matches: Matches
    seconds: float


def run_demo(
    out_dir: str | os.PathLike[str],
    *,
    seed: int = DEFAULT_SEED,
    shape: tuple[int, int, int] = STANDARD_SHAPE,
    pack: str | os.PathLike[str] | None = None,
    stages: Stages | None = None,
    progress: OnProgress | None = None,
    cancel: Event | None = None,
) -> Demonstration:
    """Make the phantom of `seed` as a DICOM exam in `out_dir`, analyse it as any exam, compare with the truth.

    Parameters
    ----------
    out_dir : path
        Gets `exam/` (the DICOM file, truth.json, truth_mask.nrrd) and `report/`.
    seed, shape : int, tuple of int
        Which phantom, and its (sweep, depth, lateral) voxels.
    pack : path, optional
        A model pack; the shipped one if None.
    stages : callable, optional
        Called with (stage, done, total) while the phantom is made.
    progress : callable, optional
        As for `Predictor.analyze`.
    cancel : Event, optional
        Set it to stop.

    Raises
    ------
    PackError, EngineError, OutputError, Cancelled
        As for `scanside.load` and `analyze_volume_to_folder`.
    """
    import scanside
    from scanside.evaluation.matching import match_truth
    from scanside.exam.open import open_exam
    from scanside.report.folder import refuse_foreign
    from scanside.study import analyze_volume_to_folder

    begun = time.monotonic()
    out_dir = Path(out_dir)
    exam_folder, report_folder = out_dir / "exam", out_dir / "report"
    refuse_foreign(report_folder)
    predictor = scanside.load(pack)
    exam_file, truth = write_phantom(exam_folder, seed=seed, shape=shape, stages=stages)
    volume = open_exam(exam_file).only()
    report = analyze_volume_to_folder(predictor, volume, report_folder, progress=progress, cancel=cancel)
    matches = match_truth(report.lesions, truth)
    return Demonstration(exam_folder, report_folder, report, truth, matches, time.monotonic() - begun)


def write_phantom(
    out_dir: str | os.PathLike[str],
    *,
    seed: int,
    shape: tuple[int, int, int] = STANDARD_SHAPE,
    lesions: int | None = None,
    format: str = "dicom",
    vendor: str = "siemens",
    stages: Stages | None = None,
) -> tuple[Path, tuple[TruthLesion, ...]]:
    """Make a phantom and write it into `out_dir`; the exam's file and the lesions in it.

    The phantom itself is freed on return: an analysis that follows has the memory for itself.

    Raises
    ------
    UsageError
        A shape, seed or count that makes no phantom.
    OutputError
        `out_dir` cannot be written.
    """
    from scanside.exam.phantom import make_phantom
    from scanside.exam.phantom.save import save_phantom

    def on_frame(done: int, total: int) -> None:
        if stages is not None:
            stages("phantom", done, total)

    phantom = make_phantom(seed, shape=shape, lesions=lesions, progress=on_frame)
    exam_file = save_phantom(phantom, out_dir, format=format, vendor=vendor)
    return exam_file, phantom.truth
