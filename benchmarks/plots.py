"""The plots of the performance page, one function each: lines of a table in, a PNG written, its path back."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scanside.exam.write import atomic_file

Rows = Sequence[Mapping[str, str]]
SHOWN_SHARE = 0.005
"""Kinds of layers with less of the networks' least time are left out of the roofline."""


def contest(rows: Rows, path: Path, title: str) -> Path:
    """Seconds of each contestant, with the range over the rounds."""
    figure, axes = _figure((7, 0.6 * len(rows) + 1.4))
    names = [row["contestant"] for row in rows]
    median = [float(row["median_s"]) for row in rows]
    low = [m - float(row["low_s"]) for m, row in zip(median, rows, strict=True)]
    high = [float(row["high_s"]) - m for m, row in zip(median, rows, strict=True)]
    axes.barh(names, median, xerr=[low, high], capsize=3, color=["tab:green", *["tab:gray"] * (len(rows) - 1)])
    for y, row in enumerate(rows):
        axes.annotate(f" {float(row['ratio_median']):.2g} x", (float(row["high_s"]), y), va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="seconds an exam", title=title)
    return _written(figure, path)


def scaling(rows: Rows, path: Path) -> Path:
    """Seconds against sections, bytes, lesions and threads, one panel each."""
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, (varied, column, label) in zip(
        panels,
        (
            ("sweep", "sections", "sections"),
            ("voxels", "mb", "MB, same sections"),
            ("lesions", "lesions", "lesions found"),
            ("threads", "threads", "threads"),
        ),
        strict=True,
    ):
        of = sorted((float(r[column]), *(float(r[k]) for k in _TIMES)) for r in rows if r["varied"] == varied)
        if of:
            x, y, low, high = zip(*of, strict=True)
            errors = [[m - a for m, a in zip(y, low, strict=True)], [b - m for m, b in zip(y, high, strict=True)]]
            axes.errorbar(x, y, yerr=errors, marker="o", capsize=3)
        axes.set(xlabel=label, ylabel="seconds", ylim=(0, None))
        axes.grid(alpha=0.3)
    return _written(figure, path)


def start(rows: Rows, path: Path) -> Path:
    """The parts of a start, stacked."""
    figure, axes = _figure((7, 0.6 * len(rows) + 1.6))
    known = {"median_ms", "ci95_low_ms", "ci95_high_ms"}
    parts = [c for c in rows[0] if c.endswith("_ms") and c not in known]
    left = [0.0] * len(rows)
    for part in parts:
        width = [float(row[part]) for row in rows]
        axes.barh([row["cache"] for row in rows], width, left=left, label=part.removesuffix("_ms").replace("_", " "))
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes.set(xlabel="milliseconds")
    axes.legend(fontsize="small")
    return _written(figure, path)


def roofline(layers: Rows, path: Path, *, gop_per_s: float, gb_per_s: float) -> Path:
    """Kinds of layers by operations a byte, under the matrix rate and the memory rate; those that matter."""
    whole = sum(float(row["bound_s"]) for row in layers)
    figure, axes = _figure((7, 4))
    points = [
        (row["network"], row["kind"], float(row["operations_per_byte"]), float(row["gop"]), float(row["bound_s"]))
        for row in layers
        if row["operations_per_byte"] and float(row["bound_s"]) > SHOWN_SHARE * whole and float(row["gop"]) > 0
    ]
    knee = gop_per_s / gb_per_s
    span = [min([0.05, *(p[2] for p in points)]), knee, max([10 * knee, *(p[2] for p in points)])]
    axes.loglog(span, [min(gop_per_s, x * gb_per_s) for x in span], color="black", label="measured rates")
    for network, colour in (("segmenter", "tab:blue"), ("classifier", "tab:orange")):
        of = [p for p in points if p[0] == network]
        axes.scatter([p[2] for p in of], [p[3] / p[4] for p in of], color=colour, label=network, s=20)
        for _, kind, x, gop, bound in of:
            axes.annotate(kind, (x, gop / bound), (3, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="operations a byte", ylabel="Gop/s at best")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return _written(figure, path)


_TIMES = ("median_s", "low_s", "high_s")


def _figure(size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _written(figure: Figure, path: Path) -> Path:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    with atomic_file(path) as file:
        file.write(image.getvalue())
    return path
