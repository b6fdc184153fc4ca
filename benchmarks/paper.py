"""The paper's printed figures against the arithmetic: docs/paper-errata.md and the figures given back.

Every figure of Tables 2 to 4 is computed again by `scanside.evaluation` from the confusion matrices behind it; Tables
1, 5 and 6, which cannot be computed from print alone, are searched for figures that no data can give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import paper_tables as printed
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.evaluation.agreement import cohen_kappa_from_table
from scanside.evaluation.diagnosis import Confusion
from scanside.evaluation.paired import mcnemar_from_counts
from scanside.evaluation.roc import hanley_mcneil
from scanside.exam.write import atomic_file

METRICS = ("sensitivity", "specificity", "PPV", "NPV", "accuracy", "F1 score")
ERRATA = Path(__file__).parents[1] / "docs" / "paper-errata.md"


@dataclass(frozen=True)
class Figure:
    """One printed figure and the same computed."""

    place: str
    printed: float
    computed: float
    decimals: int

    @property
    def agrees(self) -> bool:
        """Whether the computed value rounds to the printed one; a half may have been rounded either way."""
        return abs(self.computed - self.printed) <= 0.5 * 10**-self.decimals + 1e-9


@dataclass(frozen=True)
class Erratum:
    """A printed figure that the paper's own data contradict."""

    place: str
    printed: str
    finding: str


def make_table(out: Path) -> None:
    """Write docs/paper-errata.md, and paper-figures.csv and paper-figures.json into `out`."""
    found = figures()
    rows = [{**asdict(f), "computed": f"{f.computed:.5f}", "agrees": int(f.agrees)} for f in found]
    write_csv(out / "paper-figures.csv", rows)
    summary = {"figures": len(found), "agree": sum(f.agrees for f in found), "errata": len(errata())}
    write_json(out / "paper-figures.json", {**conditions(), **summary})
    with atomic_file(ERRATA) as file:
        file.write(errata_document().encode())
    print(summary)


def figures() -> list[Figure]:
    """Every figure of Tables 2 to 4 that follows from counts, and the sums and means of the text."""
    return [*_table_2_and_3(), *_table_4(), *_table_5_shares(), *_text()]


def errata() -> list[Erratum]:
    """Every printed figure that is not what its own data give, in the paper's order."""
    wrong = [
        Erratum(f.place, f"{f.printed:.{f.decimals}f}", f"{f.computed:.{f.decimals}f}")
        for f in figures()
        if not f.agrees
    ]
    return [*_table_1(), *wrong, *_table_5(), *_table_6()]


def _table_2_and_3() -> Iterator[Figure]:
    for table, rows in (("Table 2", printed.TABLE_2), ("Table 3", printed.TABLE_3)):
        for name, (counts, values) in rows.items():
            c = Confusion(*counts)
            computed = (*(share.estimate for share in c.proportions.values()), c.f1)
            for metric, value, exact in zip(METRICS, values, computed, strict=True):
                yield Figure(f"{table}, {name}, {metric}", value, exact, 3)


def _table_4() -> Iterator[Figure]:
    for (planes, reader), (counts, values, area) in printed.TABLE_4.items():
        c = _reader(counts)
        place = f"Table 4, {planes}, {reader}"
        shares = (c.accuracy, c.sensitivity, c.specificity, c.ppv, c.npv)
        for metric, value, share in zip(("accuracy", *METRICS[:4]), values, shares, strict=True):
            yield Figure(f"{place}, {metric} (%)", value, 100 * share.estimate, 1)
        truth = np.repeat([True, True, False, False], (c.tp, c.fn, c.fp, c.tn))
        call = np.repeat([True, False, True, False], (c.tp, c.fn, c.fp, c.tn))
        found = hanley_mcneil(truth, call)
        limits = found.wald()
        exact_values = (found.auc, limits.low, limits.high)
        for name, value, exact in zip(("AUC", "AUC, low", "AUC, high"), area, exact_values, strict=True):
            yield Figure(f"{place}, {name}", value, exact, 3)


def _reader(counts: tuple[int, int]) -> Confusion:
    tp, tn = counts
    return Confusion(tp, printed.N_MALIGNANT - tp, tn, printed.N_BENIGN - tn)


def without_assistance(reader: str) -> Confusion:
    """Three planes, from the counts of Table 4."""
    return _reader(printed.TABLE_4["three-plane", reader][0])


def with_assistance(reader: str) -> Confusion:
    """The whole counts nearest to the percentages of Table 5."""
    sensitivity, specificity = printed.TABLE_5[reader][0]
    return _reader((round(sensitivity * printed.N_MALIGNANT / 100), round(specificity * printed.N_BENIGN / 100)))


def _table_5_shares() -> Iterator[Figure]:
    for reader, (values, _, _) in printed.TABLE_5.items():
        c = with_assistance(reader)
        for metric, value, share in zip(METRICS, values, (c.sensitivity, c.specificity), strict=False):
            yield Figure(f"Table 5, {reader}, {metric} with assistance (%)", value, 100 * share.estimate, 1)


