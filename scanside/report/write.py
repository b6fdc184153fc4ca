"""Writing a report folder (report.json, masks.nrrd, pictures/, trace.json) and a study of several of them.

See `scanside.report.folder` for what makes the writing atomic and what may be replaced.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from scanside.errors import Cancelled, UsageError
from scanside.exam.volume import Refusal, Voxels
from scanside.report.folder import new_folder, output_errors, write_file
from scanside.report.json import NO_MASK, bare_name, report_text, to_json
from scanside.report.model import Lesion, Report
from scanside.report.tables import Study, StudyRow, lesion_rows, refusal_row, report_row, study_csv

__all__ = ["lesion_rows", "write_report", "write_study"]

OVERVIEW = "pictures/overview.png"
THREE_PLANES = "three_planes"
"""Key of a lesion's three-plane picture in its `pictures`."""
HEATMAP = "heatmap"
"""Key of the picture of where the classifier looked, for lesions that have a heatmap."""


def write_report(
    report: Report, voxels: Voxels, out_dir: str | os.PathLike[str], *, cancel: Event | None = None
) -> Report:
    """Write the report folder of one volume: all of it, or nothing.

    Parameters
    ----------
    report : Report
        The findings.
    voxels : array
        The decoded volume, uint8 (sweep, depth, lateral), for the pictures.
    out_dir : path
        A folder that does not exist yet, an empty one, or an earlier report, which is replaced as a whole.
    cancel : Event, optional
        Stops the writing between two files or frames.

    Returns
    -------
    Report
        As given, with the `pictures` of its lesions filled in (paths inside `out_dir`).

    Raises
    ------
    OutputError
        `out_dir` holds something else or cannot be written, or a number of the report is not finite.
    Cancelled
        `cancel` was set. `out_dir` is as it was.
    """
    report = with_pictures(report)
    with new_folder(out_dir) as part:
        _fill(part, report, voxels, Path(out_dir), cancel)
    return report


def write_study(
    volumes: Iterable[tuple[Report, Voxels] | Refusal],
    out_dir: str | os.PathLike[str],
    *,
    source: str,
    cancel: Event | None = None,
) -> Study:
    """Write a report folder for each volume of a study, study.json and study.csv: all of it, or nothing.

    Parameters
    ----------
    volumes : iterable
        (report, voxels) of each analysed volume, or a `Refusal`. Taken one by one, so a generator that decodes and
        analyses as it goes keeps one volume in memory.
    out_dir : path
        As for `write_report`; the folders inside are named by number, side and view ("01-right-AP").
    source : str
        File or folder name of the study.
    cancel : Event, optional
        Stops the writing between two files or frames.

    Returns
    -------
    Study
        The rows of the summary and the reports, whose masks stand in masks.nrrd alone (empty here).

    Raises
    ------
    OutputError, Cancelled
        As for `write_report`.
    """
    rows: list[StudyRow] = []
    reports: list[Report] = []
    target = Path(out_dir)
    with new_folder(target) as part:
        for number, item in enumerate(volumes, 1):
            if isinstance(item, Refusal):
                rows.append(refusal_row(number, item))
                continue
            report, voxels = with_pictures(item[0]), item[1]
            name = volume_folder(number, report)
            with output_errors(target):
                (part / name).mkdir()
            _fill(part / name, report, voxels, target, cancel)
            rows.append(report_row(number, name, report))
            reports.append(replace(report, mask=NO_MASK))
            del item, voxels
        study = Study(bare_name(source), tuple(rows), tuple(reports))
        with output_errors(target):
            write_file(part / "study.csv", study_csv(study.rows).encode("utf-8", "replace"))
            write_file(part / "study.json", report_text(study.to_json()).encode("utf-8", "replace"))
    return study


def with_pictures(report: Report) -> Report:
    """The report with the paths of each lesion's pictures filled in."""
    return replace(report, lesions=tuple(replace(lesion, pictures=_picture_paths(lesion)) for lesion in report.lesions))


def volume_folder(number: int, report: Report) -> str:
    """Folder of a study's volume: two digits, side and view where known ("01-right-AP", "02-volume")."""
    known = [text for text in (str(report.exam.laterality), report.exam.view) if text not in ("", "unknown")]
    words = [re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:24] for text in known]
    return "-".join([f"{number:02d}", *(word for word in words if word)] if any(words) else [f"{number:02d}", "volume"])


def _picture_paths(lesion: Lesion) -> dict[str, str]:
    paths = {THREE_PLANES: f"pictures/lesion-{lesion.id:02d}.png"}
    if lesion.heatmap is not None:
        paths[HEATMAP] = f"pictures/lesion-{lesion.id:02d}-heatmap.png"
    return paths


def _fill(folder: Path, report: Report, voxels: Voxels, target: Path, cancel: Event | None) -> None:
    """Write every file of one report into an empty folder, report.json last."""
    from scanside.report.heatmap import heatmap_picture
    from scanside.report.masks import masks_nrrd
    from scanside.report.pictures import lesion_picture, overview_picture, png

    if voxels.shape != report.geometry.shape:
        raise UsageError(
            "the voxels are not those of the report", expected=report.geometry.shape, found=list(voxels.shape)
        )
    text = report_text(to_json(report))
    trace = json.dumps({"traceEvents": [dict(event) for event in report.trace], "displayTimeUnit": "ms"})

    def write(name: str, content: bytes) -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled("stopped while writing the report", where=target)
        write_file(folder / name, content)

    def draw(name: str, picture: Callable[..., Any], *of: object) -> None:
        write(name, png(picture(*of)))

    with output_errors(target):
        (folder / "pictures").mkdir()
        jobs: list[Callable[[], object]] = [
            lambda: masks_nrrd(folder / "masks.nrrd", report.mask, report.geometry, cancel=cancel),
            partial(draw, OVERVIEW, overview_picture, report, voxels),
        ]
        for lesion in report.lesions:
            paths = _picture_paths(lesion)
            jobs.append(partial(draw, paths[THREE_PLANES], lesion_picture, report, lesion, voxels))
            if lesion.heatmap is not None:
                jobs.append(partial(draw, paths[HEATMAP], heatmap_picture, report, lesion, lesion.heatmap))
        _do_all(jobs)
        write("trace.json", trace.encode())
        write("report.json", text.encode("utf-8", "replace"))


def _do_all(jobs: Sequence[Callable[[], object]]) -> None:
    """Do independent jobs side by side: packing and drawing leave the interpreter alone. The first error is raised."""
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1), thread_name_prefix="scanside-write") as pool:
        try:
            for job in [pool.submit(job) for job in jobs]:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
