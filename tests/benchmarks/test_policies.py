"""The tables of policies, live sweeps, LoadGen, traces and the soak, on tiny phantoms and the tiny pack."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from benchmarks import live, loadgen, plots, policies, soak, trace
from scanside.engine.flow import STAGES
from scanside.errors import UsageError

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

SMALL = (40, 60, 80)
HOW = {"device": "cpu", "precision": "fp32", "allow_uncertified": False}


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


def read(folder: Path, pattern: str) -> list[dict[str, str]]:
    (table,) = folder.glob(pattern)
    return list(csv.DictReader(table.read_text().splitlines()))


def interrupted_at(second: int, real: Callable) -> tuple[Callable, list]:  # type: ignore[type-arg]
    """`real`, which Ctrl-C stops at its call number `second`; and its finished calls."""
    calls: list = []  # type: ignore[type-arg]

    def work(*given: object, **more: object) -> object:
        calls.append(given)
        if len(calls) == second:
            raise KeyboardInterrupt
        return real(*given, **more)

    return work, calls


def test_policies_go_on_where_they_stopped(tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, calls = interrupted_at(2, policies.compared)
    monkeypatch.setattr(policies, "compared", compared)
    given = {"seeds": range(5100, 5102), "out": tmp_path, "pack": tiny_pack, "threads": 1, "shape": SMALL}
    with pytest.raises(KeyboardInterrupt):
        policies.make_table(**given, **HOW)
    assert not list(tmp_path.glob("policies-*"))
    policies.make_table(**given, **HOW)
    assert [seed for seed, *_ in calls] == [5100, 5101, 5101]
    assert [row["seed"] for row in read(tmp_path, "policies-*-volumes.csv")] == ["5100", "5101"]
    rows = read(tmp_path, "policies-*-40x60x80.csv")
    assert [row["policy"] for row in rows] == ["exact", "confirm"]
    assert float(rows[0]["transverse_a_volume"]) == 40
    (file,) = tmp_path.glob("policies-*.json")
    record = json.loads(file.read_text())
    assert (record["volumes"], record["seeds"], record["ran_precision"]) == (2, [5100, 5101], "fp32")
    assert record["machine"]["processor"]


def test_training_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="training"):
        policies.make_table(range(1990, 2010), tmp_path, None, 1, SMALL, **HOW)


def test_sweeps_in_real_time_go_on_where_they_stopped(
    tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_live, calls = interrupted_at(2, live.bench_live)
    monkeypatch.setattr(live, "bench_live", bench_live)
    given = {"pack": tiny_pack, "seeds": range(5200, 5201), "rates": [2000.0, 4000.0], "repetitions": 6}
    given |= {"shape": SMALL, "threads": 1, "policy": "confirm", "work": tmp_path / "work"}
    with pytest.raises(KeyboardInterrupt):
        live.make_table(tmp_path, **given, **HOW)
    live.make_table(tmp_path, **given, **HOW)
    assert len(calls) == 3
    rows = read(tmp_path, "live-*-confirm-40x60x80.csv")
    assert [row["frames_per_s"] for row in rows] == ["2000.0", "4000.0"]
    for row in rows:
        assert 0 < float(row["ci95_low_s"]) <= float(row["median_s"]) <= float(row["ci95_high_s"])
        assert 0 <= int(row["sections_left"]) <= int(row["sections"])
        assert row["sweeps"] == "6"


def test_what_loadgen_says(tiny_pack: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    given = {"shape": SMALL, "seed": 1, "seconds": 0.05, "queries": 2, "threads": 1, "work": tmp_path / "work"}
    loadgen.make_table(tmp_path, tiny_pack, **given, policy="exact", **HOW)
    rows = read(tmp_path, "loadgen-*.csv")
    assert [(row["what"], row["scenario"]) for row in rows] == [
        ("section", "SingleStream"),
        ("exam", "SingleStream"),
        ("volume", "Offline"),
    ]
    assert float(rows[0]["p90_ms"]) > 0
    assert float(rows[2]["samples_per_s"]) > 0
    (file,) = tmp_path.glob("loadgen-*.json")
    record = json.loads(file.read_text())
    assert (record["seconds"], record["queries"], record["seed"]) == (0.05, 2, 1)


def test_a_trace_becomes_a_picture(tiny_pack: Path, tmp_path: Path) -> None:
    given = {"shape": SMALL, "seed": 1, "repetitions": 6, "threads": 1, "work": tmp_path / "work"}
    trace.make_table(tmp_path, tiny_pack, **given, docs=tmp_path / "docs", policy="exact", **HOW)
    assert [row["stage"] for row in read(tmp_path, "trace-*.csv")] == list(STAGES)
    (picture,) = (tmp_path / "docs" / "images").iterdir()
    assert picture.name.startswith("trace-cpu1-")
    with Image.open(picture) as image:
        assert "python -m benchmarks" in image.text["Description"]  # type: ignore[attr-defined]


def test_overlapping_spans_get_rows_of_their_own() -> None:
    spans = [(0.0, 2.0), (3.0, 1.0), (1.0, 1.0), (2.0, 5.0), (1.5, 0.2)]
    assert plots.stacked(spans) == [[(0.0, 2.0), (2.0, 5.0)], [(1.0, 1.0), (3.0, 1.0)], [(1.5, 0.2)]]
    assert plots.stacked([]) == []


def test_a_short_soak_leaves_nothing_and_repeats_itself(
    tiny_pack: Path, tmp_path: Path, blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    exam = SimpleNamespace(voxels=blob_volume.voxels, geometry=blob_volume.volume().geometry)
    monkeypatch.setattr(soak, "make_phantom", lambda seed, shape: exam)
    monkeypatch.setattr(soak, "SEEDS", (5300,))
    soak.make_table(4, tmp_path, tiny_pack, 1, SMALL, policy="confirm", **HOW)
    (file,) = tmp_path.glob("soak-cpu1-*-fp32-confirm-40x60x80.json")
    summary = json.loads(file.read_text())
    assert summary["seeds"] == [5300]
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
