"""The table of BUS-BRA's predictions, against areas counted pair by pair; files that do not fit are refused."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks import busbra_table
from benchmarks.record import write_csv
from scanside.evaluation.errors import CohortError
from scanside.evaluation.roc import paired_delong

COLUMNS = ("case", "label", "probability", "cohort", "views", "first_view", "second_view")


def counted_auc(malignant: list[bool], probability: list[float]) -> float:
    """The share of pairs in which the malignant case is above the benign one, ties half."""
    positive = [p for p, m in zip(probability, malignant, strict=True) if m]
    negative = [p for p, m in zip(probability, malignant, strict=True) if not m]
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in product(positive, negative)]))


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """Two folds of eight cases, every fourth with one view; a third of which only the single view is there."""
    rng = np.random.default_rng(7)
    for fold in (1, 2, 3):
        single, both = [], []
        for n in range(8):
            label = n % 2
            views = [round(float(p), 2) for p in np.clip(0.35 + 0.2 * label + 0.25 * rng.standard_normal(2), 0, 1)]
            fused = round(float(np.clip(0.3 + 0.4 * label + 0.3 * rng.standard_normal(), 0, 1)), 2)
            seen = views[: 1 if n % 4 == 3 else 2]
            cells = [f"{fold}{n}", label, np.mean(seen), f"fold{fold}", len(seen), *seen, ""][: len(COLUMNS)]
            single.append(dict(zip(COLUMNS, cells, strict=True)))
            if len(seen) == 2:
                both.append(single[-1] | {"probability": fused, "first_view": "", "second_view": ""})
        write_csv(tmp_path / f"busbra-view-resnet50-fold{fold}.csv", single)
        if fold != 3:
            write_csv(tmp_path / f"busbra-two_views-resnet50-fold{fold}.csv", both)
    return tmp_path


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_number_against_counting(folds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    busbra_table.make_table(folds, None, out)
    rows = read(out / "busbra-table.csv")
    assert [(row["among"], row["classifier"], row["cases"]) for row in rows] == [
        ("all", "single view", "16"),
        *(("two views", name, "12") for name in ("first view", "second view", "late", "fusion1")),
    ]
    assert {(row["backbone"], row["folds"]) for row in rows} == {("resnet50", "1 2")}
    single = [row for n in (1, 2) for row in read(folds / f"busbra-view-resnet50-fold{n}.csv")]
    both = [row for n in (1, 2) for row in read(folds / f"busbra-two_views-resnet50-fold{n}.csv")]
    pairs = [row for row in single if row["views"] == "2"]
    sources = (
        (single, "probability"),
        (pairs, "first_view"),
        (pairs, "second_view"),
        (pairs, "probability"),
        (both, "probability"),
    )
    fusion = [float(case["probability"]) for case in both]
    for row, (cases, column) in zip(rows, sources, strict=True):
        malignant = [case["label"] == "1" for case in cases]
        p = [float(case[column]) for case in cases]
        assert float(row["auc"]) == pytest.approx(counted_auc(malignant, p), abs=1e-4)
        assert float(row["auc_low"]) <= float(row["auc"]) <= float(row["auc_high"])
        called = [v > 0.5 for v in p]
        for metric, truth in (("sensitivity", True), ("specificity", False)):
            right = [c == m for c, m in zip(called, malignant, strict=True) if m == truth]
            assert float(row[metric]) == pytest.approx(np.mean(right), abs=1e-4)
        if row["p"]:
            assert float(row["p"]) == pytest.approx(paired_delong(malignant, fusion, p).p, rel=1e-2)
            gain = counted_auc(malignant, fusion) - counted_auc(malignant, p)
            assert float(row["fusion1_minus"]) == pytest.approx(gain, abs=1e-4)
    assert [bool(row["p"]) for row in rows] == [False, True, True, True, False]
    best = json.loads((out / "busbra-table.json").read_text())["best_single_view"]["resnet50"]
    assert best == max(rows[1:3], key=lambda row: float(row["auc"]))["classifier"]


def test_files_that_do_not_fit_are_refused(folds: Path, tmp_path: Path) -> None:
    two = folds / "busbra-two_views-resnet50-fold2.csv"
    rows = read(two)
    write_csv(two, rows[:-1])
    with pytest.raises(CohortError, match="cases with two views are missing"):
        busbra_table.make_table(folds, None, tmp_path)
    write_csv(two, [rows[0] | {"label": "1"}, *rows[1:]])
    with pytest.raises(CohortError, match="another case"):
        busbra_table.make_table(folds, ["resnet50"], tmp_path)
    with pytest.raises(CohortError, match="predicted by vgg19"):
        busbra_table.make_table(folds, ["vgg19"], tmp_path)
    with pytest.raises(CohortError, match="no predictions"):
        busbra_table.make_table(tmp_path / "out", None, tmp_path)
