from __future__ import annotations

import pytest

from scanside.console.progress import StageProgress
from scanside.engine.flow import Progress


def test_off_a_terminal_each_finished_stage_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress() as progress:
        for done in (1, 2, 3, 3):
            progress(Progress("decode", done, 3))
        progress(Progress("segment", 1, 2))
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.endswith(" s  decode  3/3")


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress(quiet=True) as progress:
        progress(Progress("decode", 3, 3))
        progress.next_volume(1, 2, "a.dcm")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_the_stages_of_the_next_volume_are_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress() as progress:
        for number in (1, 2):
            progress.next_volume(number, 2, f"{number}.dcm")
            progress(Progress("decode", 3, 3))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["1.dcm", "3/3", "2.dcm", "3/3"]


def test_bars_on_a_terminal_never_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with StageProgress() as progress:
        for done in (1, 3, 2):
            progress(Progress("decode", done, 3))
        assert progress._bars is not None
        assert [task.completed for task in progress._bars.tasks] == [3]
        progress.next_volume(2, 2, "b.dcm")
        assert progress._bars.tasks == []


def test_a_long_stage_says_once_a_minute_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("scanside.console.progress.time.monotonic", lambda: now[0])
    with StageProgress() as progress:
        for done in range(10, 21):  # ten were done before this run
            progress.advance("train", done, 500)
            now[0] += 30.0
    lines = [line.split("train")[1].strip() for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "12/500, about 4 h 4 min left"
    assert [line.split(",")[0] for line in lines] == ["12/500", "14/500", "16/500", "18/500", "20/500"]
