"""report.json: the report as plain JSON values and back.

The layout is fixed by `report.schema.json` beside this file. Boxes are half-open ``{"min": [...], "max": [...]}`` in
sweep, depth, lateral order; lengths are mm, times ms. No patient name or id is ever part of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from scanside.errors import ExamReadError, OutputError
from scanside.exam.geometry import Box, Geometry
from scanside.report.model import (
    NOTICE,
    SCHEMA,
    DeviceRecord,
    ExamRecord,
    Lesion,
    LesionMask,
    NetworkRecord,
    PackRecord,
    Report,
    Timing,
)

MM_DIGITS = 4
PROBABILITY_DIGITS = 6
MS_DIGITS = 3
MALIGNANT_ABOVE = 0.5
NO_MASK = LesionMask(np.zeros((0, 0, 0), np.uint16), 1.0)


def report_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of report.json."""
    return json.loads(files("scanside.report").joinpath("report.schema.json").read_text(encoding="utf-8"))


def to_json(report: Report) -> dict[str, Any]:
    """The content of report.json: only dicts, lists, str, int, float and bool.

    Lengths are rounded to 0.1 um, probabilities to 6 digits (never across 0.5), times to 1 us. Geometry's orientation,
    the mask and the trace are not part of it: they stand in masks.nrrd and trace.json.

    Raises
    ------
    OutputError
        A number of the report is not finite.
    """
    exam, device = report.exam, report.device
    return {
        "schema": report.schema,
        "software": {str(k): str(v) for k, v in report.software.items()},
        "pack": {"name": report.pack.name, "version": report.pack.version, "sha256": report.pack.sha256},
        "exam": {
            "source": bare_name(exam.source),
            "sop_instance_uids": list(exam.sop_instance_uids),
            "laterality": str(exam.laterality),
            "view": exam.view,
            "shape": [int(n) for n in exam.shape],
            "spacing_mm": [_significant(v) for v in exam.spacing_mm],
            "geometry_source": exam.geometry_source,
            "complete": exam.complete,
            "missing_frames": int(exam.missing_frames),
            "warnings": list(exam.warnings),
        },
        "device": {
            "runtime": device.runtime,
            "precision": device.precision,
            "policy": device.policy,
            "name": device.name,
            "fallbacks": list(device.fallbacks),
            "sections": {str(plane): int(n) for plane, n in device.sections.items()},
            "blank_sections": {str(plane): int(n) for plane, n in device.blank_sections.items()},
            "networks": {
                name: {"runtime": ran.runtime, "precision": ran.precision} for name, ran in device.networks.items()
            },
        },
        "lesions": [lesion_json(lesion) for lesion in report.lesions],
        "timing_ms": {
            "total": _rounded(report.timing_ms.total, MS_DIGITS),
            "stages": {str(k): _rounded(v, MS_DIGITS) for k, v in report.timing_ms.stages.items()},
        },
        "notice": report.notice,
    }


