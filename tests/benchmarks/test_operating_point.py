"""The rule that picks the operating point, and that no other seeds can slip in."""

from pathlib import Path

import pytest

from benchmarks.operating_point import chosen, make_table
from scanside.errors import UsageError


def row(found: int, wrong: float, score: float) -> dict:
    return {"found": found, "false_positives_per_volume": wrong, "detection_score": score}


def test_the_most_lesions_within_the_rate_then_the_fewest_false_positives_then_the_lowest_score() -> None:
    rows = [row(9, 0.9, 0.4), row(7, 0.5, 0.6), row(8, 0.75, 0.5), row(8, 0.7, 0.56), row(8, 0.7, 0.54)]
    assert chosen(rows) == row(8, 0.7, 0.54)


def test_only_its_own_seeds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="operating point"):
        make_table(range(2998, 3002), tmp_path, None)
