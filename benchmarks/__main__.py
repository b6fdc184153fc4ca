"""`python -m benchmarks TABLE` makes one committed table again; without a table, all that need no outside data.

An interrupted table goes on where it stopped when it is started again, and so does an interrupted run of all tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.done import Done, require_folder
from benchmarks.table import RESULTS, Table
from scanside.console.errors import report_error
from scanside.console.stop import Stop
from scanside.errors import Cancelled, ScansideError

MODULES = (
    "phantoms",
    "operating_point",
    "formats",
    "policies",
    "live",
    "soak",
    "exam",
    "trace",
    "loadgen",
    "scaling",
    "start",
    "roofline",
    "plans",
    "sensitivity",
    "parity",
    "busbra",
    "busbra_table",
    "busbra_unet",
    "busbra_outline",
    "cohort_tables",
    "coverage",
    "evaluation",
    "paper",
    "compare",
    "page",
)
"""Each has its `TABLE`; all tables are made in this order, the page last."""


def tables() -> tuple[Table, ...]:
    """Every table there is."""
    return tuple(import_module(f"benchmarks.{name}").TABLE for name in MODULES)


def parser_of(known: Sequence[Table]) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="table", metavar="TABLE")
    verbs.add_parser("list", help="the tables, and how long each takes")
    for table in known:
        verb = verbs.add_parser(table.name, help=table.help.replace("%", "%%"), description=table.help)
        verb.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
        if table.takes_pack:
            verb.add_argument("--pack", type=Path, default=None, help="pack folder; the shipped one by default")
        table.arguments(verb)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    known = {table.name: table for table in tables()}
    parser = parser_of(tuple(known.values()))
    arguments = vars(parser.parse_args(words))
    chosen = arguments.pop("table")
    if chosen == "list":
        show(parser, known)
        return 0
    try:
        with Stop():
            if chosen is None:
                make_all(parser, known)
            else:
                make(known[chosen], arguments)
    except Cancelled as error:
        print("finished rows are kept: the same command goes on from there", file=sys.stderr)
        return report_error(error)
    except ScansideError as error:
        return report_error(error)
    return 0


def make(table: Table, arguments: dict[str, Any]) -> None:
    """Make one table, saying beforehand how long it should take."""
    require_folder(arguments["out"])
    print(f"{table.name}: about {table.minutes(arguments):.0f} minutes on two idle cores", file=sys.stderr, flush=True)
    table.make(**arguments)


def make_all(parser: argparse.ArgumentParser, known: dict[str, Table]) -> None:
    """Make every table that needs nothing, with its defaults; those finished before an interruption are passed over."""
    require_folder(RESULTS)
    done = Done(RESULTS / ".done-tables")
    wanted = {name: defaults(parser, name) for name, table in known.items() if not table.needs}
    left = sum(known[name].minutes(values) for name, values in wanted.items() if name not in done)
    print(f"all tables: about {left / 60:.1f} hours on two idle cores", file=sys.stderr, flush=True)
    for name, values in wanted.items():
        if name not in done:
            make(known[name], values)
            done.add(name)
    done.forget()


def show(parser: argparse.ArgumentParser, known: dict[str, Table]) -> None:
    """Every table with its time."""
    for name, table in known.items():
        time = "" if table.needs else f"{table.minutes(defaults(parser, name)):5.0f} min"
        print(f"{name:<18} {time:>9}  {table.help}" + (f" (needs {table.needs})" if table.needs else ""))


def defaults(parser: argparse.ArgumentParser, name: str) -> dict[str, Any]:
    """What a table takes when nothing is said."""
    values = vars(parser.parse_args([name]))
    values.pop("table")
    return values


if __name__ == "__main__":
    sys.exit(main())
