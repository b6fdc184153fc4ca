"""`python -m benchmarks`: every table is listed with its time, all can be made and interrupted, errors are one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as command
from benchmarks.done import Rows
from benchmarks.table import Table
from scanside.errors import UsageError

Made = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Made:
    """Three invented tables in place of the real ones; what they were made with."""
    calls: Made = []

    def table(name: str, needs: str = "") -> Table:
        return Table(name, f"what {name} is", lambda **given: calls.append((name, given)), lambda _: 90.0, needs=needs)

    monkeypatch.setattr(command, "tables", lambda: (table("one"), table("two"), table("three", "data")))
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    return calls


def test_the_real_tables_are_listed_with_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(command.MODULES)
    assert {line.split()[0] for line in lines} >= {"exam", "compare", "page", "phantoms", "roofline"}
    assert all("min" in line or "needs" in line for line in lines)


def test_one_table_alone(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["one", "--out", str(tmp_path / "new")]) == 0
    assert made == [("one", {"out": tmp_path / "new", "pack": None})]
    assert "one: about 90 minutes" in capsys.readouterr().err


def test_all_tables_but_those_that_need_data(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert [name for name, _ in made] == ["one", "two"]
    assert "all tables: about 3.0 hours" in capsys.readouterr().err
    assert command.main([]) == 0  # a run of all that was finished starts anew
    assert len(made) == 4


def test_an_interrupted_run_of_all_goes_on(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second, third = command.tables()
    stopped = Table("two", "", lambda **_: os.kill(os.getpid(), signal.SIGINT), lambda _: 1.0)
    monkeypatch.setattr(command, "tables", lambda: (first, stopped, third))
    assert command.main([]) == 130
    monkeypatch.setattr(command, "tables", lambda: (first, second, third))
    assert command.main([]) == 0
    assert [name for name, _ in made] == ["one", "two"]


def test_ctrl_c_keeps_finished_rows(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(stop_at: int) -> Callable[..., None]:
        def work(out: Path, pack: Path | None) -> None:
            rows = Rows(out / "t.csv", ("n",), {"with": 1})
            for n in range(3):
                if n == stop_at:
                    os.kill(os.getpid(), signal.SIGINT)
                if (n,) not in rows:
                    made.append(("row", {"n": n}))
                    rows.add({"n": n})
            rows.finish()

        return work

    for stop_at, code in ((2, 130), (99, 0)):
        monkeypatch.setattr(command, "tables", lambda at=stop_at: (Table("t", "", make(at), lambda _: 1.0),))
        assert command.main(["t", "--out", str(tmp_path)]) == code
    assert [given["n"] for _, given in made] == [0, 1, 2]
    assert (tmp_path / "t.csv").read_text() == "n\n0\n1\n2\n"
    assert "finished rows are kept" in capsys.readouterr().err


def test_errors_are_one_line_with_their_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise UsageError("this makes no sense")

    monkeypatch.setattr(command, "tables", lambda: (Table("t", "", refuse, lambda _: 1.0),))
    assert command.main(["t", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: this makes no sense"
    (tmp_path / "file").touch()
    assert command.main(["t", "--out", str(tmp_path / "file" / "x")]) == 4
    assert "results cannot be written here" in capsys.readouterr().err