def _text() -> Iterator[Figure]:
    for (level, metric, assisted), value in printed.POOLED.items():
        readers = printed.LEVELS[level]
        pooled = [(with_assistance if assisted else without_assistance)(reader) for reader in readers]
        share = (pooled[0] + pooled[1]).proportions[metric]
        arm = "with" if assisted else "without"
        yield Figure(f"Results, {level} readers, {metric} {arm} assistance (%)", value, 100 * share.estimate, 1)
    for arm, value, i in (("without", printed.MEAN_TIMES[0], 0), ("with", printed.MEAN_TIMES[1], 1)):
        times = [row[i][0] for row in printed.READING_TIMES.values()]
        yield Figure(f"Results, mean reading time {arm} assistance (s)", value, sum(times) / len(times), 1)
    yield Figure("Discussion, patients", printed.PRINTED_PATIENTS, sum(printed.PATIENTS.values()), 0)
    yield Figure("Discussion, lesions", printed.PRINTED_CASES, sum(printed.LESIONS.values()), 0)


def _table_1() -> Iterator[Erratum]:
    for name, g in printed.TABLE_1.items():
        place = f"Table 1, {name}"
        for what, counts in (("age", g.age_classes), ("size", g.size_classes), ("histology", g.histology)):
            if sum(counts) != g.n:
                yield Erratum(f"{place}, {what} classes", str(counts), f"they add up to {sum(counts)}, not {g.n}")
        mean, sd, low, high = g.age
        if g.age_classes[0] and low >= 40:
            yield Erratum(f"{place}, age < 40 years", str(g.age_classes[0]), f"the youngest is {low:g}")
        least = _least_sd(mean, 40, g.age_classes)
        if least > sd + 0.05:
            text = f"with that mean and these classes the SD is at least {least:.1f}"
            yield Erratum(f"{place}, age", f"{mean:.1f} ± {sd:.1f}, {g.age_classes[0]} below 40", text)
        low, high = g.size_mm[2:]
        if g.size_classes[2] and high <= 50:
            yield Erratum(f"{place}, T3 (> 50 mm)", str(g.size_classes[2]), f"the largest is {high:g} mm")
        if g.size_classes[0] and low >= 20:
            yield Erratum(f"{place}, T1 (< 20 mm)", str(g.size_classes[0]), f"the smallest is {low:g} mm")


def _least_sd(mean: float, cut: float, counts: tuple[int, int]) -> float:
    """The smallest SD that values can have with this mean and these counts below and above a cut."""
    below, above = counts
    if not below or not above:
        return 0.0
    near, far = (below, above) if mean > cut else (above, below)
    distance = abs(mean - cut) * (near + far) / far
    return distance * math.sqrt(near * far / (near + far) / (near + far - 1))


def _table_5() -> Iterator[Erratum]:
    model = Confusion(*printed.TABLE_2["ResNet50"][0])
    for reader, (_, on_malignant, on_benign) in printed.TABLE_5.items():
        alone, helped = without_assistance(reader), with_assistance(reader)
        for metric, texts in (("sensitivity", on_malignant), ("specificity", on_benign)):
            shares = {name: c.proportions[metric] for name, c in (("m", model), ("a", alone), ("h", helped))}
            n = shares["m"].denominator
            for name, first, text in (("P1", "m", texts[0]), ("P2", "h", texts[1])):
                possible = _p_values(shares[first].numerator, shares["a"].numerator, n)
                if text != "/" and not any(_prints(p, text) for p in possible):
                    counts = f"{shares[first].numerator} and {shares['a'].numerator} of {n} right"
                    finding = f"{counts}: McNemar's test gives {_range(possible)}"
                    yield Erratum(f"Table 5, {reader}, {metric}, {name}", text, finding)
    n = printed.N_MALIGNANT + printed.N_BENIGN
    for reader, (before, after, text) in printed.READING_TIMES.items():
        least_t = (before[0] - after[0]) / ((before[1] + after[1]) / math.sqrt(n))
        if text != "<0.001" and least_t > 4:
            finding = f"over {n} lesions t is at least {least_t:.1f} whatever the correlation, so P < 0.001"
            yield Erratum(f"Table 5, {reader}, reading time, P2", text, finding)
    for reader in printed.TABLE_5:
        alone, helped = (c(reader).accuracy for c in (without_assistance, with_assistance))
        if helped.numerator <= alone.numerator:
            change = f"{alone.numerator} to {helped.numerator} of {alone.denominator} right"
            yield Erratum(f"Results, accuracy of {reader}", "improved significantly", change)
    for reader in printed.LEVELS["junior"]:
        alone = without_assistance(reader).specificity.estimate
        if alone >= model.specificity.estimate:
            finding = f"{reader} has {100 * alone:.1f} %, the model {100 * model.specificity.estimate:.1f} %"
            yield Erratum("Results, specificity against each junior reader", "better (P < 0.05)", finding)


