"""Rows survive an interruption, are not mixed with rows made otherwise, and a folder that refuses is said at once."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.done import Done, Rows, require_folder
from scanside.errors import OutputError

HOW = {"seeds": [1, 2], "pack": "abc"}


def rows_in(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_kept_and_go_on(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    first = Rows(table, ("seed",), HOW)
    first.add({"seed": 1, "found": 3})
    assert not table.exists()
    again = Rows(table, ("seed",), HOW)  # a new process
    assert (1,) in again
    assert (2,) not in again
    again.add({"seed": 2, "found": 5})
    again.finish()
    assert rows_in(table) == [{"seed": "1", "found": "3"}, {"seed": "2", "found": "5"}]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert Rows(table, ("seed",), HOW).rows == []  # a finished table is made anew


def test_rows_made_otherwise_are_not_taken_over(tmp_path: Path) -> None:
    Rows(tmp_path / "t.csv", ("seed",), HOW).add({"seed": 1})
    other = Rows(tmp_path / "t.csv", ("seed",), {**HOW, "pack": "def"})
    assert other.rows == []
    assert Rows(tmp_path / "t.csv", ("seed",), HOW).rows == []


def test_half_a_row_is_made_again(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "t.csv", ("seed",), HOW)
    rows.add({"seed": 1})
    rows.add({"seed": 2})
    file = tmp_path / ".t.rows.jsonl"
    file.write_text(file.read_text()[:-4])
    again = Rows(tmp_path / "t.csv", ("seed",), HOW)
    assert again.rows == [{"seed": 1}]
    again.add({"seed": 2})
    assert Rows(tmp_path / "t.csv", ("seed",), HOW).rows == [{"seed": 1}, {"seed": 2}]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"results cannot be written here.*--out"):
        require_folder(tmp_path / "file" / "results")
    require_folder(tmp_path / "new" / "results")
    assert list((tmp_path / "new" / "results").iterdir()) == []


def test_finished_tables_are_remembered_until_all_are_done(tmp_path: Path) -> None:
    done = Done(tmp_path / "done")
    assert "exam" not in done
    done.add("exam")
    assert "exam" in Done(tmp_path / "done")
    assert "ex" not in Done(tmp_path / "done")
    done.forget()
    assert "exam" not in done
