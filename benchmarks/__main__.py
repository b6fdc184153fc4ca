"""`python -m benchmarks TABLE`: make one committed table again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    busbra,
    cohort_tables,
    coverage,
    evaluation,
    formats,
    live,
    operating_point,
    paper,
    phantoms,
    plans,
    policies,
    sensitivity,
    soak,
)
from scanside.console.options import shape_from
from scanside.errors import ScansideError

RESULTS = Path(__file__).parent / "results"


def seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def add_cohort_tables(table: argparse.ArgumentParser) -> None:
    table.add_argument("--cohort", type=Path, required=True, help="folder of the lesions; made, or continued")
    table.add_argument("--runs", type=Path, required=True, help="folder of the trainings; continued")
    table.add_argument("--out", type=Path, default=RESULTS, help="folder for predictions and the table")
    table.add_argument("--imagenet", type=Path, help="ResNet50 weights (Keras layout) for the resnet50 models")
    table.add_argument(
        "--model", dest="models", action="append", metavar="BACKBONE:VARIANT",
        help="may be given several times; all of both tables if absent",
    )  # fmt: skip
    table.add_argument("--part", dest="parts", action="append", help="parts of the cohort; all but parity if absent")
    table.add_argument("--recipe", default="tables", help="a recipe of the package, or the path of a .toml file")
    table.add_argument("--difficulty", type=float, default=0.0, help="how far the classes' looks overlap, 0 to 1")
    table.add_argument("--workers", type=int, default=2)
    table.add_argument("--seed", type=int)
    table.add_argument("--steps", type=int)
    table.add_argument("--minutes", type=float)
    table.set_defaults(models=None, parts=None)


def add_sensitivity(tables: argparse._SubParsersAction) -> None:
    table = tables.add_parser("sensitivity", help="which blocks suffer from 8 bits, and how many must be kept")
    table.add_argument("--network", choices=("segmenter", "classifier"), required=True)
    table.add_argument("--calibrate", nargs="+", default=["phantom:3000:3016"], help="exams whose ranges are observed")
    table.add_argument("--judge", nargs="+", default=["phantom:3100:3116"], help="exams that are judged on")
    table.add_argument("--sections", type=int, default=480)
    table.add_argument("--triplets", type=int, default=240)
    table.add_argument("--limit", type=int, default=12, help="most blocks kept on the curve")
    table.add_argument("--method", choices=sensitivity.METHODS, default=None)
    table.add_argument("--work", type=Path, required=True, help="folder for what a killed run leaves to go on from")
    table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    table.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")


def make_sensitivity(work: Path, out: Path, pack: Path | None, **plan: Any) -> None:
    sensitivity.make_table(sensitivity.Plan(**plan), work, out, pack)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    tables = parser.add_subparsers(dest="table", required=True)
    for name, text in (
        ("phantoms", "lesions found, missed and classified on full-size phantoms never used in training"),
        ("operating-point", "lesions found and false positives at every threshold, on phantoms kept for that"),
        ("formats", "the same exam in every format and transfer syntax gives the same lesions"),
        ("plans", "size, memory and build time of TensorRT plans, built without a GPU"),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        table.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")
        if name == "phantoms":
            table.add_argument("--seeds", type=seeds, default=range(5000, 5020), help="FIRST:END")
        elif name == "operating-point":
            table.add_argument("--seeds", type=seeds, default=range(2020, 2040), help="FIRST:END")
        elif name == "plans":
            table.add_argument("--targets", default="SM86,SM89,SM120", help="SM86,SM89,...")
            table.add_argument("--backbones", default="", help="untrained classifiers instead: resnet50,...")
        else:
            table.add_argument("--seed", type=int, default=5100)
    table = tables.add_parser("busbra", help="classification of BUS-BRA's lesions over its five folds")
    table.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
    table.add_argument("--busbra", type=Path, required=True, help="folder of BUS-BRA")
    table.add_argument("--imagenet", type=Path, required=True, help="folder of ResNet50 weights in the Keras layout")
    table.add_argument("--work", type=Path, required=True, help="folder for weights and checkpoints")
    table.add_argument("--folds", type=seeds, default=range(1, 6), help="FIRST:END")
    for name, text, repetitions in (
        ("coverage", "how often the 95 %% intervals of the evaluation hold the truth", 4000),
        ("evaluation", "how long `scanside evaluate` takes for 1,000 cases", 5),
        ("paper", "the paper's printed figures computed again, and docs/paper-errata.md", None),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        if repetitions is not None:
            table.add_argument("--repetitions", type=int, default=repetitions)
    add_cohort_tables(tables.add_parser("cohort-tables", help="the paper's Tables 2 and 3 on phantom lesions"))
    add_sensitivity(tables)
    for name, text in (
        ("policies", "policy confirm against exact on full-size phantoms"),
        ("live", "seconds from the last frame of a sweep in real time to its report"),
        ("soak", "memory, threads and files over many exams in one process"),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
        table.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")
        table.add_argument("--precision", default="auto", help="as for scanside analyze")
        table.add_argument("--shape", type=shape_from, default=(318, 600, 800), help="SWEEPxDEPTHxLATERAL")
        if name == "soak":
            table.add_argument("--exams", type=int, default=300)
        else:
            first = 5100 if name == "policies" else 5200
            table.add_argument("--seeds", type=seeds, default=range(first, first + (40 if name == "policies" else 3)))
        if name != "policies":
            table.add_argument("--policy", choices=("exact", "confirm"), default="confirm")
        if name == "live":
            rates = (live.STANDARD_RATE, 4 * live.STANDARD_RATE)
            table.add_argument("--rates", type=float, nargs="+", default=rates, help="frames a second")
    arguments = vars(parser.parse_args())
    makers: dict[str, Callable[..., None]] = {
        "phantoms": phantoms.make_table,
        "operating-point": operating_point.make_table,
        "formats": formats.make_table,
        "busbra": busbra.make_table,
        "cohort-tables": cohort_tables.make_table,
        "coverage": coverage.make_table,
        "evaluation": evaluation.make_table,
        "paper": paper.make_table,
        "plans": plans.make_table,
        "sensitivity": make_sensitivity,
        "policies": policies.make_table,
        "live": live.make_table,
        "soak": soak.make_table,
    }
    make = makers[arguments.pop("table")]
    arguments["out"].mkdir(parents=True, exist_ok=True)
    try:
        make(**arguments)
    except ScansideError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
