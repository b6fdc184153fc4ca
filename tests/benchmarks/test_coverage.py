"""The coverage table: what is committed keeps its promises, and a small simulation agrees with it."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from benchmarks.__main__ import RESULTS
from benchmarks.coverage import CONSERVATIVE, NEAR, NOTHING, Scene, covered, scenes

with (RESULTS / "coverage.csv").open() as file:
    COMMITTED = list(csv.DictReader(file))


def key(row: dict) -> tuple:
    return row["quantity"], row["method"], row["n"], float(row["true_value"])


def test_the_table_holds_every_scene() -> None:
    assert [key(row) for row in COMMITTED] == [(s.quantity, s.method, s.n, round(s.truth, 4)) for s in scenes()]
    assert all(int(row["cohorts"]) >= 1000 for row in COMMITTED)


@pytest.mark.parametrize("row", [row for row in COMMITTED if row["expected"] == NEAR], ids=lambda row: str(key(row)))
def test_intervals_that_theory_vouches_for_cover(row: dict) -> None:
    assert 0.93 <= float(row["coverage"]) <= 0.97
    assert row["kept"] == "1"


def test_exact_intervals_are_conservative() -> None:
    exact = [row for row in COMMITTED if row["expected"] == CONSERVATIVE]
    assert exact
    assert all(float(row["coverage"]) >= 0.945 for row in exact)


def test_what_is_known_to_fail_fails() -> None:
    ignored = [row for row in COMMITTED if "ignored" in row["method"]]
    assert ignored
    assert all(float(row["coverage"]) < 0.93 and row["expected"] == NOTHING for row in ignored)


@pytest.mark.parametrize(
    "method", ["Wilson", "DeLong on the logit scale", "DeLong clustered by patient on the logit scale"]
)
def test_a_small_simulation_agrees(method: str) -> None:
    scene = next(s for s in scenes() if s.method == method)
    row = covered(Scene(scene.quantity, scene.method, scene.n, scene.truth, scene.expected, scene.draw), 300)
    committed = next(r for r in COMMITTED if key(r) == key(row))
    assert abs(row["coverage"] - float(committed["coverage"])) < 5 * np.sqrt(0.05 * 0.95 / 300)


def test_coverage_is_counted() -> None:
    half = Scene("x", "y", "1", 0.5, NEAR, lambda rng, times: (np.zeros(times), rng.integers(0, 2, times)))
    row = covered(half, 400)
    assert row["coverage"] == pytest.approx(0.5, abs=0.1)
    assert row["kept"] == 0
    assert covered(Scene("x", "y", "1", 0.5, NOTHING, half.draw), 4)["kept"] == ""
