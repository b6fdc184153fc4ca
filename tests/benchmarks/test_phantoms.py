"""The table of findings on phantoms: what its summary says, and that training seeds cannot slip in."""

from pathlib import Path

import pytest

from benchmarks.phantoms import make_table, summarise
from scanside.errors import UsageError


def row(found: int, malignant: int, probability: float = 0.5, error: float = 1.0) -> dict:
    return {"found": found, "malignant": malignant, "probability": probability, "centroid_error_mm": error}


def test_the_summary_by_hand() -> None:
    lesions = [row(1, 1, 0.9, 1.0), row(1, 0, 0.2, 2.0), row(1, 1, 0.1, 3.0), row(1, 0, 0.6, 7.0), row(0, 1)]
    summary = summarise(lesions, [{"false_positives": 1}, {"false_positives": 0}])
    assert summary["sensitivity"] == 0.8
    assert summary["false_positives_per_volume"] == 0.5
    assert summary["median_centroid_error_mm"] == 2.5
    assert summary["auc"] == 0.5  # (0.9 beats both, 0.1 neither) = 2 of 4 pairs
    assert summary["accuracy"] == 0.5


def test_one_class_has_no_auc() -> None:
    assert summarise([row(1, 0)], [{"false_positives": 0}])["auc"] is None


def test_training_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="training"):
        make_table(range(1990, 2010), tmp_path, None)
