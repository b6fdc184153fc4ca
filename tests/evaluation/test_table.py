"""How numbers are written, and a table as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math

import pytest

from scanside.evaluation.diagnosis import Interval
from scanside.evaluation.table import Table, csv_text, number, p_text, percent, span


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.9815, 3, "0.982"), (0.98148, 3, "0.981"), (-0.0625, 3, "-0.063"), (0.0625, 3, "0.063"), (1, 3, "1.000")],
)
def test_numbers_are_rounded_as_readers_do(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_what_is_not_defined_is_a_dash() -> None:
    assert number(math.nan) == p_text(math.nan) == span(Interval(math.nan, math.nan, "")) == "–"


def test_small_p_values() -> None:
    assert [p_text(p) for p in (0.0004, 0.001, 0.0496, 1.0)] == ["<0.001", "0.001", "0.050", "1.000"]


def test_spans_and_percentages() -> None:
    assert span(Interval(0.9652, 0.9951, "")) == "0.965–0.995"
    assert span(Interval(-0.01, 0.02, "")) == "-0.010 to 0.020"
    assert percent(53 / 54) == "98.1"


def test_a_table_twice() -> None:
    table = Table("t", "Title", ("a|b", "c"), (("1", "2|3"),), ({"x": 0.1234567, "y": None}, {"z": True}), ("Note.",))
    assert table.markdown() == "**Title**\n\n| a\\|b | c |\n| --- | --- |\n| 1 | 2\\|3 |\n\nNote.\n"
    assert list(csv.reader(io.StringIO(table.csv()))) == [["x", "y", "z"], ["0.123457", "", ""], ["", "", "1"]]


def test_csv_cells() -> None:
    assert csv_text([{"a": math.nan, "b": 'say "x, y"', "c": 3, "d": math.inf}]) == 'a,b,c,d\n,"say ""x, y""",3,inf\n'
