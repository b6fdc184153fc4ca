"""Policy `confirm` against `exact`: sections looked at, lesions found, false positives, AUC, time.

Which lesions are found and how sure they are does not depend on the machine's load; the seconds do.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import scanside
from benchmarks.done import Rows
from benchmarks.exam import device_arguments, with_size
from benchmarks.record import conditions, source_tree, write_csv, write_json
from benchmarks.table import Table, seed_range
from scanside.bench.plan import conditions_of
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.engine.predictor import Predictor
from scanside.errors import UsageError
from scanside.evaluation import roc
from scanside.evaluation.matching import match_truth
from scanside.exam import Volume
from scanside.exam.phantom import make_phantom
from scanside.exam.phantom.seeds import WHOLE_TRAINING

POLICIES = ("exact", "confirm")
PLANES = ("transverse", "sagittal", "coronal")
RESAMPLES = 10_000


def make_table(
    seeds: Sequence[int],
    out: Path,
    pack: Path | None,
    threads: int,
    shape: tuple[int, int, int],
    device: str,
    precision: str,
    allow_uncertified: bool,
) -> None:
    """Write policies-<conditions>.csv, its volumes, its lesions and its record into `out`."""
    if set(seeds) & set(WHOLE_TRAINING):
        raise UsageError("these seeds are kept for training", expected=f"none of {WHOLE_TRAINING}", found=seeds)
    how = {"device": device, "precision": precision, "allow_uncertified": allow_uncertified}
    with ExitStack() as opened:
        predictors = {
            policy: opened.enter_context(scanside.load(pack, threads=threads, policy=policy, **how))
            for policy in POLICIES
        }
        ran = conditions_of(predictors["exact"])
        name = with_size(f"policies-{ran['name'].removesuffix('-exact')}", shape)
        made_with = {
            **how,
            "seeds": list(seeds),
            "shape": shape,
            "threads": threads,
            "runtime": ran["runtime"],
            "ran_precision": ran["precision"],
            "fallbacks": ran["fallbacks"],
            "pack": ran["pack"]["sha256"],
            "tree": source_tree(),
        }
        kept = Rows(out / f"{name}-volumes.csv", ("seed",), made_with)
        for seed in seeds:
            if (seed,) in kept:
                continue
            volume, lesions = compared(seed, predictors, shape)
            kept.add({"seed": seed, "volume": volume, "lesions": lesions})
            print(volume, flush=True)
    volumes = [row["volume"] for row in kept.rows]
    lesions = [lesion for row in kept.rows for lesion in row["lesions"]]
    summary = summarise(volumes, lesions)
    write_csv(out / f"{name}.csv", [flat(policy, summary[policy]) for policy in POLICIES])
    if lesions:
        write_csv(out / f"{name}-lesions.csv", lesions)
    write_json(out / f"{name}.json", {**conditions(), **made_with, **summary})
    kept.finish(volumes)
    print(summary)


def flat(policy: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's totals as a line of the table."""
    sections = {f"{plane}_a_volume": count for plane, count in found["sections_a_volume"].items()}
    rest = {key: value for key, value in found.items() if key != "sections_a_volume"}
    return {"policy": policy, **sections, **rest}


