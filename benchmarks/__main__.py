"""`python -m benchmarks TABLE`: make one committed table again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import formats, phantoms, plans
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
        ("plans", "size, memory and build time of TensorRT plans, built without a GPU"),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        table.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")
        if name == "phantoms":
            table.add_argument("--seeds", type=seeds, default=range(5000, 5020), help="FIRST:END")
        elif name == "plans":
            table.add_argument("--targets", default="SM86,SM89,SM120", help="SM86,SM89,...")
            table.add_argument("--backbones", default="", help="untrained classifiers instead: resnet50,...")
        else:
            table.add_argument("--seed", type=int, default=5100)
    arguments = vars(parser.parse_args())
    make = {"phantoms": phantoms.make_table, "formats": formats.make_table, "plans": plans.make_table}[
        arguments.pop("table")
    ]
    try:
        make(**arguments)
    except ScansideError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