def report_text(data: Mapping[str, Any]) -> str:
    """The text of a JSON file: two spaces of indentation, UTF-8 characters as they are, a line end at the end."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(data: Mapping[str, Any], *, geometry: Geometry | None = None, mask: LesionMask | None = None) -> Report:
    """The typed report of a report.json.

    What the file does not hold is as follows unless given: `geometry` is made of the file's shape and spacing and has
    no orientation, `mask` is empty (0 x 0 x 0), the trace and the lesions' frames are empty.

    Parameters
    ----------
    data : mapping
        The parsed JSON.
    geometry, mask : optional
        Stand in for what the file leaves out.

    Raises
    ------
    ExamReadError
        The content is no report, or one of another schema version.
    """
    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != SCHEMA:
        raise ExamReadError("this is no report that can be read here", expected=f"schema {SCHEMA}", found=found)
    try:
        exam = data["exam"]
        record = ExamRecord(
            source=exam["source"],
            sop_instance_uids=tuple(exam["sop_instance_uids"]),
            laterality=exam["laterality"],
            view=exam["view"],
            shape=_three(exam["shape"], int),
            spacing_mm=_three(exam["spacing_mm"], float),
            geometry_source=exam["geometry_source"],
            warnings=tuple(exam["warnings"]),
            missing_frames=int(exam["missing_frames"]),
        )
        device, pack, timing = data["device"], data["pack"], data["timing_ms"]
        return Report(
            software=dict(data["software"]),
            pack=PackRecord(pack["name"], pack["version"], pack["sha256"]),
            exam=record,
            device=DeviceRecord(
                device["runtime"],
                device["precision"],
                device["policy"],
                device["name"],
                tuple(device["fallbacks"]),
                {k: int(v) for k, v in device["sections"].items()},
                {k: int(v) for k, v in device["blank_sections"].items()},
                {k: NetworkRecord(v["runtime"], v["precision"]) for k, v in device["networks"].items()},
            ),
            lesions=tuple(_lesion_from(entry) for entry in data["lesions"]),
            timing_ms=Timing(float(timing["total"]), {k: float(v) for k, v in timing["stages"].items()}),
            geometry=geometry if geometry is not None else Geometry(record.shape, record.spacing_mm),
            mask=mask if mask is not None else NO_MASK,
            notice=data.get("notice", NOTICE),
        )
    except KeyError as error:
        raise ExamReadError("the report is incomplete", expected=f"an entry {error}", found="none") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ExamReadError("the report is damaged", found=str(error)) from error


def bare_name(source: str) -> str:
    """The last part of a path written for any system; folders above it may name a patient."""
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1] or "exam"


def box_json(box: Box, *, whole: bool) -> dict[str, list[float]]:
    """A box as {"min": [...], "max": [...]}; integers for an index box (`whole`)."""
    if whole:
        return {"min": [int(v) for v in box.min], "max": [int(v) for v in box.max]}
    return {"min": _millimetres(box.min), "max": _millimetres(box.max)}


def box_from_json(data: Mapping[str, Any], kind: type = float) -> Box:
    """The box of {"min": [...], "max": [...]}."""
    return Box(_three(data["min"], kind), _three(data["max"], kind))


def lesion_json(lesion: Lesion) -> dict[str, Any]:
    """One entry of `lesions`."""
    return {
        "id": int(lesion.id),
        "box_mm": box_json(lesion.box_mm, whole=False),
        "box_index": box_json(lesion.box_index, whole=True),
        "centroid_mm": _millimetres(lesion.centroid_mm),
        "diameters_mm": _millimetres(lesion.diameters_mm),
        "volume_mm3": _rounded(lesion.volume_mm3, 3),
        "detection_score": _rounded(lesion.detection_score, PROBABILITY_DIGITS),
        "probability": _probability(lesion.probability),
        "frame_probabilities": [_probability(p) for p in lesion.frame_probabilities],
        "malignant": bool(lesion.malignant),
        "planes_seen": [str(p) for p in lesion.planes_seen],
        "pictures": {str(k): str(v) for k, v in lesion.pictures.items()},
    }


def _lesion_from(entry: Mapping[str, Any]) -> Lesion:
    return Lesion(
        id=int(entry["id"]),
        box_index=box_from_json(entry["box_index"], int),
        box_mm=box_from_json(entry["box_mm"]),
        centroid_mm=_three(entry["centroid_mm"], float),
        diameters_mm=_three(entry["diameters_mm"], float),
        volume_mm3=float(entry["volume_mm3"]),
        detection_score=float(entry["detection_score"]),
        probability=float(entry["probability"]),
        frame_probabilities=tuple(float(p) for p in entry["frame_probabilities"]),
        malignant=bool(entry["malignant"]),
        planes_seen=tuple(entry["planes_seen"]),
        pictures=dict(entry["pictures"]),
    )


def _three(values: Iterable[Any], kind: type) -> Any:
    a, b, c = (kind(v) for v in values)
    return a, b, c


def _finite(value: float) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise OutputError(
            "the report holds a number that is not finite",
            expected="finite numbers",
            found=value,
            remedy="run `scanside pack verify`; a damaged network can answer such numbers",
        )
    return value


def _rounded(value: float, digits: int) -> float:
    return round(_finite(value), digits) + 0.0


def _significant(value: float) -> float:
    return float(f"{_finite(value):.9g}")


def _probability(value: float) -> float:
    rounded = _rounded(value, PROBABILITY_DIGITS)
    return rounded if (rounded > MALIGNANT_ABOVE) == (value > MALIGNANT_ABOVE) else float(value)


def _millimetres(values: Iterable[float]) -> list[float]:
    return [_rounded(v, MM_DIGITS) for v in values]