def compared(
    seed: int, predictors: Mapping[str, Predictor], shape: tuple[int, int, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One phantom under both policies: its row, and a row for each true lesion."""
    phantom = make_phantom(seed, shape=shape)
    volume = Volume.from_array(phantom.voxels, phantom.geometry.spacing_mm, source=f"phantom {seed}")
    row: dict[str, Any] = {"seed": seed, "lesions": len(phantom.truth)}
    rows: list[dict[str, Any]] = [
        {"seed": seed, "lesion": known.id, "malignant": int(known.malignant)} for known in phantom.truth
    ]
    for policy, predictor in predictors.items():
        begun = time.process_time()
        report = predictor.analyze(volume)
        cpu_s = time.process_time() - begun
        matches = match_truth(report.lesions, phantom.truth)
        row |= {f"{policy}_{plane}": report.device.sections.get(plane, 0) for plane in PLANES}
        row |= {
            f"{policy}_found": matches.n_found,
            f"{policy}_false_positives": matches.n_false_positives,
            f"{policy}_cpu_s": round(cpu_s, 2),
            f"{policy}_seconds": round(report.timing_ms.total / 1000, 2),
        }
        for known, match in zip(rows, matches.truth, strict=True):
            probability = "" if match.probability is None else round(match.probability, 6)
            known |= {f"{policy}_found": int(match.found), f"{policy}_probability": probability}
    return row, rows


def summarise(volumes: Sequence[Mapping[str, Any]], lesions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Totals of both policies, and the paired differences with intervals (bootstrap over phantoms)."""
    n = len(volumes)
    summary: dict[str, Any] = {"volumes": n, "lesions": len(lesions)}
    for policy in POLICIES:
        found = [row for row in lesions if int(row[f"{policy}_found"])]
        summary[policy] = {
            "sections_a_volume": {
                plane: round(sum(int(row[f"{policy}_{plane}"]) for row in volumes) / n, 1) for plane in PLANES
            },
            "cpu_s_a_volume": round(sum(float(row[f"{policy}_cpu_s"]) for row in volumes) / n, 2),
            "sensitivity": round(len(found) / len(lesions), 4) if lesions else None,
            "false_positives_a_volume": round(sum(int(row[f"{policy}_false_positives"]) for row in volumes) / n, 3),
            "auc": _rounded(auc(found, policy)),
        }
    both = [row for row in lesions if int(row["exact_found"]) and int(row["confirm_found"])]
    summary["difference"] = {
        "sensitivity": _interval(volumes, lesions, _sensitivity),
        "false_positives_a_volume": _interval(volumes, volumes, _false_positives),
        "auc_over_lesions_both_found": _interval(volumes, both, _auc_difference),
        "lesions_both_found": len(both),
    }
    return summary


def auc(rows: Sequence[Mapping[str, Any]], policy: str) -> float | None:
    """Area under the ROC curve of P(malignant); None with one class only."""
    malignant = [int(row["malignant"]) == 1 for row in rows]
    if len(set(malignant)) < 2:
        return None
    return roc.auc(malignant, [float(row[f"{policy}_probability"]) for row in rows])


def _sensitivity(rows: Sequence[Mapping[str, Any]]) -> float | None:
    if not rows:
        return None
    return sum(int(row["confirm_found"]) - int(row["exact_found"]) for row in rows) / len(rows)


def _false_positives(rows: Sequence[Mapping[str, Any]]) -> float | None:
    if not rows:
        return None
    return sum(int(row["confirm_false_positives"]) - int(row["exact_false_positives"]) for row in rows) / len(rows)


def _auc_difference(rows: Sequence[Mapping[str, Any]]) -> float | None:
    exact, confirm = auc(rows, "exact"), auc(rows, "confirm")
    return None if exact is None or confirm is None else confirm - exact


def _interval(volumes: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], measure: Any) -> Any:
    """`measure` of the rows, and its 2.5th and 97.5th percentile when whole phantoms are drawn again."""
    value = measure(rows)
    if value is None:
        return None
    by_seed = {
        int(volume["seed"]): [row for row in rows if int(row["seed"]) == int(volume["seed"])] for volume in volumes
    }
    groups = list(by_seed.values())
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES if len(rows) < 1000 else RESAMPLES // 10):
        again = measure([row for i in rng.integers(0, len(groups), len(groups)) for row in groups[i]])
        if again is not None:
            drawn.append(again)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": _rounded(value), "low": _rounded(low), "high": _rounded(high)}


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 4)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    device_arguments(parser)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--shape", type=shape_from, default=(318, 600, 800), help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--seeds", type=seed_range, default=range(5100, 5140), help="FIRST:END")


def minutes(given: Mapping[str, Any]) -> float:
    """About 25 s a phantom under both policies."""
    return len(given["seeds"]) * 25 / 60


TABLE = Table("policies", "policy confirm against exact on full-size phantoms", make_table, minutes, arguments)
