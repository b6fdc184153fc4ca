"""A report and a study as rows of a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from scanside.errors import ScansideError
from scanside.exam.volume import Refusal, Verdict
from scanside.report.json import bare_name
from scanside.report.model import NOTICE, Report

STUDY_SCHEMA = "scanside-study/1"


def lesion_rows(report: Report) -> list[dict[str, str]]:
    """One row of text a lesion, by column title, in the report's order; no lesion gives no row.

    Sizes and positions are mm in sweep, depth, lateral order.
    """
    return [
        {
            "lesion": str(lesion.id),
            "finding": "malignant" if lesion.malignant else "benign",
            "probability": f"{lesion.probability:.2f}",
            "size mm": _by(lesion.diameters_mm),
            "centre mm": _by(lesion.centroid_mm, ", "),
            "volume ml": f"{lesion.volume_mm3 / 1000:.2f}",
            "score": f"{lesion.detection_score:.2f}",
            "planes": ", ".join(lesion.planes_seen),
        }
        for lesion in report.lesions
    ]


@dataclass(frozen=True)
class StudyRow:
    """One volume of a study. A refused volume has no folder and no lesions, but a reason."""

    volume: int
    folder: str
    source: str
    laterality: str
    view: str
    verdict: str
    lesions: int | None
    malignant: int | None
    highest_probability: float | None
    reason: str


@dataclass(frozen=True)
class Study:
    """The reports of a study and its summary, as in study.json and study.csv."""

    source: str
    rows: tuple[StudyRow, ...]
    reports: tuple[Report, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of study.json."""
        software = dict(self.reports[0].software) if self.reports else {}
        return {
            "schema": STUDY_SCHEMA,
            "software": software,
            "source": self.source,
            "volumes": [asdict(row) for row in self.rows],
            "notice": NOTICE,
        }


def report_row(number: int, folder: str, report: Report) -> StudyRow:
    """The row of a volume that was analysed."""
    exam, lesions = report.exam, report.lesions
    return StudyRow(
        number,
        folder,
        bare_name(exam.source),
        str(exam.laterality),
        exam.view,
        str(Verdict.DEGRADED if exam.warnings else Verdict.READY),
        len(lesions),
        sum(lesion.malignant for lesion in lesions),
        round(max(lesion.probability for lesion in lesions), 6) if lesions else None,
        "; ".join(exam.warnings),
    )


def refusal_row(number: int, refusal: Refusal) -> StudyRow:
    """The row of a volume that was refused. The reason leaves out the path: folders may name a patient."""
    error = refusal.error
    reason = ScansideError(error.what, expected=error.expected, found=error.found, remedy=error.remedy)
    verdict = str(Verdict.REFUSED)
    return StudyRow(
        number, "", bare_name(str(refusal.source)), "unknown", "unknown", verdict, None, None, None, str(reason)
    )


def study_csv(rows: Sequence[StudyRow]) -> str:
    """The rows as CSV with a header line; what a refused volume lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(StudyRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def _by(values: Sequence[float], joint: str = " x ") -> str:
    return joint.join(f"{v:.1f}" for v in values)
