"""Findings against the known truth on full-size phantoms of seeds used for nothing else.

Seeds 1000 to 2999 are kept for training and for the choice of the operating point.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import scanside
from benchmarks.done import Rows
from benchmarks.record import conditions, source_tree, write_csv, write_json
from benchmarks.table import Table, seed_range
from scanside.errors import UsageError
from scanside.evaluation.detection import (
    FALSE_POSITIVE_RATES,
    Detections,
    froc,
    froc_intervals,
    read_detections,
    sensitivity_by_size,
)
from scanside.evaluation.diagnosis import Interval
from scanside.evaluation.matching import match_truth
from scanside.evaluation.roc import auc
from scanside.evaluation.segmentation import dice
from scanside.exam import Volume
from scanside.exam.phantom import Phantom, make_phantom
from scanside.exam.phantom.seeds import WHOLE_TRAINING
from scanside.pack import Pack, load_pack
from scanside.report.masks import mask_frames
from scanside.report.model import Report

ROUNDS, SEED = 2000, 2025
"""Of the bootstrap over volumes."""


def make_table(seeds: Sequence[int], out: Path, pack: Path | None) -> None:
    """Write phantoms-lesions.csv, -volumes.csv, -detections.csv, -froc.csv and -summary.json into `out`.

    The pack runs with no lowest detection score, and so gives every candidate to the FROC curve; everything else
    counts those that reach the pack's own score, which are the lesions that the pack itself would report.
    """
    if set(seeds) & set(WHOLE_TRAINING):
        raise UsageError("these seeds are kept for training", expected=f"none of {WHOLE_TRAINING}", found=seeds)
    shipped = load_pack(pack)
    score = shipped.manifest.segmenter.min_detection_score
    predictor = scanside.load(with_every_candidate(shipped))
    made_with = {"seeds": list(seeds), "pack": shipped.sha256, "tree": source_tree()}
    kept = Rows(out / "phantoms-volumes.csv", ("seed",), made_with)
    for seed in seeds:
        if (seed,) in kept:
            continue
        phantom = make_phantom(seed)
        report = predictor.analyze(phantom_volume(phantom))
        kept.add({"seed": seed, **judged(phantom, report, score)})
        print(kept.rows[-1]["volume"], flush=True)
    volumes = [row["volume"] for row in kept.rows]
    all_lesions = [lesion for row in kept.rows for lesion in row["lesions"]]
    every = [detection for row in kept.rows for detection in row["detections"]]
    write_csv(out / "phantoms-detections.csv", every)
    detections = read_detections(out / "phantoms-detections.csv")
    summary = {**summarise(all_lesions, volumes), **by_score(detections, out / "phantoms-froc.csv")}
    manifest, device = shipped.manifest, predictor.device
    write_csv(out / "phantoms-lesions.csv", all_lesions)
    write_json(
        out / "phantoms-summary.json",
        {
            **conditions(),
            "seeds": [seeds[0], seeds[-1]],
            "bootstrap": {"rounds": ROUNDS, "seed": SEED, "drawn": "volumes"},
            "pack": {"name": manifest.name, "version": manifest.version, "sha256": shipped.sha256},
            "runtime": device.runtime,
            "precision": device.precision,
            "policy": device.policy,
            **summary,
        },
    )
    kept.finish(volumes)
    print(summary)


def with_every_candidate(pack: Pack) -> Pack:
    """The pack with no lowest detection score."""
    segmenter = replace(pack.manifest.segmenter, min_detection_score=0.0)
    return replace(pack, manifest=replace(pack.manifest, segmenter=segmenter))


def phantom_volume(phantom: Phantom) -> Volume:
    """The phantom as a volume to analyse."""
    return Volume.from_array(phantom.voxels, phantom.geometry.spacing_mm, source=f"phantom {phantom.seed}")


def judged(phantom: Phantom, report: Report, score: float) -> dict[str, Any]:
    """A phantom's row, its lesions' rows at the detection score `score`, and every detection for the FROC curve."""
    reported = [lesion for lesion in report.lesions if lesion.detection_score >= score]
    matches = match_truth(reported, phantom.truth)
    found = np.stack(list(mask_frames(report.mask, phantom.geometry)))
    lesions = [
        {
            "seed": phantom.seed,
            "lesion": known.id,
            "kind": known.kind,
            "malignant": int(known.malignant),
            "size_mm": round(max(known.diameters_mm), 1),
            "found": int(match.found),
            "centroid_error_mm": _rounded(match.centroid_error_mm),
            "iou": _rounded(match.iou),
            "dice": _rounded(dice(found == match.lesion_id, phantom.mask == known.id) if match.found else None),
            "probability": _rounded(match.probability, 4),
        }
        for known, match in zip(phantom.truth, matches.truth, strict=True)
    ]
    wrong = set(matches.false_positives)
    volume = {
        "seed": phantom.seed,
        "lesions": matches.n_truth,
        "found": matches.n_found,
        "false_positives": matches.n_false_positives,
        "false_positive_scores": " ".join(f"{v.detection_score:.2f}" for v in reported if v.id in wrong),
    }
    return {"volume": volume, "lesions": lesions, "detections": _detections(phantom, report)}


def _detections(phantom: Phantom, report: Report) -> list[dict[str, Any]]:
    """A row a true lesion and one a false positive; one row with neither for a volume that has none.

    All candidates are matched at once, by overlap: of two in one lesion the fainter may be the match, the other false.
    """
    matches = match_truth(report.lesions, phantom.truth)
    scores = {lesion.id: round(lesion.detection_score, 5) for lesion in report.lesions}
    rows: list[dict[str, Any]] = [
        {
            "volume": phantom.seed,
            "lesion": known.id,
            "score": "" if match.lesion_id is None else scores[match.lesion_id],
            "size_mm": round(max(known.diameters_mm), 1),
        }
        for known, match in zip(phantom.truth, matches.truth, strict=True)
    ]
    rows += [
        {"volume": phantom.seed, "lesion": "", "score": scores[id_], "size_mm": ""} for id_ in matches.false_positives
    ]
    return rows or [{"volume": phantom.seed, "lesion": "", "score": "", "size_mm": ""}]


def by_score(detections: Detections, table: Path) -> dict[str, Any]:
    """The FROC score, and in `table` the sensitivity at each rate of false positives, all with their 95 % intervals."""
    curve, intervals = froc(detections), froc_intervals(detections, ROUNDS, SEED)
    rows = [
        {
            "false_positives_per_volume": rate,
            "sensitivity": round(curve.sensitivity_at(rate), 4),
            **_ends(intervals[rate]),
        }
        for rate in FALSE_POSITIVE_RATES
    ]
    write_csv(table, rows)
    mean = next(interval for rate, interval in intervals.items() if math.isnan(rate))
    return {"froc_score": round(curve.mean_sensitivity, 4), "froc_score_interval": list(_ends(mean).values())}


def _ends(interval: Interval) -> dict[str, float]:
    return {"low": round(interval.low, 4), "high": round(interval.high, 4)}


def summarise(lesions: Sequence[dict[str, Any]], volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sensitivity in all and by size class, false positives a volume, centroid error, Dice, and AUC of the found."""
    found = [row for row in lesions if row["found"]]
    labels = [row["malignant"] for row in found]
    probabilities = [row["probability"] for row in found]
    right = sum((p > 0.5) == bool(label) for p, label in zip(probabilities, labels, strict=True))
    classes = sensitivity_by_size([row["size_mm"] for row in lesions], [row["found"] for row in lesions])
    return {
        "volumes": len(volumes),
        "lesions": len(lesions),
        "found": len(found),
        "sensitivity": round(len(found) / len(lesions), 4),
        "found_by_size": {name: [share.numerator, share.denominator] for name, share in classes.items()},
        "false_positives_per_volume": round(sum(row["false_positives"] for row in volumes) / len(volumes), 3),
        "median_centroid_error_mm": _rounded(statistics.median(row["centroid_error_mm"] for row in found)),
        "dice_mean": _rounded(statistics.fmean(row["dice"] for row in found)),
        "dice_median": _rounded(statistics.median(row["dice"] for row in found)),
        "malignant_found": sum(labels),
        "auc": _rounded(auc(labels, probabilities), 4) if len(set(labels)) == 2 else None,
        "accuracy": round(right / len(found), 4),
    }


def _rounded(value: float | None, digits: int = 3) -> float | str:
    return "" if value is None else round(float(value), digits)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--seeds", type=seed_range, default=range(5000, 5020), help="FIRST:END")


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly a minute and a half a phantom."""
    return len(given["seeds"]) * 1.5


TABLE = Table(
    "phantoms",
    "lesions found, missed and classified on full-size phantoms never used in training",
    make_table,
    minutes,
    arguments,
)
