"""A table to read (Markdown) and to compute with (CSV): the same content twice, and how numbers are written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scanside.evaluation.diagnosis import Interval

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """One table of the evaluation.

    Attributes
    ----------
    name : str
        File name without suffix.
    title : str
        Caption.
    columns, rows : tuple
        What a reader sees.
    records : tuple of dict
        The same, tidy and unrounded: one value a row.
    notes : tuple of str
        Which methods and what to mind.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Caption, table and notes."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        head = [f"**{self.title}**", "", line(self.columns), line(["---"] * len(self.columns))]
        notes = [part for note in self.notes for part in ("", note)]
        return "\n".join([*head, *map(line, self.rows), *notes]) + "\n"

    def csv(self) -> str:
        """The records as CSV."""
        return csv_text(self.records)


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV: columns in the order they first appear, NaN and None as empty cells."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(record.get(name)) for name in columns] for record in records)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def number(value: float, digits: int = 3) -> str:
    """With a fixed number of decimals, halves away from zero as a reader rounds; a dash when not defined."""
    if math.isnan(value):
        return NOTHING
    return f"{math.copysign(math.floor(abs(value) * 10**digits + 0.5 + 1e-9) / 10**digits, value):.{digits}f}"


def percent(value: float) -> str:
    """A proportion as a percentage with one decimal, without the sign."""
    return number(100 * value, 1)


def span(interval: Interval, digits: int = 3) -> str:
    """`0.965-0.995` with an en dash; negative bounds with `to`."""
    if math.isnan(interval.low):
        return NOTHING
    joint = " to " if interval.low < 0 else "–"
    return f"{number(interval.low, digits)}{joint}{number(interval.high, digits)}"


def p_text(p: float) -> str:
    """`<0.001`, or three decimals."""
    if math.isnan(p):
        return NOTHING
    return "<0.001" if p < 0.001 else number(p)


def bounds(prefix: str, interval: Interval) -> dict[str, float]:
    """Two columns of a record."""
    return {f"{prefix}_low": interval.low, f"{prefix}_high": interval.high}