def _p_values(first: int, second: int, n: int) -> list[float]:
    """Every P that McNemar's test (exact, with and without continuity correction) can give with these marginals."""
    found = []
    for both in range(max(0, first + second - n), min(first, second) + 1):
        b, c = first - both, second - both
        test = mcnemar_from_counts(b, c)
        plain = math.erfc(abs(b - c) / math.sqrt(2 * (b + c))) if b + c else 1.0
        found += [test.p_exact, test.p_asymptotic, plain]
    return sorted(found)


def _prints(p: float, text: str) -> bool:
    return p < 0.001 if text == "<0.001" else abs(p - float(text)) <= 0.0005 + 1e-9


def _range(values: list[float]) -> str:
    low, high = (("< 0.001" if v < 0.001 else f"{v:.3f}") for v in (values[0], values[-1]))
    return low if low == high else f"{low} to {high}"


def _table_6() -> Iterator[Erratum]:
    model = Confusion(*printed.TABLE_2["ResNet50"][0])
    raters = {"ResNet50": model} | {reader: without_assistance(reader) for reader in printed.TABLE_5}
    for (first, second), (kappa, low, high) in printed.TABLE_6.items():
        a, b = raters[first], raters[second]
        possible = [cohen_kappa_from_table(table) for table in _joint_tables(a, b)]
        place, text = f"Table 6, {first} and {second}", f"{kappa:.3f} ({low:.3f} - {high:.3f})"
        near = [k for k in possible if abs(k.kappa - kappa) <= 0.0005 + 1e-9]
        if not near:
            closest = min(possible, key=lambda k: abs(k.kappa - kappa))
            ends = f"{possible[0].kappa:.3f} to {possible[-1].kappa:.3f}"
            finding = f"calls as in Tables 2 and 4 allow {ends}; the nearest is {closest.kappa:.3f}"
            yield Erratum(place, text, finding)
            continue
        limits = near[0].interval()
        if abs(limits.low - low) > 0.0035 or abs(limits.high - high) > 0.0035:
            n = printed.N_MALIGNANT + printed.N_BENIGN
            yield Erratum(place, text, f"with n = {n} the interval is {limits.low:.3f} - {limits.high:.3f}")


def _joint_tables(a: Confusion, b: Confusion) -> Iterator[list[list[int]]]:
    """Every table of two raters' calls with their counts within each class, by growing agreement."""
    n = a.n
    positive_a, positive_b = a.tp + a.fp, b.tp + b.fp
    least = max(0, a.tp + b.tp - (a.tp + a.fn)) + max(0, a.fp + b.fp - (a.fp + a.tn))
    for both in range(least, min(a.tp, b.tp) + min(a.fp, b.fp) + 1):
        yield [[n - positive_a - positive_b + both, positive_b - both], [positive_a - both, both]]


_READ = (
    ("Statistical analysis, Table 6", "pairwise agreement is called Fleiss' kappa; of two raters it is Cohen's."),
    ("Table 5", "28 P values are compared with 0.05 without a correction for their number."),
    ("Tables 2 and 3", "the method of the AUC intervals is not named."),
    (
        "Deep Learning Algorithm",
        "concatenation is said to reduce channels; it adds them, the layer after it halves them.",
    ),
    ("Discussion", '"1,373 cases" are lesions; the abstract counts 1,368 patients. Both sums are right.'),
)


def errata_document() -> str:
    """docs/paper-errata.md."""
    found = figures()
    agree = sum(f.agrees for f in found)
    lines = [
        "# Errata of the paper",
        "",
        "Liu H, Zhang Y, Tan B, et al. Int J Med Sci 2025;22(15):3924-3937, doi:10.7150/ijms.118430, against its own",
        "arithmetic. `python -m benchmarks paper` writes this page; `tests/benchmarks/test_paper.py` checks that it",
        "says what the code finds.",
        "",
        "The confusion matrices behind Tables 2 and 3, the counts of Table 4 and the percentages of Table 5 give back",
        f"{agree} of {len(found)} printed figures. The AUC intervals of Table 4 are those of Hanley and McNeil with",
        "Wald limits, as IBM SPSS prints them, of the readers' binary calls: all 24 limits come back to the last",
        "digit.",
        "",
        "## Figures that the paper's own data contradict",
        "",
        "| where | printed | the data give |",
        "|---|---|---|",
        *(f"| {e.place} | {e.printed} | {e.finding} |" for e in errata()),
        "",
        "Table 5: the P values were searched over every pair of readings with the printed counts, by McNemar's exact",
        "test and by the asymptotic one with and without continuity correction. Table 6: the printed kappa was",
        "searched over every pair of readings with the counts of Tables 2 and 4; its interval is Fleiss, Cohen and",
        "Everitt's. Those of the readers among themselves, except of R1 and R6, are about half as wide as 116 lesions",
        "allow.",
        "",
        "## Found by reading",
        "",
        *(f"- {place}: {text}" for place, text in _READ),
        "",
    ]
    return "\n".join(lines)


TABLE = Table(
    "paper",
    "the paper's printed figures computed again, and docs/paper-errata.md",
    make_table,
    lambda given: 0.2,
    takes_pack=False,
)
