"""Figures 3 and 6 of the paper for any cohort, ROC curves of all models, calibration, and FROC."""

from __future__ import annotations

from string import ascii_lowercase
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from scanside.evaluation.accuracy import Accuracy
from scanside.evaluation.curves import calibration, decision_curve
from scanside.evaluation.detection import froc
from scanside.evaluation.drawing import (
    GREY,
    LEVEL_COLOURS,
    LEVEL_MARKERS,
    LINES,
    PALETTE,
    Drawing,
    panels,
    square,
    style,
)
from scanside.evaluation.predictions import ONE_COHORT
from scanside.evaluation.readings import LEVELS, PLANE_WORDS
from scanside.evaluation.result import Evaluation
from scanside.evaluation.roc import roc_curve
from scanside.evaluation.table import number, span
from scanside.evaluation.tables_readers import pools

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3


def drawings(evaluation: Evaluation) -> list[Drawing]:
    """Every figure that the data allow."""
    with style():
        made = [figure3(evaluation), figure6(evaluation), figure_roc(evaluation)]
        made += [figure_calibration(evaluation), figure_froc(evaluation)]
    return [drawing for drawing in made if drawing is not None]


def figure3(evaluation: Evaluation) -> Drawing:
    """Decision curves of every model in every cohort, with treat-all and treat-none."""
    groups = _by_cohort(evaluation)
    figure, axes = _grid(len(groups), (3.6, 3.2))
    records: list[dict[str, Any]] = []
    for axis, letter, (cohort, shown) in zip(axes, ascii_lowercase, groups.items(), strict=False):
        cases = evaluation.predictions.of_cohort(cohort)
        for accuracy in shown:
            curve = decision_curve(cases.malignant, cases.probability[accuracy.classifier])
            axis.plot(curve.threshold, curve.net_benefit, **_line(evaluation, accuracy))
            values = zip(curve.threshold, curve.net_benefit, curve.treat_all, curve.treat_none, strict=True)
            records += [
                {"cohort": cohort, "classifier": str(accuracy.classifier), "prevalence": curve.prevalence}
                | {"threshold": t, "net_benefit": nb, "treat_all": ta, "treat_none": tn}
                for t, nb, ta, tn in values
            ]
        fine = np.linspace(0, 0.99, 400)
        prevalence = curve.prevalence
        axis.plot(fine, prevalence - (1 - prevalence) * fine / (1 - fine), color=GREY, lw=1, label="treat all")
        axis.axhline(0, color="black", lw=0.8, label="treat none")
        title = _panel(letter, cohort, len(groups)) or f"{100 * prevalence:.0f}% malignant"
        axis.set(xlim=(0, 1), ylim=(-0.1, prevalence * 1.08), title=title)
        axis.set(xlabel="threshold probability", ylabel="net benefit")
        axis.grid(color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
    _legend_below(figure, axes)
    caption = (
        "Figure 3. Decision curves: net benefit (true positives a case, minus false positives weighted by the odds of "
        "the threshold) against treating all and none. It depends on the share of malignant lesions: "
        + ", ".join(f"{name} {_prevalence(evaluation, name)}" for name in groups)
        + "."
    )
    return Drawing("figure3", caption, figure, {"figure3": tuple(records)})


def figure6(evaluation: Evaluation) -> Drawing:
    """Confusion matrices of the index classifier, and its ROC curve with the readers' points, by cohort."""
    seen = [a for a in evaluation.accuracies if a.classifier == evaluation.index]
    figure, grid = panels(2, len(seen), (3.3, 3.3))
    curves: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    counts: list[dict[str, Any]] = []
    letters = iter(ascii_lowercase + ascii_lowercase.upper())
    for axis, accuracy in zip(grid[0], seen, strict=True):
        _confusion(axis, accuracy, _title(next(letters), accuracy.cohort))
        c = accuracy.confusion
        counts.append({"cohort": accuracy.cohort, "tp": c.tp, "fn": c.fn, "tn": c.tn, "fp": c.fp})
    for axis, accuracy in zip(grid[1], seen, strict=True):
        curves += _roc(axis, evaluation, accuracy, "-", PALETTE[0], 2.0)
        read = _reader_points(evaluation, accuracy.cohort)
        square(axis, "1 − specificity", "sensitivity")
        if read:
            _draw_readers(axis, read)
            if not any(point["false_positive_rate"] > 0.34 and point["sensitivity"] < 0.72 for point in read):
                _draw_readers(_corner(axis, evaluation, accuracy), read)  # it would hide such a point
        points += read
        axis.set_title(_title(next(letters), accuracy.cohort))
        axis.legend(loc="lower right", handlelength=1.4, borderaxespad=0.2)
    caption = (
        f"Figure 6. Confusion matrices of {evaluation.index} (top) and its ROC curve (bottom) in each cohort; AUC with "
        "its 95% CI."
    )
    if points:
        _reader_legend(figure, points)
        caption += (
            " Points: single readers, open without and filled with the model's assistance, joined by a line; "
            f"{points[0]['planes']} planes. The inset enlarges the upper left corner."
        )
    data = {"figure6-confusion": tuple(counts), "figure6-roc": tuple(curves)}
    return Drawing("figure6", caption, figure, data | ({"figure6-readers": tuple(points)} if points else {}))


def figure_roc(evaluation: Evaluation) -> Drawing | None:
    """ROC curves of all classifiers by cohort; None with one classifier."""
    if len(evaluation.predictions.probability) < 2:
        return None
    groups: dict[str, list[Accuracy]] = {}
    for accuracy in evaluation.accuracies:
        groups.setdefault(accuracy.cohort, []).append(accuracy)
    figure, axes = _grid(len(groups), (3.9, 4.2))
    records: list[dict[str, Any]] = []
    for axis, letter, (cohort, shown) in zip(axes, ascii_lowercase, groups.items(), strict=False):
        for accuracy in shown:
            colour, line = _look(list(evaluation.predictions.probability).index(accuracy.classifier))
            width = 2.0 if accuracy.classifier == evaluation.index else 1.2
            records += _roc(axis, evaluation, accuracy, line, colour, width, name=str(accuracy.classifier))
        square(axis, "1 − specificity", "sensitivity")
        axis.set_title(_panel(letter, cohort, len(groups)))
        axis.legend(loc="lower right", handlelength=2.4, borderaxespad=0.2, fontsize=7, frameon=True, edgecolor="none")
    caption = "ROC curves of all classifiers, by cohort; AUC with its 95% CI."
    return Drawing("roc", caption, figure, {"roc": tuple(records)})


def figure_calibration(evaluation: Evaluation) -> Drawing:
    """Reliability curve of the index classifier by cohort."""
    seen = [a for a in evaluation.accuracies if a.classifier == evaluation.index]
    figure, axes = _grid(len(seen), (3.3, 3.4))
    records: list[dict[str, Any]] = []
    for axis, letter, accuracy in zip(axes, ascii_lowercase, seen, strict=False):
        cases = evaluation.predictions.of_cohort(accuracy.cohort)
        found = calibration(cases.malignant, cases.probability[evaluation.index])
        axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
        errors = np.stack([found.observed - found.low, found.high - found.observed])
        axis.errorbar(
            found.predicted,
            found.observed,
            np.maximum(errors, 0),
            color=PALETTE[0],
            marker="o",
            ms=4,
            lw=1.2,
            capsize=2,
        )
        square(axis, "predicted probability of malignancy", "observed share malignant")
        axis.set_title(_panel(letter, accuracy.cohort, len(seen)))
        axis.text(0.03, 0.95, f"Brier {number(found.brier)}", transform=axis.transAxes, va="top")
        values = zip(found.predicted, found.observed, found.low, found.high, found.count.tolist(), strict=True)
        records += [
            {"cohort": accuracy.cohort, "predicted": p, "observed": o, "wilson_low": lo, "wilson_high": hi, "cases": n}
            for p, o, lo, hi, n in values
        ]
    caption = (
        f"Calibration of {evaluation.index}: observed share of malignant lesions in ten bins of predicted probability, "
        "with Wilson 95% CI."
    )
    return Drawing("calibration", caption, figure, {"calibration": tuple(records)})


def figure_froc(evaluation: Evaluation) -> Drawing | None:
    """Sensitivity against false positives a volume; None without detections."""
    if evaluation.detections is None:
        return None
    curve = froc(evaluation.detections)
    figure, grid = panels(1, 1, (4.2, 3.6))
    axis = grid[0][0]
    top = float(curve.false_positives_per_volume[-1])
    x = np.append(curve.false_positives_per_volume, max(top, 1.0))
    axis.step(x, np.append(curve.sensitivity, curve.sensitivity[-1]), where="post", color=PALETTE[0], lw=1.8)
    axis.set(xlim=(0, max(top, 1.0) * 1.02), ylim=(0, 1.02))
    axis.set(xlabel="false positives a volume", ylabel="lesion sensitivity")
    axis.grid(color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)
    values = zip(curve.threshold, curve.false_positives_per_volume, curve.sensitivity, strict=True)
    records = tuple({"threshold": t, "false_positives_per_volume": f, "sensitivity": s} for t, f, s in values)
    n = evaluation.detections.n_volumes
    caption = f"FROC: sensitivity for {len(evaluation.detections.lesion_score)} lesions in {n} volumes."
    return Drawing("froc", caption, figure, {"froc": records})


def _by_cohort(evaluation: Evaluation) -> dict[str, list[Accuracy]]:
    """The models with the index classifier's planes, by cohort."""
    groups: dict[str, list[Accuracy]] = {}
    for accuracy in evaluation.accuracies:
        if accuracy.classifier.planes == evaluation.index.planes:
            groups.setdefault(accuracy.cohort, []).append(accuracy)
    return groups


def _grid(n: int, panel_inches: tuple[float, float]) -> tuple[Any, list[Axes]]:
    """A figure with `n` axes, three a row; the rest of the last row stays empty."""
    columns = min(n, _COLUMNS)
    figure, grid = panels(-(-n // columns), columns, panel_inches)
    axes = [axis for row in grid for axis in row]
    for axis in axes[n:]:
        axis.set_axis_off()
    return figure, axes[:n]


def _panel(letter: str, cohort: str, n: int) -> str:
    return _title(letter, cohort) if n > 1 else ""


def _title(letter: str, cohort: str) -> str:
    """A panel's letter and cohort, in lines that fit its width."""
    name = "" if cohort == ONE_COHORT else f" {cohort}"
    return fill(f"({letter}){name}", 34)


def _prevalence(evaluation: Evaluation, cohort: str) -> str:
    return f"{100 * float(evaluation.predictions.of_cohort(cohort).malignant.mean()):.1f}%"


def _line(evaluation: Evaluation, accuracy: Accuracy) -> dict[str, Any]:
    models = [c for c in evaluation.predictions.probability if c.planes == evaluation.index.planes]
    colour, line = _look(models.index(accuracy.classifier))
    width = 2.0 if accuracy.classifier == evaluation.index else 1.3
    return {"color": colour, "ls": line, "lw": width, "label": accuracy.classifier.model}


def _look(i: int) -> tuple[str, Any]:
    """Colour and dashes of the i-th line; no two of the first 49 are alike."""
    return PALETTE[i % len(PALETTE)], LINES[(i + i // len(PALETTE)) % len(LINES)]


def _legend_below(figure: Any, axes: list[Axes]) -> None:
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(len(handles), 2 + 2 * min(len(axes), _COLUMNS))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, handlelength=2.6)


def _confusion(axis: Axes, accuracy: Accuracy, title: str) -> None:
    c = accuracy.confusion
    counts = np.array([[c.tp, c.fn], [c.fp, c.tn]])
    shares = counts / counts.sum(axis=1, keepdims=True)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        colour = "white" if share > 0.5 else "black"
        axis.text(column, row - 0.06, str(count), ha="center", va="center", color=colour, fontsize=13)
        axis.text(column, row + 0.2, f"{100 * share:.1f}%", ha="center", va="center", color=colour, fontsize=8)
    axis.set_xticks([0, 1], ["malignant", "benign"])
    axis.set_yticks([0, 1], ["malignant", "benign"], rotation=90, va="center")
    axis.set(xlabel="called", ylabel="pathology", title=title)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _roc(
    axis: Axes, evaluation: Evaluation, accuracy: Accuracy, line: Any, colour: str, width: float, name: str = ""
) -> list[dict[str, Any]]:
    cases = evaluation.predictions.of_cohort(accuracy.cohort)
    curve = roc_curve(cases.malignant, cases.probability[accuracy.classifier])
    area = f"{number(accuracy.auc.auc)} ({span(accuracy.interval['auc'])})"
    label = f"{name} {area}" if name else f"{accuracy.classifier}\nAUC {area}"
    axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=0.8, ls=":", zorder=1)
    axis.plot(curve.false_positive_rate, curve.sensitivity, ls=line, color=colour, lw=width, label=label, zorder=2)
    values = zip(curve.threshold, curve.false_positive_rate, curve.sensitivity, strict=True)
    return [
        {"cohort": accuracy.cohort, "classifier": str(accuracy.classifier), "threshold": t}
        | {"false_positive_rate": f, "sensitivity": s}
        for t, f, s in values
    ]


def _reader_points(evaluation: Evaluation, cohort: str) -> list[dict[str, Any]]:
    """Where each reader and level stands, without and with assistance, with the most planes read."""
    planes = max((r.planes for r in evaluation.readings if r.cohort == cohort), default=0)
    records: list[dict[str, Any]] = []
    for assisted in (False, True):
        for label, pool in pools(evaluation, cohort, planes, assisted=assisted).items():
            counts = pool.confusion
            records.append(
                {
                    "cohort": cohort,
                    "planes": PLANE_WORDS[planes].removesuffix("-plane"),
                    "level": pool.level,
                    "reader": label,
                    "readings": len(pool.readings),
                    "assisted": assisted,
                    "false_positive_rate": 1 - counts.specificity.estimate,
                    "sensitivity": counts.sensitivity.estimate,
                }
            )
    return records


def _draw_readers(axis: Axes, points: list[dict[str, Any]]) -> None:
    """Single readers; those read twice are joined by a line."""
    singles = [point for point in points if point["readings"] == 1]
    for point in singles:
        axis.plot(point["false_positive_rate"], point["sensitivity"], zorder=4, **_marker(point))
    for reader in dict.fromkeys(point["reader"] for point in singles):
        both = [point for point in singles if point["reader"] == reader]
        xs, ys = ([point[key] for point in both] for key in ("false_positive_rate", "sensitivity"))
        axis.plot(xs, ys, color=GREY, lw=0.7, zorder=3)


def _corner(axis: Axes, evaluation: Evaluation, accuracy: Accuracy) -> Axes:
    """An inset with the upper left corner of the ROC curve, where good readers stand together."""
    inset = axis.inset_axes((0.44, 0.22, 0.53, 0.47))
    _roc(inset, evaluation, accuracy, "-", PALETTE[0], 1.6)
    inset.set(xlim=(-0.01, 0.25), ylim=(0.75, 1.02))
    inset.set_xticks([0, 0.1, 0.2])
    inset.set_yticks([0.8, 0.9, 1])
    inset.tick_params(labelsize=6.5, length=2, pad=1.5)
    inset.spines[:].set_visible(True)
    inset.spines[:].set_color(GREY)
    inset.grid(color="#e5e5e5", linewidth=0.5)
    inset.set_axisbelow(True)
    return inset


def _marker(point: dict[str, Any]) -> dict[str, Any]:
    colour = LEVEL_COLOURS[point["level"]]
    face = colour if point["assisted"] else "white"
    return {"marker": LEVEL_MARKERS[point["level"]], "color": colour, "mfc": face, "mew": 1.2, "ms": 5.5, "ls": ""}


def _reader_legend(figure: Any, points: list[dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    shown = {(point["level"], point["assisted"]) for point in points}
    handles: list[Any] = []
    for level in LEVELS:
        for assisted in (False, True):
            if (level, assisted) in shown:
                label = f"{level}, {'with' if assisted else 'without'} assistance"
                handles.append(Line2D([], [], label=label, **_marker({"level": level, "assisted": assisted})))
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if figure.get_figwidth() > 6 else 2)
