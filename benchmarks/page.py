"""`docs/performance.md`, made of what lies in the results folder: tables, plots, and under which conditions."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.done import require_folder
from benchmarks.table import Table
from scanside.errors import ExamReadError, UsageError
from scanside.exam.write import atomic_file

DOCS = Path(__file__).parents[1] / "docs"
GOALS = {
    "exact": {"paper": 10.0, "onnxruntime": 2.5, "openvino": 1.0},
    "confirm": {"paper": 25.0, "onnxruntime": 6.0, "openvino": 2.0},
}
"""How many times longer each peer should take, by policy."""
INTRODUCTION = """# Performance

Made by `python -m benchmarks page` from the tables in `benchmarks/results/`; do not edit. All exams are synthetic
phantoms. Absolute times belong to the machine named with them; ratios were taken in turns on the same cores in the
same run, and are given with their range over the rounds.
"""


@dataclass(frozen=True)
class Result:
    """One committed table: its name, its lines, and its record."""

    name: str
    rows: Sequence[Mapping[str, str]]
    record: Mapping[str, Any]
    folder: Path

    def beside(self, ending: str) -> Sequence[Mapping[str, str]]:
        """The lines of the table that lies beside it under `ending`; none if there is no such table."""
        file = self.folder / f"{self.name}-{ending}.csv"
        return read_csv(file) if file.is_file() else ()


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the page takes."""
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for performance.md and its images")


def make_table(out: Path, pack: Path | None, docs: Path) -> None:
    """Write performance.md and images/performance-*.png into `docs`, of the results in `out`.

    Raises
    ------
    UsageError
        There are no results.
    ExamReadError
        A results file is damaged.
    """
    sections = [part(result, docs) for kind, part in PARTS.items() for result in results(out, kind)]
    if not sections:
        raise UsageError("no results to make a page of", where=out, remedy="make some: `python -m benchmarks exam`")
    with atomic_file(docs / "performance.md") as file:
        file.write("\n".join([INTRODUCTION, *sections]).encode())


def results(folder: Path, kind: str) -> list[Result]:
    """The results called `<kind>-<conditions>`, by name: those that have a record."""
    found = []
    for file in sorted(folder.glob(f"{kind}-*.json")):
        table = file.with_suffix(".csv")
        if table.is_file():
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ExamReadError("a results file is damaged", where=file, found=str(error)) from None
            found.append(Result(file.stem, read_csv(table), record, folder))
    return found


def read_csv(file: Path) -> list[dict[str, str]]:
    """The lines of a table."""
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def exam_part(result: Result, docs: Path) -> str:
    """Ours against the peers."""
    record = result.record
    goals = GOALS.get(record["policy"], {})
    lines = []
    for row in result.rows:
        goal, ratio = goals.get(row["contestant"]), float(row["ratio_median"])
        verdict = "" if goal is None else f"{goal:g} x: {'reached' if ratio >= goal else 'missed'}"
        lines.append(
            (
                row["contestant"],
                record["contestants"][row["contestant"]].get("is", ""),
                _range(row, "", "s"),
                _range(row, "ratio_", ""),
                verdict,
                row["peak_rss_mib"],
                row["probability_off"],
            )
        )
    left_out = "".join(f"\n{name} is left out: {reason}.\n" for name, reason in record["left_out"].items())
    plot = plots.contest(result.rows, images(docs) / f"performance-{result.name}.png", result.name)
    return "\n".join(
        [
            f"## The whole exam: {result.name}\n",
            where_from(record, f"policy `{record['policy']}`, {record['ran_precision']}, {record['threads']} threads"),
            f"![Seconds an exam, each contestant]({relative(plot, docs)})\n",
            markdown(
                ("", "is", "seconds (range)", "times as long as ours (range)", "goal", "peak MiB", "probability off"),
                lines,
            ),
            left_out,
        ]
    )


