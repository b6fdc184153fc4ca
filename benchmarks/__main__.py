"""`python -m benchmarks TABLE`: make one committed table again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import coverage, evaluation, formats, paper, phantoms
from scanside.errors import ScansideError

RESULTS = Path(__file__).parent / "results"


def seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


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
    for name, text, repetitions in (
        ("coverage", "how often the 95 %% intervals of the evaluation hold the truth", 4000),
        ("evaluation", "how long `scanside evaluate` takes for 1,000 cases", 5),
        ("paper", "the paper's printed figures computed again, and docs/paper-errata.md", None),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        if repetitions is not None:
            table.add_argument("--repetitions", type=int, default=repetitions)
    arguments = vars(parser.parse_args())
    modules = {"phantoms": phantoms, "formats": formats, "coverage": coverage, "evaluation": evaluation, "paper": paper}
    make: Callable[..., None] = modules[arguments.pop("table")].make_table
    try:
        make(**arguments)
    except ScansideError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
