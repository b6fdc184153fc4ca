"""Findings against the known truth on full-size phantoms of seeds used for nothing else.

Seeds 1000 to 2999 are kept for training and for the choice of the operating point.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scanside
from benchmarks.done import Rows
from benchmarks.record import conditions, source_tree, write_csv, write_json
from benchmarks.table import Table, seed_range
from scanside.errors import UsageError
from scanside.evaluation.matching import match_truth
from scanside.evaluation.roc import auc
from scanside.exam import Volume
from scanside.exam.phantom import make_phantom
from scanside.exam.phantom.seeds import WHOLE_TRAINING


def make_table(seeds: Sequence[int], out: Path, pack: Path | None) -> None:
    """Write phantoms-lesions.csv, phantoms-volumes.csv and phantoms-summary.json into `out`."""
    if set(seeds) & set(WHOLE_TRAINING):
        raise UsageError("these seeds are kept for training", expected=f"none of {WHOLE_TRAINING}", found=seeds)
    predictor = scanside.load(pack)
    made_with = {"seeds": list(seeds), "pack": predictor.pack.sha256, "tree": source_tree()}
    kept = Rows(out / "phantoms-volumes.csv", ("seed",), made_with)
    for seed in seeds:
        if (seed,) in kept:
            continue
        lesions: list[dict[str, Any]] = []
        phantom = make_phantom(seed)
        volume = Volume.from_array(phantom.voxels, phantom.geometry.spacing_mm, source=f"phantom {seed}")
        report = predictor.analyze(volume)
        matches = match_truth(report.lesions, phantom.truth)
        for known, match in zip(phantom.truth, matches.truth, strict=True):
            lesions.append(
                {
                    "seed": seed,
                    "lesion": known.id,
                    "kind": known.kind,
                    "malignant": int(known.malignant),
                    "size_mm": round(max(known.diameters_mm), 1),
                    "found": int(match.found),
                    "centroid_error_mm": _rounded(match.centroid_error_mm),
                    "iou": _rounded(match.iou),
                    "probability": _rounded(match.probability, 4),
                }
            )
        wrong = set(matches.false_positives)
        volume_row = {
            "seed": seed,
            "lesions": matches.n_truth,
            "found": matches.n_found,
            "false_positives": matches.n_false_positives,
            "false_positive_scores": " ".join(f"{v.detection_score:.2f}" for v in report.lesions if v.id in wrong),
            "seconds": round(report.timing_ms.total / 1000, 1),
        }
        kept.add({"seed": seed, "volume": volume_row, "lesions": lesions})
        print(volume_row, flush=True)
    volumes = [row["volume"] for row in kept.rows]
    all_lesions = [lesion for row in kept.rows for lesion in row["lesions"]]
    summary = summarise(all_lesions, volumes)
    manifest, device = predictor.pack.manifest, predictor.device
    write_csv(out / "phantoms-lesions.csv", all_lesions)
    write_json(
        out / "phantoms-summary.json",
        {
            **conditions(),
            "seeds": [seeds[0], seeds[-1]],
            "pack": {"name": manifest.name, "version": manifest.version, "sha256": predictor.pack.sha256},
            "runtime": device.runtime,
            "precision": device.precision,
            "policy": device.policy,
            **summary,
        },
    )
    kept.finish(volumes)
    print(summary)


def summarise(lesions: Sequence[dict[str, Any]], volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sensitivity, false positives a volume, median centroid error, and AUC over the lesions found."""
    found = [row for row in lesions if row["found"]]
    labels = [row["malignant"] for row in found]
    probabilities = [row["probability"] for row in found]
    right = sum((p > 0.5) == bool(label) for p, label in zip(probabilities, labels, strict=True))
    return {
        "volumes": len(volumes),
        "lesions": len(lesions),
        "found": len(found),
        "sensitivity": round(len(found) / len(lesions), 4),
        "false_positives_per_volume": round(sum(row["false_positives"] for row in volumes) / len(volumes), 3),
        "median_centroid_error_mm": _rounded(statistics.median(row["centroid_error_mm"] for row in found)),
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
