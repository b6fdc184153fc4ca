"""The paper's tables: counts give back the printed figures, and the errata are what the code finds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import paper, paper_tables
from benchmarks.paper import Figure, errata, errata_document, figures, with_assistance, without_assistance
from scanside.evaluation import accuracy, predictions_from_arrays
from scanside.evaluation.diagnosis import Confusion
from scanside.evaluation.predictions import Classifier

WRONG = {
    "Table 2, ResNet50, sensitivity",
    "Table 2, ResNet50, NPV",
    "Table 3, Feature fusion 2, sensitivity",
    "Table 3, Feature fusion 2, NPV",
    "Table 3, Feature fusion 2, external test set 1, NPV",
    "Table 4, two-plane, R2, NPV (%)",
    "Table 4, three-plane, R1, accuracy (%)",
    "Table 4, three-plane, R6, NPV (%)",
    "Results, junior readers, accuracy without assistance (%)",
    "Results, junior readers, sensitivity with assistance (%)",
    "Results, junior readers, accuracy with assistance (%)",
}


def test_every_figure_comes_back_but_the_known_wrong_ones() -> None:
    found = figures()
    assert {f.place for f in found if not f.agrees} == WRONG
    by_table = {table: sum(f.place.startswith(table) for f in found) for table in ("Table 2", "Table 3", "Table 4")}
    assert by_table == {"Table 2": 24, "Table 3": 42, "Table 4": 96}


def test_all_auc_limits_of_table_4_come_back() -> None:
    limits = [f for f in figures() if "AUC" in f.place]
    assert len(limits) == 36
    assert all(f.agrees for f in limits)


def test_the_document_says_what_the_code_finds() -> None:
    assert paper.ERRATA.read_text(encoding="utf-8") == errata_document()


def test_the_errata_list_is_what_is_found() -> None:
    lines = [line for line in paper.ERRATA.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert lines == [f"| {e.place} | {e.printed} | {e.finding} |" for e in errata()]
    places = [e.place for e in errata()]
    assert set(places) >= WRONG | {"Table 5, R2, reading time, P2", "Results, accuracy of R5"}
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("printed", "computed", "decimals", "agrees"),
    [(0.982, 0.9815, 3, True), (0.982, 0.98148, 3, False), (70.1, 70.05, 1, True), (70.1, 70.16, 1, False)],
)
def test_a_half_may_be_rounded_either_way(printed: float, computed: float, decimals: int, agrees: bool) -> None:
    assert Figure("", printed, computed, decimals).agrees is agrees


def test_the_counts_belong_to_the_cohorts() -> None:
    for counts, _ in paper_tables.TABLE_2.values():
        c = Confusion(*counts)
        assert (c.tp + c.fn, c.tn + c.fp) == (paper_tables.N_MALIGNANT, paper_tables.N_BENIGN)
    for name, group in paper_tables.TABLE_1.items():
        assert sum(group.age_classes) == sum(group.size_classes) == sum(group.histology) == group.n, name


def test_assistance_has_whole_counts() -> None:
    assert with_assistance("R6") == Confusion(tp=54, fn=0, tn=61, fp=1)
    assert without_assistance("R1") == Confusion(tp=36, fn=18, tn=40, fp=22)


def test_the_least_sd_by_simulation() -> None:
    """No drawn ages with 25 of 53 below 40 and a mean of 54.5 have a smaller SD than is claimed."""
    rng = np.random.default_rng(0)
    least = paper._least_sd(54.5, 40, (25, 28))
    for _ in range(300):
        below, above = rng.uniform(30, 40, 25), rng.uniform(40, 90, 28)
        above += (54.5 * 53 - below.sum() - above.sum()) / 28
        if above.min() >= 40:
            assert np.append(below, above).std(ddof=1) >= least - 1e-9
    exact = np.append(np.full(25, 40), np.full(28, (54.5 * 53 - 1000) / 28))
    assert exact.std(ddof=1) == pytest.approx(least)


def test_p_values_are_searched_over_every_pair_of_readings() -> None:
    """Of 3 cases 2 and 1 right: the one may be among the two, or not."""
    assert sorted(set(paper._p_values(2, 1, 3))) == pytest.approx(sorted({1.0, 0.3173105, 0.5637029}), abs=1e-6)


def test_the_28_p_values_of_table_5() -> None:
    compared = [p for _, a, b in paper_tables.TABLE_5.values() for p in (*a, *b) if p != "/"]
    assert len(compared) + len(paper_tables.READING_TIMES) == 28


def test_the_product_gives_the_paper_s_table_back() -> None:
    """Probabilities on the right sides of 0.5 go through the same code as any cohort's."""
    truth = np.arange(116) < 54
    scores = {}
    for name, ((tp, fn, tn, fp), _) in paper_tables.TABLE_2.items():
        scores[Classifier(name)] = np.repeat([0.8, 0.3, 0.7, 0.2], [tp, fn, fp, tn])
    found = accuracy.accuracies(predictions_from_arrays(truth, scores), 100, 0)
    for a, (_, printed) in zip(found, paper_tables.TABLE_2.values(), strict=True):
        values = [a.estimate(m) for m in ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1")]
        tolerance = 0.0011 if a.classifier.model == "ResNet50" else 0.0005
        assert values == pytest.approx(printed, abs=tolerance)
