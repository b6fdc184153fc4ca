"""The tables of policies, live sweeps and the soak, on tiny phantoms and the tiny pack."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from benchmarks import live, policies, soak
from scanside.errors import UsageError

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

SMALL = (40, 60, 80)


def lesion(seed: int, malignant: int, exact: float | str, confirm: float | str) -> dict:
    row = {"seed": seed, "malignant": malignant}
    for policy, value in (("exact", exact), ("confirm", confirm)):
        row |= {f"{policy}_found": int(value != ""), f"{policy}_probability": value}
    return row


def volume(seed: int, exact: int, confirm: int) -> dict:
    row = {"seed": seed}
    for policy, wrong in (("exact", exact), ("confirm", confirm)):
        row |= {f"{policy}_{plane}": 10 for plane in policies.PLANES}
        row |= {f"{policy}_false_positives": wrong, f"{policy}_cpu_s": 2.0}
    return row


def test_the_summary_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "RESAMPLES", 200)
    lesions = [lesion(1, 1, 0.9, 0.8), lesion(1, 0, 0.2, 0.85), lesion(2, 1, 0.7, ""), lesion(2, 0, 0.1, 0.1)]
    summary = policies.summarise([volume(1, 1, 0), volume(2, 2, 1)], lesions)
    assert summary["exact"]["sensitivity"] == 1.0
    assert summary["confirm"]["sensitivity"] == 0.75
    assert summary["exact"]["auc"] == 1.0
    assert summary["confirm"]["auc"] == 0.5
    difference = summary["difference"]
    assert difference["false_positives_a_volume"] == {"value": -1.0, "low": -1.0, "high": -1.0}
    assert difference["sensitivity"]["value"] == -0.25
    assert difference["sensitivity"]["low"] <= -0.25 <= difference["sensitivity"]["high"]
    assert difference["lesions_both_found"] == 3
    assert difference["auc_over_lesions_both_found"]["value"] == -0.5


def test_a_second_call_goes_on_where_the_first_stopped(tiny_pack: Path, tmp_path: Path) -> None:
    policies.make_table(range(5100, 5101), tmp_path, tiny_pack, "fp32", SMALL)
    first = (tmp_path / "policies-volumes.csv").read_text()
    policies.make_table(range(5100, 5102), tmp_path, tiny_pack, "fp32", SMALL)
    both = (tmp_path / "policies-volumes.csv").read_text()
    assert both.startswith(first)
    rows = list(csv.DictReader(both.splitlines()))
    assert [row["seed"] for row in rows] == ["5100", "5101"]
    assert json.loads((tmp_path / "policies.json").read_text())["volumes"] == 2


def test_training_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="training"):
        policies.make_table(range(1990, 2010), tmp_path, None, "fp32", SMALL)


def test_a_sweep_in_real_time(tiny_pack: Path, tmp_path: Path) -> None:
    live.make_table(range(5200, 5201), tmp_path, tiny_pack, "fp32", "confirm", [2000.0], SMALL)
    (row,) = csv.DictReader((tmp_path / "live.csv").read_text().splitlines())
    assert float(row["seconds_after_last_frame"]) > 0
    assert 0 <= int(row["sections_after_last_frame"]) <= int(row["sections"])


def test_a_short_soak_leaves_nothing_and_repeats_itself(
    tiny_pack: Path, tmp_path: Path, blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    exam = SimpleNamespace(voxels=blob_volume.voxels, geometry=blob_volume.volume().geometry)
    monkeypatch.setattr(soak, "make_phantom", lambda seed, shape: exam)
    monkeypatch.setattr(soak, "PHANTOMS", 1)
    soak.make_table(4, tmp_path, tiny_pack, "fp32", "confirm", SMALL)
    summary = json.loads((tmp_path / "soak.json").read_text())
    assert summary["threads_more"] == summary["open_files_more"] == 0
    assert summary["different_reports_an_exam"] == 1
    assert summary["exams"] == 4


def test_the_soak_summary_by_hand() -> None:
    rows = [{"exam": i, "resident_mib": 100 + 0.5 * i, "threads": 3 + (i == 39), "open_files": 7} for i in range(40)]
    summary = soak.summarise(rows, {0: {"a"}, 1: {"b", "c"}})
    assert summary["resident_mib_per_100_exams"] == 50
    assert summary["threads_more"] == 1
    assert summary["open_files_more"] == 0
    assert summary["different_reports_an_exam"] == 2
