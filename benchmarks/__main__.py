"""`python -m benchmarks TABLE`: make one committed table again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import busbra, formats, live, operating_point, phantoms, policies, soak
from scanside.console.options import shape_from
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
        ("operating-point", "lesions found and false positives at every threshold, on phantoms kept for that"),
        ("formats", "the same exam in every format and transfer syntax gives the same lesions"),
    ):
        table = tables.add_parser(name, help=text)
        table.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        table.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")
        if name == "phantoms":
            table.add_argument("--seeds", type=seeds, default=range(5000, 5020), help="FIRST:END")
        elif name == "operating-point":
            table.add_argument("--seeds", type=seeds, default=range(2020, 2040), help="FIRST:END")
        else:
            table.add_argument("--seed", type=int, default=5100)
    table = tables.add_parser("busbra", help="classification of BUS-BRA's lesions over its five folds")
    table.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
    table.add_argument("--busbra", type=Path, required=True, help="folder of BUS-BRA")
    table.add_argument("--imagenet", type=Path, required=True, help="folder of ResNet50 weights in the Keras layout")
    table.add_argument("--work", type=Path, required=True, help="folder for weights and checkpoints")
    table.add_argument("--folds", type=seeds, default=range(1, 6), help="FIRST:END")
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
    makers = {
        "phantoms": phantoms.make_table,
        "operating-point": operating_point.make_table,
        "formats": formats.make_table,
        "busbra": busbra.make_table,
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
