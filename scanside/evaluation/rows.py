"""Strict reading of a comma-separated table: every fault names its row, and never what a patient's cell holds."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scanside.evaluation.errors import CohortError

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One row of a table. `line` counts the file's lines from 1, the header included, as editors do."""

    file: str
    line: int
    cells: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.line}"

    def text(self, column: str) -> str:
        """The cell, which must not be empty."""
        value = self.cells[column]
        if not value:
            raise CohortError(f"the {column} is empty", where=self.where)
        return value

    def choice(self, column: str, values: Mapping[str, T]) -> T:
        """What the cell's word stands for."""
        word = self.text(column).lower()
        if word not in values:
            raise CohortError(
                f"the {column} is unknown", where=self.where, expected=", ".join(values), found=repr(self.cells[column])
            )
        return values[word]

    def number(self, column: str, low: float, high: float) -> float:
        """The cell as a finite number from `low` to `high`; NaN where the column is absent or the cell is empty."""
        text = self.cells.get(column, "")
        if not text:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            span = f"a number from {low:g} to {high:g}" if math.isfinite(high) else f"a number of at least {low:g}"
            raise CohortError(f"the {column} makes no sense", where=self.where, expected=span, found=repr(text))
        return value

    def needed_number(self, column: str, low: float, high: float) -> float:
        """The cell as a finite number from `low` to `high`; an empty one is an error."""
        self.text(column)
        return self.number(column, low, high)


@dataclass(frozen=True)
class Rows:
    """A table. `unused` are the columns that mean nothing here, in the file's order."""

    file: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unused: tuple[str, ...]


def read_rows(path: str | os.PathLike[str], required: Sequence[str], optional: Sequence[str]) -> Rows:
    """Read a UTF-8 CSV file with a header line.

    Column names may be in any order and case. Empty lines are skipped. Columns that are neither required nor optional
    are left out and listed.

    Raises
    ------
    CohortError
        The file cannot be read, is empty, has another delimiter, lacks a column, names one twice, or a row has more or
        fewer cells than the header.
    """
    path = Path(path)
    known = (*required, *optional)
    lines = _lines(path)
    if not lines:
        raise CohortError("the table is empty", where=path, expected=f"a header line with {', '.join(required)}")
    header = [name.strip().lower() for name in lines[0][1]]
    if len(header) == 1:
        _refuse_delimiter(path, header[0], required)
    missing = [name for name in required if name not in header]
    if missing:
        raise CohortError(
            f"the table lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where=f"{path}, row {lines[0][0]}",
            expected=f"{', '.join(required)} (and optionally {', '.join(optional)})",
            found=", ".join(header),
        )
    twice = sorted({name for name in header if name in known and header.count(name) > 1})
    if twice:
        raise CohortError(f"the column {twice[0]} is there twice", where=f"{path}, row {lines[0][0]}")
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise CohortError(
                "the row does not fit the header",
                where=f"{path}, row {line}",
                expected=f"{len(header)} cells",
                found=len(cells),
                remedy="write decimals with a point, and put a cell that holds a comma in quotes",
            )
        named = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if name in known}
        rows.append(Row(str(path), line, named))
    if not rows:
        raise CohortError("the table has a header and no rows", where=path)
    used = tuple(name for name in header if name in known)
    return Rows(str(path), used, tuple(rows), tuple(name for name in header if name not in known))


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Every line that is not blank, with its number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except OSError as error:
        raise CohortError("the table cannot be read", where=path, found=error.strerror) from error
    except UnicodeDecodeError as error:
        raise CohortError("the table is no text", where=path, expected="CSV in UTF-8", found=error.reason) from error
    except csv.Error as error:
        raise CohortError("the table is no CSV", where=f"{path}, row {reader.line_num}", found=error) from error


def _refuse_delimiter(path: Path, header: str, required: Sequence[str]) -> None:
    for character, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (" ", "spaces")):
        if character in header and any(part.strip() in required for part in header.split(character)):
            raise CohortError(
                "the table has another delimiter",
                where=f"{path}, row 1",
                expected="commas",
                found=name,
                remedy="save it as comma-separated CSV, decimals with a point",
            )
