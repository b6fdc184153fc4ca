"""How often the 95 % intervals hold the truth: simulated cohorts whose true values are known.

`expected` says what theory promises: 93 to 97 % of the cohorts, at least 95 % (exact intervals), or nothing (a method
used where it is known to fail, shown beside the one that this package prints).
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.evaluation.agreement import cohen_kappa, fleiss_kappa_resampled
from scanside.evaluation.diagnosis import Interval, clopper_pearson, clustered_wilson, wilson
from scanside.evaluation.resampling import Bootstrap, percentile_interval, weighted_accuracy, weighted_auc
from scanside.evaluation.roc import delong, paired_delong

ROUNDS = 400
"""Of each bootstrap here: fewer than in an evaluation, so that thousands of cohorts take minutes."""

NEAR, CONSERVATIVE, NOTHING = "93-97", ">=95", "-"
Draw = Callable[[np.random.Generator, int], tuple[NDArray, NDArray]]
"""The limits of the intervals of so many cohorts."""


@dataclass(frozen=True)
class Scene:
    """One quantity, its true value, and how to draw a cohort and make its interval."""

    quantity: str
    method: str
    n: str
    truth: float
    expected: str
    draw: Draw
    share: float = 1.0
    """Of the repetitions: slow scenes are drawn less often."""


def make_table(out: Path, repetitions: int) -> None:
    """Write coverage.csv and coverage.json into `out`."""
    rows = [covered(scene, repetitions) for scene in scenes()]
    write_csv(out / "coverage.csv", rows)
    kept = [row["kept"] for row in rows if row["kept"] != ""]
    summary = {"repetitions": repetitions, "bootstrap_rounds": ROUNDS, "rows": len(rows), "kept": sum(kept)}
    write_json(out / "coverage.json", {**conditions(), **summary, "promised": len(kept)})
    print(summary)


def covered(scene: Scene, repetitions: int) -> dict[str, Any]:
    """One row: the share of cohorts whose interval holds the truth, and its standard error from the simulation."""
    name = f"{scene.quantity}|{scene.method}|{scene.n}|{scene.truth:.4f}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    times = max(1, round(repetitions * scene.share))
    low, high = scene.draw(rng, times)
    share = float(np.mean((low <= scene.truth) & (scene.truth <= high)))
    promises = {NEAR: 0.93 <= share <= 0.97, CONSERVATIVE: share >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / times)}
    row = {"quantity": scene.quantity, "method": scene.method, "n": scene.n, "true_value": round(scene.truth, 4)}
    row |= {
        "cohorts": times,
        "coverage": round(share, 4),
        "simulation_se": round(math.sqrt(share * (1 - share) / times), 4),
    }
    row |= {"mean_width": round(float(np.mean(high - low)), 4), "expected": scene.expected}
    return row | {"kept": int(promises[scene.expected]) if scene.expected in promises else ""}


def scenes() -> Iterator[Scene]:
    """Every row of the table."""
    yield from _proportions()
    yield from _areas()
    yield from _clusters()
    yield from _agreement()


def _share(cases: int) -> float:
    """Half of the repetitions for a bootstrap, a quarter for one of a large cohort."""
    return 0.5 if cases < 150 else 0.25


def _proportions() -> Iterator[Scene]:
    for n, p in ((54, 0.7), (54, 0.9), (62, 0.8), (116, 0.94), (200, 0.5), (500, 0.9)):
        yield Scene("sensitivity", "Wilson", str(n), p, NEAR, _of(wilson, n, p), 4)
        yield Scene("sensitivity", "Clopper-Pearson", str(n), p, CONSERVATIVE, _of(clopper_pearson, n, p), 4)
        yield Scene("sensitivity", "Wald (not used here)", str(n), p, NOTHING, _of(_wald, n, p), 4)
    for n in (54, 200):
        promise = NEAR if n * 0.1 >= 10 else NOTHING
        yield Scene("F1", "percentile bootstrap", f"{n}+{n}", 0.9, promise, _f1(n, 0.9, 0.9), _share(2 * n))


def _of(method: Callable[..., tuple[NDArray, NDArray]], n: int, p: float) -> Draw:
    return lambda rng, times: method(rng.binomial(n, p, times), n)


def _each(interval: Callable[[np.random.Generator], Interval]) -> Draw:
    """One cohort after the other."""

    def draw(rng: np.random.Generator, times: int) -> tuple[NDArray, NDArray]:
        made = [interval(rng) for _ in range(times)]
        return np.array([i.low for i in made]), np.array([i.high for i in made])

    return draw


def _wald(k: NDArray, n: int) -> tuple[NDArray, NDArray]:
    p = k / n
    half = 1.959964 * np.sqrt(p * (1 - p) / n)
    return p - half, p + half


def _f1(n: int, sensitivity: float, specificity: float) -> Draw:
    truth = np.repeat([True, False], n)

    def draw(rng: np.random.Generator) -> Interval:
        call = rng.random(2 * n) < np.where(truth, sensitivity, 1 - specificity)
        bootstrap = Bootstrap(truth, np.arange(2 * n), ROUNDS, int(rng.integers(1 << 31)))
        return percentile_interval(bootstrap.values(weighted_accuracy(truth, call))[:, 5])

    return _each(draw)


def _scores(rng: np.random.Generator, m: int, n: int, area: float) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of `m` malignant and `n` benign cases with this AUC."""
    truth = np.repeat([True, False], (m, n))
    return truth, rng.normal(0, 1, m + n) + truth * math.sqrt(2) * float(ndtri(area))


