"""`scanside inspect GRAPH` and `scanside lint`, through the library and the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from scanside.calibration.calibrate import Settings, calibrate
from scanside.calibration.data import Amount
from scanside.calibration.graph_report import graph_report, graph_reports
from scanside.cli import app
from scanside.errors import PackError
from scanside.pack import load_pack
from tests.calibration.test_calibrate import Blob


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def calibrated(toy_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "pack"
    return calibrate(load_pack(toy_pack), [Blob()], out, Settings(amount=Amount(6, 4))).pack


def test_a_rounded_graph(calibrated: Path) -> None:
    report = graph_report((calibrated / "segmenter.onnx").read_bytes(), "segmenter")
    assert [(layer.name, layer.precision) for layer in report.layers] == [
        ("encoder.stem", "fp32"),
        ("encoder.blocks.0.conv1", "int8"),
        ("encoder.blocks.0.conv2", "int8"),
        ("encoder.blocks.1.conv", "int8"),
        ("head", "fp32"),
    ]
    assert report.layers[1].output_shape == (1, 16, 256, 256)
    assert report.layers[1].multiplications == 256 * 256 * 16 * 16 * 9
    assert report.layers[1].weight_bits == 8
    assert report.activation_pairs == 3  # before each of the three; the skip shares the first
    assert 0.9 < report.int8_share < 1
    assert {f.node for f in report.findings} == {"encoder.stem", "head"}
    memory = report.activation_bytes
    assert memory["int8-fp16"] < memory["int8"] == memory["as it is"] < memory["fp16"] < memory["fp32"]


def test_a_plain_graph_has_no_int8_estimate(toy_pack: Path) -> None:
    segmenter, classifier = graph_reports(toy_pack)
    assert (segmenter.name, classifier.name) == ("segmenter", "classifier")
    assert set(segmenter.activation_bytes) == {"as it is", "fp32", "fp16"}
    assert segmenter.findings == ()
    assert segmenter.int8_share == 0


def test_the_verbs(calibrated: Path, tmp_path: Path) -> None:
    shown = run("inspect", calibrated / "segmenter.onnx")
    assert shown.exit_code == 0, shown.output
    for text in ("encoder.blocks.0.conv1", "int8", "activation memory", "3 activation pairs"):
        assert text in shown.stdout
    content = json.loads(run("inspect", calibrated / "segmenter.onnx", "--json").stdout)
    assert content["graphs"][0]["schema"] == "scanside-graph-report/1"
    linted = run("lint", calibrated)
    assert linted.exit_code == 0, linted.output
    assert "the first operation, which reads the picture" in linted.stdout
    content = json.loads(run("lint", calibrated, "--json").stdout)
    assert [graph["name"] for graph in content["graphs"]] == ["segmenter", "classifier"]
    assert content["graphs"][0]["findings"][0]["kind"] == "not in 8 bits"


@pytest.mark.parametrize(
    "words", [("lint", "g.onnx"), ("inspect", "g.onnx"), ("calibrate", "p", "--data", "x", "--out", "o")]
)
def test_without_the_workshop_s_packages(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    for name in [name for name in sys.modules if name.startswith("scanside.calibration")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run(*words)
    assert result.exit_code == 4
    assert 'ip install "scanside[train]"' in result.stderr


def test_bad_graphs_through_the_command_line(calibrated: Path, tmp_path: Path) -> None:
    model = onnx.load_from_string((calibrated / "segmenter.onnx").read_bytes())
    file = tmp_path / "g.onnx"

    def message(words: tuple[object, ...] = ("lint", file)) -> str:
        result = run(*words)
        assert result.exit_code == 4, result.output
        assert "Traceback" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    file.write_bytes(model.SerializeToString()[:-50])
    assert "no ONNX model" in message()
    assert "no ONNX model" in message(("inspect", file))
    assert "cannot be read" in message(("lint", tmp_path / "none.onnx"))
    outside = onnx.ModelProto.FromString(model.SerializeToString())
    tensor = outside.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    file.write_bytes(outside.SerializeToString())
    assert "keeps data in another file" in message()
    strange = onnx.ModelProto.FromString(model.SerializeToString())
    strange.graph.node[2].op_type = "Wonder"
    file.write_bytes(strange.SerializeToString())
    assert "not of ONNX's own set" in message()
    broken = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in broken.graph.initializer:
        if tensor.name == "head.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32), "head.bias"))
    file.write_bytes(broken.SerializeToString())
    assert "head.bias: a weight is not finite" in message()
    with pytest.raises(PackError):
        graph_reports(file)
