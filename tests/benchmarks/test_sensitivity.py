"""The sensitivity table on the toy pack and two small phantoms."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks import sensitivity
from tests.calibration.conftest import toy_pack  # noqa: F401


@pytest.mark.parametrize("network", ["segmenter", "classifier"])
def test_the_table(
    toy_pack: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: str,
) -> None:
    monkeypatch.setattr(sensitivity, "TIMED_RUNS", 1)
    size = "64x96x128"
    plan = sensitivity.Plan(network, [f"phantom:3:4:{size}"], [f"phantom:4:5:{size}"], 6, 4, 1, "minmax")
    sensitivity.make_table(plan, tmp_path / "work", tmp_path, toy_pack)
    rows = list(csv.DictReader((tmp_path / f"sensitivity-{network}.csv").open()))
    expected = ["encoder.blocks.0", "encoder.blocks.1"]
    if network == "classifier":
        expected = [f"branches.{plane}.layer1.0" for plane in ("coronal", "sagittal", "transverse")]
    assert sorted(row["block"] for row in rows) == expected
    assert [float(r["alone_loss"]) for r in rows] == sorted((float(r["alone_loss"]) for r in rows), reverse=True)
    curve = list(csv.DictReader((tmp_path / f"sensitivity-{network}-curve.csv").open()))
    assert [row["kept_blocks"] for row in curve] == ["0", "1"]
    record = json.loads((tmp_path / f"sensitivity-{network}.json").read_text())
    assert (record["method"], record["sections"]) == ("minmax", [6, 6])
    assert (tmp_path / f"sensitivity-{network}.png").stat().st_size > 5000