def _areas() -> Iterator[Scene]:
    for m, n in ((54, 62), (250, 250)):
        for area in (0.75, 0.9, 0.95, 0.98):
            yield Scene("AUC", "DeLong on the logit scale", f"{m}+{n}", area, NEAR, _area(m, n, area, "logit"))
            # The rule of thumb for normal limits of a proportion: ten expected in the smaller part.
            promise = NEAR if m * (1 - area) >= 10 else NOTHING
            yield Scene("AUC", "DeLong Wald", f"{m}+{n}", area, promise, _area(m, n, area, "wald"))
            yield Scene(
                "AUC", "percentile bootstrap", f"{m}+{n}", area, promise, _bootstrapped(m, n, area), _share(m + n)
            )
    for m, n in ((54, 62), (250, 250)):
        for first, second in ((0.9, 0.9), (0.95, 0.85)):
            draw = _difference(m, n, first, second)
            yield Scene("AUC difference", "paired DeLong", f"{m}+{n}", first - second, NEAR, draw)


def _area(m: int, n: int, area: float, kind: str) -> Draw:
    def draw(rng: np.random.Generator) -> Interval:
        found = delong(*_scores(rng, m, n, area))
        return found.interval() if kind == "logit" else found.wald()

    return _each(draw)


def _bootstrapped(m: int, n: int, area: float) -> Draw:
    def draw(rng: np.random.Generator) -> Interval:
        truth, score = _scores(rng, m, n, area)
        bootstrap = Bootstrap(truth, np.arange(m + n), ROUNDS, int(rng.integers(1 << 31)))
        return percentile_interval(bootstrap.values(weighted_auc(truth, score)))

    return _each(draw)


def _difference(m: int, n: int, first: float, second: float) -> Draw:
    """Two classifiers whose errors are half shared."""
    shift = [math.sqrt(2) * float(ndtri(area)) for area in (first, second)]

    def draw(rng: np.random.Generator) -> Interval:
        truth = np.repeat([True, False], (m, n))
        shared = rng.normal(0, math.sqrt(0.5), m + n)
        scores = [shared + rng.normal(0, math.sqrt(0.5), m + n) + truth * by for by in shift]
        return paired_delong(truth, scores[0], scores[1]).interval()

    return _each(draw)


