"""`python -m benchmarks TABLE`: make one committed table again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import formats, phantoms, sensitivity
from scanside.errors import ScansideError

RESULTS = Path(__file__).parent / "results"


def seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


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
        ("formats", "the same exam in every format and transfer syntax gives the same lesions"),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        table.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")
        if name == "phantoms":
            table.add_argument("--seeds", type=seeds, default=range(5000, 5020), help="FIRST:END")
        else:
            table.add_argument("--seed", type=int, default=5100)
    add_sensitivity(tables)
    arguments = vars(parser.parse_args())
    make = {"phantoms": phantoms.make_table, "formats": formats.make_table, "sensitivity": make_sensitivity}
    try:
        make[arguments.pop("table")](**arguments)
    except ScansideError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
