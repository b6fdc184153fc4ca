"""What `scanside inspect` says: one row a volume, readable or refused, and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scanside.errors import ExamReadError, ScansideError, UsageError
from scanside.exam.volume import Exam, Verdict, Volume


@dataclass(frozen=True)
class InspectRow:
    """One volume, or one file that was refused (then all but `source`, `verdict` and `reason` is empty).

    `shape`, `spacing_mm` and `extent_mm` are (sweep, depth, lateral). `profile` is the recognised scanner, with
    `profile_confidence` from 0 to 1 and `profile_reason`. `reason` says why a volume is not `ready`.
    """

    source: str
    verdict: Verdict
    reason: str = ""
    format: str = ""
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    extent_mm: tuple[float, float, float] | None = None
    geometry_source: str = ""
    laterality: str = "unknown"
    laterality_source: str = "none"
    view: str = "unknown"
    profile: str = ""
    profile_confidence: float = 0.0
    profile_reason: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        row = asdict(self)
        row["verdict"] = self.verdict.value
        for name in ("shape", "spacing_mm", "extent_mm", "warnings"):
            row[name] = None if row[name] is None else list(row[name])
        return row


def inspect(
    path: str | os.PathLike[str], *, spacing_mm: tuple[float, float, float] | None = None
) -> tuple[InspectRow, ...]:
    """One row for every volume and every refused file under `path`; a bad file gives a row, not an exception.

    Pixels are not decoded beyond what tells an image from a label map.

    Parameters
    ----------
    path : path
        A file, a folder or a zip, as for `open_exam`.
    spacing_mm : tuple of float, optional
        (sweep, depth, lateral), for exams that state no spacing.

    Raises
    ------
    UsageError
        The call itself makes no sense.
    """
    from scanside.exam.open import open_exam

    try:
        exam = open_exam(Path(path), spacing_mm=spacing_mm)
    except UsageError:
        raise
    except ScansideError as error:
        return _refused_rows(Path(path), error)
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        unread = ExamReadError("the exam cannot be read", where=Path(path).name, found=type(error).__name__)
        return _refused_rows(Path(path), unread)
    return rows_of(exam)


def rows_of(exam: Exam) -> tuple[InspectRow, ...]:
    """The rows of an exam that is already open: its volumes, then what was refused."""
    refused = (InspectRow(refusal.source, Verdict.REFUSED, str(refusal.error)) for refusal in exam.refused)
    return (*(_row(volume) for volume in exam.volumes), *refused)


def exit_code(rows: Sequence[InspectRow]) -> int:
    """0 when every row is `ready` or `degraded`; 3 when any is `refused`, or there is none."""
    return 3 if not rows or any(row.verdict is Verdict.REFUSED for row in rows) else 0


def line(row: InspectRow) -> str:
    """The row as one line of text."""
    if row.shape is None or row.spacing_mm is None or row.extent_mm is None:
        return f"refused   {row.source}: {row.reason}".replace("\n", " ")
    parts = [
        f"{row.verdict.value:<9} {row.source}",
        row.format,
        " x ".join(str(n) for n in row.shape),
        " x ".join(f"{s:.4g}" for s in row.spacing_mm) + f" mm ({row.geometry_source})",
        " x ".join(f"{e:.0f}" for e in row.extent_mm) + " mm",
        f"{row.laterality} {row.view} ({row.laterality_source})",
        f"{row.profile} {row.profile_confidence:.0%}",
    ]
    if row.reason:
        parts.append(row.reason)
    return " | ".join(parts).replace("\n", " ")


def _row(volume: Volume) -> InspectRow:
    info = volume.info
    return InspectRow(
        source=info.source,
        verdict=info.verdict,
        reason="; ".join(info.warnings),
        format=info.format,
        shape=info.geometry.shape,
        spacing_mm=info.geometry.spacing_mm,
        extent_mm=info.geometry.extent_mm,
        geometry_source=info.geometry_source,
        laterality=info.laterality.value,
        laterality_source=info.laterality_source,
        view=info.view,
        profile=info.profile.name,
        profile_confidence=info.profile.confidence,
        profile_reason=info.profile.reason,
        warnings=info.warnings,
    )


def _refused_rows(path: Path, error: ScansideError) -> tuple[InspectRow, ...]:
    """One row for each file the error speaks of, else one for the path."""
    refusals = getattr(error, "refused", ())
    if refusals:
        return tuple(InspectRow(refusal.source, Verdict.REFUSED, str(refusal.error)) for refusal in refusals)
    return (InspectRow(path.name, Verdict.REFUSED, str(error)),)
