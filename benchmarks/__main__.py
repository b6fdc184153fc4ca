"""`python -m benchmarks TABLE`: make one committed table again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import cohort_tables, formats, phantoms
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    tables = parser.add_subparsers(dest="table", required=True)
    for name, text in (
        ("phantoms", "lesions found, missed and classified on full-size phantoms never used in training"),
        ("formats", "the same exam in every format and transfer syntax gives the same lesions"),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        table.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")
        if name == "phantoms":
            table.add_argument("--seeds", type=seeds, default=range(5000, 5020), help="FIRST:END")
        else:
            table.add_argument("--seed", type=int, default=5100)
    add_cohort_tables(tables.add_parser("cohort-tables", help="the paper's Tables 2 and 3 on phantom lesions"))
    arguments = vars(parser.parse_args())
    make = {
        "phantoms": phantoms.make_table,
        "formats": formats.make_table,
        "cohort-tables": cohort_tables.make_table,
    }[arguments.pop("table")]
    try:
        make(**arguments)
    except ScansideError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