def scaling_part(result: Result, docs: Path) -> str:
    """Cost against size."""
    columns = ("varied", "value", "threads", "sections", "mb", "lesions", "median_s", "segment_s", "peak_rss_mib")
    plot = plots.scaling(result.rows, images(docs) / f"performance-{result.name}.png")
    return "\n".join(
        [
            f"## Cost against size: {result.name}\n",
            where_from(result.record, f"{result.record['repetitions']} runs a row, medians"),
            f"![Seconds against sections, bytes, lesions and threads]({relative(plot, docs)})\n",
            markdown(columns, [[row[c] for c in columns] for row in result.rows]),
        ]
    )


def start_part(result: Result, docs: Path) -> str:
    """Cold and warm start."""
    columns = [c for c in result.rows[0] if c not in ("starts", "peak_rss_mib")]
    plot = plots.start(result.rows, images(docs) / f"performance-{result.name}.png")
    return "\n".join(
        [
            f"## From a new process to the first section: {result.name}\n",
            where_from(result.record, f"{result.rows[0]['starts']} starts a row; parts are medians"),
            f"![The parts of a start]({relative(plot, docs)})\n",
            markdown(columns, [[row[c] for c in columns] for row in result.rows]),
        ]
    )


def roofline_part(result: Result, docs: Path) -> str:
    """What binds each stage."""
    record, layers = result.record, result.beside("layers")
    plot = plots.roofline(
        layers,
        images(docs) / f"performance-{result.name}.png",
        gop_per_s=record["gemm_gop_per_s"],
        gb_per_s=record["memory_gb_per_s"],
    )
    columns = tuple(result.rows[0])
    layer_columns = tuple(layers[0]) if layers else ()
    return "\n".join(
        [
            f"## What binds each stage: {result.name}\n",
            where_from(record, f"{record['ran_precision']}, {record['threads']} threads"),
            f"A large matrix product of this precision reaches {record['gemm_gop_per_s']} Gop/s ({record['gemm_by']}) "
            f"and a copy {record['memory_gb_per_s']} GB/s on these cores. `bound_s` is the least time a stage's work "
            "can take at these two rates, for networks layer by layer; `bound_over_measured` is how near it comes.\n",
            sentence(result.rows),
            f"![Layers under the two rates]({relative(plot, docs)})\n",
            markdown(columns, [[row[c] for c in columns] for row in result.rows]),
            markdown(layer_columns, [[row[c] for c in layer_columns] for row in layers]),
        ]
    )


def sentence(rows: Sequence[Mapping[str, str]]) -> str:
    """What the table says of each stage, in words."""
    said = []
    for row in rows:
        if row["bound_over_measured"]:
            share = float(row["bound_over_measured"])
            said.append(f"{row['stage']} is bound by {row['bound_by']} and runs at {share:.0%} of that bound")
    return "; ".join(said).capitalize() + ".\n"


PARTS: dict[str, Callable[[Result, Path], str]] = {
    "exam": exam_part,
    "roofline": roofline_part,
    "scaling": scaling_part,
    "start": start_part,
}


def where_from(record: Mapping[str, Any], more: str) -> str:
    """Processor, conditions, versions and the command."""
    machine = record.get("machine") or record["conditions"]["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['instructions']}; {more}. "
        f"onnxruntime {record['onnxruntime']}, source {record['source']}, {record['date']}: `{record['command']}`.\n"
    )


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    if not columns:
        return ""
    rows = [list(columns), ["---"] * len(columns), *([str(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def images(docs: Path) -> Path:
    """The folder for plots."""
    require_folder(docs / "images")
    return docs / "images"


def relative(plot: Path, docs: Path) -> str:
    """A plot's path as the page links to it."""
    return plot.relative_to(docs).as_posix()


def _range(row: Mapping[str, str], prefix: str, unit: str) -> str:
    end = f"_{unit}" if unit else ""
    return f"{row[f'{prefix}median{end}']} ({row[f'{prefix}low{end}']} to {row[f'{prefix}high{end}']})"


TABLE = Table("page", "docs/performance.md and its plots, of the results there are", make_table, lambda _: 1, arguments)
