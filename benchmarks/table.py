"""What a table of `python -m benchmarks` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
WORK = Path.home() / ".cache" / "scanside-benchmarks"


def seed_range(text: str) -> range:
    """`FIRST:END` as a range."""
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """A table that takes nothing but where it is written and which pack it uses."""


@dataclass(frozen=True)
class Table:
    """One committed table: how it is called, what it takes, how long it takes, and what makes it.

    `make` gets `out`, `pack` (if the table `takes_pack`) and what `arguments` adds to the parser, by name. `minutes`
    gets the same and says how long that takes on two idle cores. `needs` names what must be given: such a table is not
    part of "all tables".
    """

    name: str
    help: str
    make: Callable[..., None]
    minutes: Callable[[Mapping[str, Any]], float]
    arguments: Callable[[argparse.ArgumentParser], None] = no_arguments
    needs: str = ""
    takes_pack: bool = True
