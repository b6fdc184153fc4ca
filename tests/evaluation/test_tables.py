"""The tables of one invented cohort, each value computed a second time from the raw CSV files."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from scanside.errors import UsageError
from scanside.evaluation.evaluate import evaluate_cohorts, tables
from scanside.evaluation.predictions import Classifier, predictions_from_arrays
from scanside.evaluation.result import Evaluation
from scanside.evaluation.table import Table

FULL = ("ResNet50", "fusion2")


@pytest.fixture(scope="module")
def made(evaluation: Evaluation) -> dict[str, Table]:
    return {table.name: table for table in tables(evaluation)}


@pytest.fixture(scope="module")
def predicted(invented: Path) -> list[dict[str, str]]:
    with (invented / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def read(invented: Path) -> dict[tuple, dict[str, dict[str, str]]]:
    """By reader, planes and assistance, each case's row."""
    passes: dict[tuple, dict[str, dict[str, str]]] = {}
    with (invented / "readers.csv").open() as file:
        for row in csv.DictReader(file):
            passes.setdefault((row["reader"], row["planes"], row["assisted"]), {})[row["case"]] = row
    return passes


def of(rows: list[dict], cohort: str, classifier: tuple[str, str] = FULL) -> list[dict]:
    return [r for r in rows if (r["cohort"], r["model"], r["planes"]) == (cohort, *classifier)]


