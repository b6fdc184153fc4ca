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
from benchmarks.table import DOCS, Table
from scanside.errors import ExamReadError, UsageError
from scanside.exam.write import atomic_file

GOALS = {
    "exact": {"paper": 10.0, "onnxruntime": 2.5, "openvino": 1.0},
    "confirm": {"paper": 25.0, "onnxruntime": 6.0, "openvino": 2.0},
}
"""How many times longer each peer should take, by policy."""
LIVE_GOAL_S = 1.0
"""From the last frame of a sweep to its report."""
INTRODUCTION = """# Performance

Made by `python -m benchmarks page` from the tables in `benchmarks/results/`; do not edit. All exams are synthetic
phantoms. Absolute times belong to the machine named with them; ratios were taken in turns on the same cores in the
same run, and are given with their range over the rounds.

Tables dated November 2026 were made with the shipped pack 0.2.0. The networks of 0.3.0 are the same layer by layer, the
segmenter also in its weights. Its classifier has no certificate for a processor with AMX yet: where these tables have
it in bf16 or INT8, it runs in FP32 there until `scanside parity` has been run, and takes 0.33 s an exam in place of
0.09 or 0.07 s (`measured_s` of the rooflines).
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

    A table that is not there is named as missing.

    Raises
    ------
    UsageError
        There are no results.
    ExamReadError
        A results file is damaged.
    """
    found = {kind: results(out, pattern) for kind, (pattern, _) in PARTS.items()}
    sections = [PARTS[kind][1](result, docs) for kind, those in found.items() for result in those]
    if not sections:
        raise UsageError("no results to make a page of", where=out, remedy="make some: `python -m benchmarks exam`")
    missing = [kind for kind, those in found.items() if not those]
    with atomic_file(docs / "performance.md") as file:
        file.write("\n".join([INTRODUCTION, *sections, *([absent(missing)] if missing else [])]).encode())


def results(folder: Path, pattern: str) -> list[Result]:
    """The results whose record's name fits `pattern`, by name, each with the table beside its record, if any."""
    found = []
    for file in sorted(folder.glob(f"{pattern}.json")):
        table = file.with_suffix(".csv")
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ExamReadError("a results file is damaged", where=file, found=str(error)) from None
        found.append(Result(file.stem, read_csv(table) if table.is_file() else (), record, folder))
    return found


def absent(kinds: Sequence[str]) -> str:
    """Which tables are not there."""
    lines = [f"- {kind}: `python -m benchmarks {kind}`" for kind in kinds]
    return "\n".join(["## Missing\n", "These tables have not been made:\n", *lines]) + "\n"


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
    plot = plots.contest(result.rows, images(docs) / f"performance-{result.name}.png", record, result.name)
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
            "Busy seconds of our stages in these rounds; stages overlap.\n" if result.beside("stages") else "",
            whole_table(result.beside("stages")),
        ]
    )


