"""The plots of the performance page, one function each: lines of a table in, a PNG written, its path back.

Every PNG says in its description which command made the table, when, from which source and on which processor.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scanside.exam.write import atomic_file

Rows = Sequence[Mapping[str, str]]
Record = Mapping[str, Any]
SHOWN_SHARE = 0.005
"""Kinds of layers with less of the networks' least time are left out of the roofline."""


def contest(rows: Rows, path: Path, record: Record, title: str) -> Path:
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
    return _written(figure, path, record)


def scaling(rows: Rows, path: Path, record: Record) -> Path:
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
    return _written(figure, path, record)


def start(rows: Rows, path: Path, record: Record) -> Path:
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
    return _written(figure, path, record)


def roofline(layers: Rows, path: Path, record: Record) -> Path:
    """Kinds of layers by operations a byte, under the matrix rate and the memory rate; those that matter."""
    gop_per_s, gb_per_s = record["gemm_gop_per_s"], record["memory_gb_per_s"]
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
    return _written(figure, path, record)


def live(rows: Rows, path: Path, record: Record, goal_s: float) -> Path:
    """Seconds from the last frame to the report, a bar a sweep, with the interval of the median."""
    figure, axes = _figure((7, 0.5 * len(rows) + 1.4))
    names = [f"{float(row['frames_per_s']):g} frames/s, phantom {row['seed']}" for row in rows]
    median = [float(row["median_s"]) for row in rows]
    low = [m - float(row["ci95_low_s"]) for m, row in zip(median, rows, strict=True)]
    high = [float(row["ci95_high_s"]) - m for m, row in zip(median, rows, strict=True)]
    axes.barh(names, median, xerr=[low, high], capsize=3, color="tab:green")
    axes.axvline(goal_s, color="black", linestyle=":", label=f"goal, {goal_s:g} s")
    axes.invert_yaxis()
    axes.set(xlabel="seconds from the last frame to the report", xlim=(0, None))
    axes.legend(fontsize="small")
    return _written(figure, path, record)


def policies(rows: Rows, path: Path, record: Record) -> Path:
    """Sections a volume under each policy, plane by plane."""
    figure, axes = _figure((7, 0.6 * len(rows) + 1.4))
    left = [0.0] * len(rows)
    for plane in ("transverse", "sagittal", "coronal"):
        width = [float(row[f"{plane}_a_volume"]) for row in rows]
        axes.barh([row["policy"] for row in rows], width, left=left, label=plane)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="sections a volume")
    axes.legend(fontsize="small")
    return _written(figure, path, record)


def soak(rows: Rows, path: Path, record: Record) -> Path:
    """Memory, threads and open files, exam after exam."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    exams = [int(row["exam"]) for row in rows]
    above.plot(exams, [float(row["resident_mib"]) for row in rows])
    above.set(ylabel="resident MiB", ylim=(0, None))
    for column in ("threads", "open_files"):
        below.plot(exams, [int(row[column]) for row in rows], label=column.replace("_", " "))
    below.set(xlabel="exam", ylim=(0, None))
    below.legend(fontsize="small")
    return _written(figure, path, record)


def trace(events: Sequence[Mapping[str, Any]], path: Path, title: str, record: Record) -> Path:
    """When each stage worked, from Chrome trace events: a lane a stage, more where its spans overlap."""
    spans = [event for event in events if event["ph"] == "X"]
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    lanes = {name: stacked([(e["ts"] / 1e6, e["dur"] / 1e6) for e in spans if e["name"] == name]) for name in names}
    figure, axes = _figure((10, 0.3 * sum(max(1, len(rows)) for rows in lanes.values()) + 1.4))
    y, ticks = 0, []
    for number, (name, rows) in enumerate(lanes.items()):
        count = max(1, len(rows))
        ticks.append((y + (count - 1) / 2, f"{name} {sum(dur for row in rows for _, dur in row):.3g} s"))
        for row in rows:
            axes.broken_barh(row, (y - 0.4, 0.8), color=f"C{number}", linewidth=0)
            y += 1
        y += count - len(rows)
        axes.axhline(y - 0.5, color="0.9", linewidth=0.8)
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.invert_yaxis()
    axes.set(xlabel="seconds from the start of the run", xlim=(0, None), title=title)
    return _written(figure, path, record)


def stacked(spans: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Spans (begin, length) in as few rows as hold them without overlap."""
    rows: list[list[tuple[float, float]]] = []
    for begun, length in sorted(spans):
        free = next((row for row in rows if sum(row[-1]) <= begun), None)
        if free is None:
            free = []
            rows.append(free)
        free.append((begun, length))
    return rows


_TIMES = ("median_s", "low_s", "high_s")


def _figure(size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def provenance(record: Record) -> str:
    """Command, date, source and processor of a record, in a line."""
    machine = record.get("machine") or record.get("conditions", {}).get("machine", {})
    return (
        f"{record.get('command', 'unknown command')}; {record.get('date', 'unknown date')}; "
        f"source {record.get('source', 'unknown')}; {machine.get('processor', 'unknown processor')}, "
        f"{machine.get('cores', '?')} cores"
    )


def _written(figure: Figure, path: Path, record: Record) -> Path:
    image = io.BytesIO()
    metadata = {"Software": None, "Title": path.stem, "Description": provenance(record)}
    figure.savefig(image, format="png", dpi=120, metadata=metadata)
    with atomic_file(path) as file:
        file.write(image.getvalue())
    return path
