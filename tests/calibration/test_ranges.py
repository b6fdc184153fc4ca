"""Ranges as a file: reviewable, given back exactly, refused when damaged or of another graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scanside.calibration.histogram import Histogram
from scanside.calibration.ranges import SCHEMA, Ranges, estimate, read_ranges
from scanside.errors import CalibrationError

SHA = "a" * 64


@pytest.fixture
def ranges() -> Ranges:
    histogram = Histogram()
    histogram.add(np.linspace(-1, 3, 1000).astype(np.float32))
    return Ranges(SCHEMA, "segmenter", SHA, "b" * 64, estimate({"t": histogram}, "minmax", 8))


def read(path: Path) -> Ranges:
    return read_ranges(path, network="segmenter", graph_sha256=SHA)


def test_what_is_written_reads_back(ranges: Ranges, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(ranges.to_json())
    assert read(path) == ranges
    assert json.loads(path.read_text())["tensors"] == [
        {"tensor": "t", "min": -1.0, "max": 3.0, "amax": 3.0, "method": "minmax", "samples": 8}
    ]
    assert ranges.amax == {"t": 3.0}


def test_a_truncated_file_is_refused(ranges: Ranges, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(ranges.to_json()[:-20])
    with pytest.raises(CalibrationError, match=r"r.json: broken JSON.*scanside calibrate") as error:
        read(path)
    assert error.value.exit_code == 3
    with pytest.raises(CalibrationError, match="cannot be read; found No such file"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("graph_sha256", "c" * 64, "another graph_sha256"),
        ("network", "classifier", "another network"),
        ("schema", "scanside-ranges/9", "another schema"),
        (
            "tensors",
            [{"tensor": "t", "min": 1, "max": 0, "amax": 1, "method": "mse", "samples": 1}],
            "impossible range",
        ),
        ("tensors", [{"tensor": "t"}], "missing key 'min'"),
        ("surprise", 1, "unknown key 'surprise'"),
    ],
)
def test_a_file_that_says_something_else(ranges: Ranges, tmp_path: Path, key: str, value: object, message: str) -> None:
    content = json.loads(ranges.to_json())
    content[key] = value
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=message):
        read(path)