def _clusters() -> Iterator[Scene]:
    """Patients with three lesions of one class, whose scores are alike (intraclass correlation 0.6)."""
    for patients in (40, 120):
        n = f"2x{patients} patients with 3 lesions"
        yield Scene(
            "AUC", "DeLong clustered by patient on the logit scale", n, 0.85, NEAR, _clustered(patients, "clustered")
        )
        drawn = _clustered(patients, "bootstrap")
        yield Scene("AUC", "percentile bootstrap of patients", n, 0.85, NEAR, drawn, _share(6 * patients))
        yield Scene("AUC", "DeLong with patients ignored", n, 0.85, NOTHING, _clustered(patients, "ignored"))
        p = float(ndtr(1.2816))
        yield Scene("sensitivity", "Wilson by effective sample size", n[2:], p, NEAR, _pooled(patients, "clustered"))
        yield Scene("sensitivity", "Wilson with patients ignored", n[2:], p, NOTHING, _pooled(patients, "ignored"))


def _alike(rng: np.random.Generator, patients: int) -> np.ndarray:
    return np.repeat(rng.normal(0, math.sqrt(0.6), patients), 3) + rng.normal(0, math.sqrt(0.4), 3 * patients)


def _clustered(patients: int, kind: str) -> Draw:
    truth = np.repeat([True, False], 3 * patients)
    patient = np.repeat(np.arange(2 * patients), 3)

    def draw(rng: np.random.Generator) -> Interval:
        score = _alike(rng, 2 * patients) + truth * math.sqrt(2) * float(ndtri(0.85))
        if kind == "bootstrap":
            bootstrap = Bootstrap(truth, patient, ROUNDS, int(rng.integers(1 << 31)))
            return percentile_interval(bootstrap.values(weighted_auc(truth, score)))
        return delong(truth, score, patient if kind == "clustered" else None).interval()

    return _each(draw)


def _pooled(patients: int, kind: str) -> Draw:
    def draw(rng: np.random.Generator) -> Interval:
        hits = _alike(rng, patients) < 1.2816
        if kind == "clustered":
            return clustered_wilson(hits, np.repeat(np.arange(patients), 3))
        low, high = wilson(hits.sum(), len(hits))
        return Interval(float(low), float(high), "")

    return _each(draw)


def _agreement() -> Iterator[Scene]:
    """Raters who call a case of either class as most would with a fixed chance."""
    for n in (116, 500):
        for agree in (0.8, 0.92):
            both = agree**2 + (1 - agree) ** 2
            kappa = (both - 0.5) / 0.5
            draw = _two_raters(n, agree)
            yield Scene("Cohen's kappa", "Fleiss-Cohen-Everitt", str(n), kappa, NEAR, draw)
        kappa = (0.9**2 + 0.1**2 - 0.5) / 0.5
        yield Scene(
            "Fleiss' kappa of 6 raters", "percentile bootstrap", str(n), kappa, NEAR, _six_raters(n, 0.9), _share(n)
        )


def _two_raters(n: int, agree: float) -> Draw:
    def draw(rng: np.random.Generator) -> Interval:
        truth = rng.random(n) < 0.5
        calls = [np.where(rng.random(n) < agree, truth, ~truth) for _ in range(2)]
        return cohen_kappa(calls[0], calls[1]).interval()

    return _each(draw)


def _six_raters(n: int, agree: float) -> Draw:
    """As many malignant as benign cases in every cohort, as the stratified bootstrap draws them."""
    truth = np.repeat([True, False], n // 2)

    def draw(rng: np.random.Generator) -> Interval:
        calls = np.where(rng.random((n, 6)) < agree, truth[:, None], ~truth[:, None])
        bootstrap = Bootstrap(truth, np.arange(n), ROUNDS, int(rng.integers(1 << 31)))
        return percentile_interval(bootstrap.values(lambda weights: fleiss_kappa_resampled(calls, weights)))

    return _each(draw)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--repetitions", type=int, default=4000)


TABLE = Table(
    "coverage",
    "how often the 95 % intervals of the evaluation hold the truth",
    make_table,
    lambda given: 40,
    arguments,
    takes_pack=False,
)