def scaling_part(result: Result, docs: Path) -> str:
    """Cost against size."""
    columns = ("varied", "value", "threads", "sections", "mb", "lesions", "median_s", "segment_s", "peak_rss_mib")
    plot = plots.scaling(result.rows, images(docs) / f"performance-{result.name}.png", result.record)
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
    plot = plots.start(result.rows, images(docs) / f"performance-{result.name}.png", result.record)
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
    plot = plots.roofline(layers, images(docs) / f"performance-{result.name}.png", record)
    return "\n".join(
        [
            f"## What binds each stage: {result.name}\n",
            where_from(record, f"{record['ran_precision']}, {record['threads']} threads"),
            f"A large matrix product of this precision reaches {record['gemm_gop_per_s']} Gop/s ({record['gemm_by']}) "
            f"and a copy {record['memory_gb_per_s']} GB/s on these cores. `bound_s` is the least time a stage's work "
            "can take at these two rates, for networks layer by layer; `bound_over_measured` is how near it comes.\n",
            sentence(result.rows),
            f"![Layers under the two rates]({relative(plot, docs)})\n",
            whole_table(result.rows),
            whole_table(layers),
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


def trace_part(result: Result, docs: Path) -> str:
    """When each stage works."""
    record, picture = result.record, images(docs) / f"{result.name}.png"
    shown = f"![When each stage works]({relative(picture, docs)})\n" if picture.is_file() else ""
    return "\n".join(
        [
            f"## When each stage works: {result.name}\n",
            where_from(record, f"the median of {record['repetitions']} runs, {record['median_ms']} ms"),
            shown,
            whole_table(result.rows),
        ]
    )


def live_part(result: Result, docs: Path) -> str:
    """Sweeps in real time."""
    record = result.record
    plot = plots.live(result.rows, images(docs) / f"performance-{result.name}.png", record, LIVE_GOAL_S)
    worst = max(float(row["worst_ms"]) / 1e3 for row in result.rows)
    verdict = "reached" if worst <= LIVE_GOAL_S else "missed"
    return "\n".join(
        [
            f"## Live: {result.name}\n",
            where_from(record, f"policy `{record['policy']}`, {record['ran_precision']}, {record['threads']} threads"),
            f"The goal, {LIVE_GOAL_S:g} s from the last frame to the report, is {verdict}: the slowest sweep took "
            f"{worst:.2f} s. `sections_left` and `triplets_left` are what the last frame left to do, at most.\n",
            f"![Seconds from the last frame to the report]({relative(plot, docs)})\n",
            whole_table(result.rows),
        ]
    )


def loadgen_part(result: Result, docs: Path) -> str:
    """MLPerf LoadGen."""
    record = result.record
    settings = (
        f"at least {record['seconds']:g} s and {record['queries']} queries; official MLPerf runs take 600 s. "
        f"policy `{record['policy']}`, {record['ran_precision']}, {record['threads']} threads"
    )
    return "\n".join([f"## MLPerf LoadGen: {result.name}\n", where_from(record, settings), whole_table(result.rows)])


def policies_part(result: Result, docs: Path) -> str:
    """Policy `confirm` against `exact`."""
    record = result.record
    plot = plots.policies(result.rows, images(docs) / f"performance-{result.name}.png", record)
    differences = [
        (name.replace("_", " "), _value(found), _interval(found))
        for name, found in record["difference"].items()
        if name != "lesions_both_found"
    ]
    return "\n".join(
        [
            f"## Policies: {result.name}\n",
            where_from(record, f"{record['volumes']} phantoms with {record['lesions']} lesions"),
            f"![Sections a volume]({relative(plot, docs)})\n",
            whole_table(result.rows),
            "`confirm` minus `exact`, with 95 % intervals (bootstrap over phantoms):\n",
            markdown(("", "difference", "95 % interval"), differences),
        ]
    )


FROC_SCORE = "The FROC score is the mean sensitivity at 1/8 to 8 false positives a volume; Dice is of lesions found.\n"


def phantoms_part(result: Result, docs: Path) -> str:
    """Findings against the known truth."""
    record = result.record
    columns = (
        "volumes",
        "lesions",
        "found",
        "sensitivity",
        "false_positives_per_volume",
        "froc_score",
        "dice_mean",
        "dice_median",
        "auc",
        "accuracy",
    )
    columns = tuple(column for column in columns if column in record)
    sizes = [(name, f"{found} of {lesions}") for name, (found, lesions) in record.get("found_by_size", {}).items()]
    return "\n".join(
        [
            "## Lesions found\n",
            where_from(record, f"seeds {record['seeds'][0]} to {record['seeds'][-1]}, {record['precision']}"),
            markdown(columns, [[record[column] for column in columns]]),
            *([markdown(("size", "found"), sizes), FROC_SCORE] if sizes else []),
        ]
    )


def parity_part(result: Result, docs: Path) -> str:
    """Precisions against the reference."""
    return "\n".join(
        [
            f"## Parity: {result.name}\n",
            where_from(result.record, "each precision against the PyTorch reference"),
            whole_table(result.rows),
        ]
    )


def soak_part(result: Result, docs: Path) -> str:
    """Many exams in one process."""
    record = result.record
    plot = plots.soak(result.rows, images(docs) / f"performance-{result.name}.png", record)
    columns = (
        "exams",
        "resident_mib_per_100_exams",
        "threads_more",
        "open_files_more",
        "different_reports_an_exam",
    )
    return "\n".join(
        [
            f"## Many exams in one process: {result.name}\n",
            where_from(record, f"policy `{record['policy']}`, {record['ran_precision']}"),
            f"![Memory, threads and files]({relative(plot, docs)})\n",
            markdown(columns, [[record[column] for column in columns]]),
        ]
    )


PARTS: dict[str, tuple[str, Callable[[Result, Path], str]]] = {
    "exam": ("exam-*", exam_part),
    "trace": ("trace-*", trace_part),
    "roofline": ("roofline-*", roofline_part),
    "scaling": ("scaling-*", scaling_part),
    "start": ("start-*", start_part),
    "live": ("live-*", live_part),
    "loadgen": ("loadgen-*", loadgen_part),
    "policies": ("policies-*", policies_part),
    "phantoms": ("phantoms-summary", phantoms_part),
    "parity": ("parity*", parity_part),
    "soak": ("soak-*", soak_part),
}
"""What the page shows, in order: the names of the records of each table, and what makes its part."""


def where_from(record: Mapping[str, Any], more: str) -> str:
    """Processor, conditions, versions and the command."""
    machine = record.get("machine") or record.get("conditions", {}).get("machine")
    place = "a processor that was not recorded"
    if machine:
        place = f"{machine['processor']}, {machine['cores']} cores, {machine['instructions']}"
    return (
        f"{place}; {more}. "
        f"onnxruntime {record['onnxruntime']}, source {record['source']}, {record['date']}: `{record['command']}`.\n"
    )


def whole_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table as it is; nothing where there is none."""
    columns = tuple(rows[0]) if rows else ()
    return markdown(columns, [[row[c] for c in columns] for row in rows])


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


def _value(found: Mapping[str, float] | None) -> str:
    return "not known" if found is None else f"{found['value']:g}"


def _interval(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['low']:g} to {found['high']:g}"


TABLE = Table("page", "docs/performance.md and its plots, of the results there are", make_table, lambda _: 1, arguments)
