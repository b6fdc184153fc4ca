from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks.plans import against_fp32, backbone_rows, make_table
from scanside.engine.tensorrt.module import installed
from scanside.pack import load_pack


def test_the_table_has_a_row_a_profile(tiny_pack: Path, tmp_path: Path) -> None:
    if not installed(("tensorrt_rtx",)):
        pytest.skip("tensorrt_rtx is not installed (scanside[plans])")
    make_table(out=tmp_path, pack=tiny_pack, targets="SM86", backbones="")
    rows = list(csv.DictReader((tmp_path / "plans-tiny-1.csv").open(encoding="utf-8")))
    assert [row["network"] for row in rows if row["precision"] == "fp32"] == ["segmenter"] * 7 + ["classifier"]
    assert [row["shape"] for row in rows][:2] == ["4x1x64x160", "3x1x64x192"]
    assert all(int(row["plan_bytes"]) > 1000 for row in rows)
    content = json.loads((tmp_path / "plans-tiny-1.json").read_text(encoding="utf-8"))
    assert content["rows"][0]["target"] == "SM86"
    assert content["tensorrt_rtx"]
    assert [row["precision"] for row in content["against_fp32"]].count("fp32") == 0


def test_untrained_classifiers_have_rows_too(tiny_pack: Path) -> None:
    if not installed(("tensorrt_rtx",)):
        pytest.skip("tensorrt_rtx is not installed (scanside[plans])")
    (rows,) = backbone_rows(load_pack(tiny_pack), ["resnet50"], ("SM86",), ["coronal"])
    assert [(row["network"], row["shape"]) for row in rows] == [("resnet50 coronal", "3x1x32x32")]
    assert rows[0]["weight_bytes"] > 23e6 * 4


def test_ratios_compare_like_with_like() -> None:
    common = {"network": "segmenter", "target": "SM86", "weight_bytes": 40, "plan_bytes": 50}
    rows = [
        {**common, "precision": "fp32", "shape": "a", "activation_bytes": 100},
        {**common, "precision": "fp32", "shape": "b", "activation_bytes": 300},
        {**common, "precision": "int8", "shape": "b", "activation_bytes": 120, "weight_bytes": 10},
        {**common, "precision": "int8", "shape": "c", "activation_bytes": 1},
        {**common, "precision": "fp32", "shape": "d", "activation_bytes": 0},
        {**common, "precision": "int8", "shape": "d", "activation_bytes": 0},
    ]
    ratio, nothing = against_fp32(rows)
    assert nothing["activation_bytes"] is None
    assert ratio == {
        "network": "segmenter",
        "precision": "int8",
        "target": "SM86",
        "shape": "b",
        "activation_bytes": 0.4,
        "weight_bytes": 0.25,
        "plan_bytes": 1.0,
    }