def record(table: Table, **wanted: object) -> dict:
    found = [r for r in table.records if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return dict(found[0])


def test_all_tables_are_made(made: dict[str, Table]) -> None:
    names = ["table1", "table2", "table2-differences", "table3", "table3-differences", "table3-cohorts", "table4"]
    names += ["table4-differences", "table5", "table6", "table6-fleiss", "table7-sizes", "table8-calibration"]
    assert list(made) == [*names, "table9-detection"]
    for table in made.values():
        assert all(len(row) == len(table.columns) for row in table.rows), table.name
        assert table.rows
        assert table.records


@pytest.mark.parametrize("cohort", ["internal", "external"])
def test_table_2_from_the_raw_rows(made: dict[str, Table], predicted: list[dict], cohort: str) -> None:
    rows = of(predicted, cohort)
    truth = np.array([r["label"] == "malignant" for r in rows])
    p = np.array([float(r["probability"]) for r in rows])
    for metric, expected in (
        ("sensitivity", (p[truth] > 0.5).mean()),
        ("specificity", (p[~truth] <= 0.5).mean()),
        ("ppv", truth[p > 0.5].mean()),
        ("npv", (~truth[p <= 0.5]).mean()),
        ("accuracy", ((p > 0.5) == truth).mean()),
        ("f1", f1_score(truth, p > 0.5)),
        ("auc", roc_auc_score(truth, p)),
    ):
        found = record(made["table2"], cohort=cohort, model="ResNet50", metric=metric)
        assert found["estimate"] == pytest.approx(expected), metric
        assert found["printed_low"] <= found["estimate"] <= found["printed_high"]
        assert found["bootstrap_low"] <= found["estimate"] <= found["bootstrap_high"]
        assert found["printed_interval"]


def test_table_2_has_the_models_and_table_3_the_planes(made: dict[str, Table]) -> None:
    assert [row[:2] for row in made["table2"].rows] == [
        ("internal", "ResNet50"),
        ("internal", "VGG19"),
        ("internal", "DenseNet161"),
        ("internal", "ResNet101"),
        ("external", "ResNet50"),
    ]
    planes = ["fusion2", "fusion1", "transverse", "sagittal", "coronal"]
    assert [row[1] for row in made["table3"].rows] == [*planes, "fusion2"]


def test_differences_against_statsmodels(made: dict[str, Table], predicted: list[dict]) -> None:
    first, second = (of(predicted, "internal", c) for c in (FULL, ("VGG19", "fusion2")))
    truth = np.array([r["label"] == "malignant" for r in first])
    right = [(np.array([float(r["probability"]) for r in rows]) > 0.5) == truth for rows in (first, second)]
    found = record(made["table2-differences"], other="VGG19 (fusion2)")
    for name, who in (("sensitivity", truth), ("specificity", ~truth)):
        b, c = (right[0] & ~right[1] & who).sum(), (right[1] & ~right[0] & who).sum()
        assert found[f"{name}_only_index_right"] == b
        assert found[f"p_{name}"] == pytest.approx(mcnemar([[0, b], [c, 0]], exact=True).pvalue)
    records = made["table2-differences"].records
    adjusted = multipletests([r["p_auc"] for r in records], method="holm")[1]
    assert [r["p_auc_holm"] for r in records] == pytest.approx(list(adjusted))


def test_table_1_against_scipy(made: dict[str, Table], predicted: list[dict]) -> None:
    rows = of(predicted, "external")
    size = {c: [float(r["size_mm"]) for r in rows if r["label"] == c] for c in ("malignant", "benign")}
    found = record(made["table1"], cohort="external", characteristic="size_mm")
    assert found["malignant_mean"] == pytest.approx(np.mean(size["malignant"]))
    assert found["benign_sd"] == pytest.approx(np.std(size["benign"], ddof=1))
    assert found["p"] == pytest.approx(stats.ttest_ind(*size.values(), equal_var=False).pvalue)
    t1 = record(made["table1"], cohort="external", category="T1 (< 20 mm)")
    assert t1["benign_n"] == sum(s < 20 for s in size["benign"])
    young = record(made["table1"], cohort="external", category="age < 40 years")
    assert young["malignant_n"] == sum(int(r["age"]) < 40 for r in rows if r["label"] == "malignant")


def calls(read: dict, reader: str, planes: str, assisted: str, cases: list[str]) -> np.ndarray:
    rows = read[reader, planes, assisted]
    return np.array([rows[case]["birads"] in ("4A", "4B", "4C", "5") for case in cases])


def test_table_4_from_the_raw_rows(made: dict[str, Table], predicted: list[dict], read: dict) -> None:
    rows = of(predicted, "internal")
    cases, truth = [r["case"] for r in rows], np.array([r["label"] == "malignant" for r in rows])
    for planes in (2, 3):
        one = calls(read, "R1", str(planes), "0", cases)
        other = calls(read, "R2", str(planes), "0", cases)
        found = record(made["table4"], cohort="internal", planes=planes, reader="R1")
        assert found["sensitivity"] == pytest.approx(one[truth].mean())
        assert found["auc"] == pytest.approx((one[truth].mean() + (~one[~truth]).mean()) / 2)
        pooled = record(made["table4"], cohort="internal", planes=planes, reader="all junior")
        assert pooled["specificity"] == pytest.approx(np.concatenate([~one[~truth], ~other[~truth]]).mean())
        assert "cluster" in pooled["interval"]


def test_table_5_against_scipy_and_statsmodels(made: dict[str, Table], predicted: list[dict], read: dict) -> None:
    rows = of(predicted, "internal")
    cases, truth = [r["case"] for r in rows], np.array([r["label"] == "malignant" for r in rows])
    model = (np.array([float(r["probability"]) for r in rows]) > 0.5) == truth
    alone, helped = (calls(read, "R1", "3", a, cases) == truth for a in "01")
    found = record(made["table5"], cohort="internal", reader="R1", index="specificity")
    assert (found["without"], found["with"]) == pytest.approx((alone[~truth].mean(), helped[~truth].mean()))
    for name, better in (("p1", model), ("p2", helped)):
        b, c = (better & ~alone & ~truth).sum(), (alone & ~better & ~truth).sum()
        assert found[name] == pytest.approx(mcnemar([[0, b], [c, 0]], exact=True).pvalue)
    seconds = [[float(read["R1", "3", a][case]["reading_time_s"]) for case in cases] for a in "01"]
    found = record(made["table5"], cohort="internal", reader="R1", index="reading time (s)")
    assert found["p2"] == pytest.approx(stats.ttest_rel(*seconds).pvalue)
    assert (found["without"], found["with_sd"]) == pytest.approx((np.mean(seconds[0]), np.std(seconds[1], ddof=1)))


def test_table_5_corrects_within_a_cohort(made: dict[str, Table]) -> None:
    family = [r for r in made["table5"].records if r["cohort"] == "external" and r["index"] != "reading time (s)"]
    assert len(family) == 27
    for column in ("p1", "p2"):
        adjusted = multipletests([r[column] for r in family], method="holm")[1]
        assert [r[f"{column}_holm"] for r in family] == pytest.approx(list(adjusted))


def test_table_6_against_scikit_learn(made: dict[str, Table], predicted: list[dict], read: dict) -> None:
    rows = of(predicted, "external")
    cases = [r["case"] for r in rows]
    r1, r5 = (calls(read, reader, "3", "0", cases) for reader in ("R1", "R5"))
    found = record(made["table6"], cohort="external", first="R1", second="R5")
    assert found["kappa"] == pytest.approx(cohen_kappa_score(r1, r5))
    model = [float(r["probability"]) > 0.5 for r in rows]
    found = record(made["table6"], cohort="external", first="ResNet50 (fusion2)", second="R5")
    assert found["kappa"] == pytest.approx(cohen_kappa_score(model, r5))


def test_fleiss_groups(made: dict[str, Table]) -> None:
    groups = [
        r for r in made["table6-fleiss"].records if (r["cohort"], r["planes"], r["assisted"]) == ("internal", 3, 0)
    ]
    assert [(r["raters"], r["n_raters"]) for r in groups] == [
        ("all readers", 6),
        ("all readers and ResNet50 (fusion2)", 7),
        ("junior", 2),
        ("middle", 2),
        ("senior", 2),
    ]
    assert all(r["kappa_low"] <= r["kappa"] <= r["kappa_high"] for r in groups)


def test_a_bare_cohort_has_the_tables_it_can_have() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(40) < 15
    bare = evaluate_cohorts(
        predictions_from_arrays(truth, np.clip(rng.normal(0.4 + 0.3 * truth, 0.2), 0, 1)), rounds=100
    )
    names = [table.name for table in tables(bare)]
    assert names == ["table1", "table2", "table3", "table8-calibration"]
    assert not any("Cohort" in table.columns for table in tables(bare))


def test_patients_with_several_lesions_change_the_methods() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(60) < 24
    scores = {Classifier(name): np.clip(rng.normal(0.4 + 0.3 * truth, 0.2), 0, 1) for name in "XY"}
    made = evaluate_cohorts(predictions_from_arrays(truth, scores, patient=np.arange(60) // 3), rounds=100)
    by_name = {table.name: table for table in tables(made)}
    methods = {r["metric"]: r["printed_interval"] for r in by_name["table2"].records}
    assert "cluster" in methods["sensitivity"]
    assert "Obuchowski" in methods["auc"]
    difference = by_name["table2-differences"].records[0]
    assert "Durkalski" in difference["call_method"]
    assert "Obuchowski" in difference["auc_method"]


def test_an_undefined_metric_is_a_dash_and_an_empty_cell() -> None:
    never = predictions_from_arrays([1, 1, 0, 0], [0.4, 0.3, 0.2, 0.1])
    table = {t.name: t for t in tables(evaluate_cohorts(never, rounds=100))}["table2"]
    assert table.rows[0][table.columns.index("PPV")].startswith("– (")
    found = record(table, metric="ppv")
    assert math.isnan(found["estimate"])
    assert "nan" not in table.csv()


def test_options_that_make_no_sense() -> None:
    cases = predictions_from_arrays([1, 1, 0, 0], [0.9, 0.3, 0.2, 0.1])
    with pytest.raises(UsageError, match="index classifier"):
        evaluate_cohorts(cases, index=Classifier("other"))
    with pytest.raises(UsageError, match="at least 100"):
        evaluate_cohorts(cases, rounds=10)
