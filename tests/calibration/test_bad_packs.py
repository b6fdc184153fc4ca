"""Packs whose hashes are right and whose graphs are not, through every verb that reads them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from scanside.cli import app
from scanside.engine.tensorrt.module import installed

Damage = Callable[[onnx.ModelProto], None]


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")


def unknown(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "Wonder"


def not_finite(model: onnx.ModelProto) -> None:
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32), "head.bias"))


def damaged(pack: Path, folder: Path, damage: Damage) -> Path:
    """A copy of `pack` with a changed segmenter and a manifest that vouches for it."""
    copy = Path(shutil.copytree(pack, folder))
    model = onnx.load_from_string((copy / "segmenter.onnx").read_bytes())
    damage(model)
    data = model.SerializeToString()
    (copy / "segmenter.onnx").write_bytes(data)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["segmenter.onnx"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (outside, "keeps data in another file"),
        (unknown, "Wonder"),
        (not_finite, "head.bias: a weight is not finite"),
    ],
)
@pytest.mark.parametrize("verb", ["pack verify", "calibrate", "build", "analyze"])
def test_a_bad_graph_in_a_pack_that_vouches_for_it(
    toy_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, damage: Damage, words: str
) -> None:
    if verb == "build" and not installed(("tensorrt_rtx",)):
        pytest.skip("tensorrt_rtx is not installed (scanside[plans])")
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path / "cache"))
    pack, out = damaged(toy_pack, tmp_path / "bad", damage), tmp_path / "here" / "out"
    out.parent.mkdir()
    np.save(tmp_path / "exam.npy", np.random.default_rng(1).integers(0, 256, (24, 40, 48), np.uint8))
    result = {
        "pack verify": lambda: run("pack", "verify", pack),
        "calibrate": lambda: run("calibrate", pack, "--data", "phantom:3:4:64x96x128", "--out", out, "-q"),
        "build": lambda: run("build", pack, "--target", "SM86", "-q"),
        "analyze": lambda: run(
            "analyze", tmp_path / "exam.npy", "--spacing", "1,1,1", "--pack", pack, "--out", out, "-q"
        ),
    }[verb]()
    assert result.exit_code == 4, result.output
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert [path for path in out.parent.iterdir() if not path.name.endswith(".calibrating")] == []
    assert not list((tmp_path / "cache").glob("plans/*.plan*"))


def test_a_disk_that_fills_up_during_a_calibration(
    toy_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut before is whole, so the same command goes on when there is room again."""
    out, sync, calls = tmp_path / "pack", os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    words = ("calibrate", toy_pack, "--data", "phantom:3:5:64x96x128", "--out", out, "--sections", 6, "-q")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", full)
        result = run(*words)
    assert result.exit_code == 4, result.output
    assert "No space left on device" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()
    assert not list(tmp_path.rglob("*.part"))
    again = run(*words)
    assert again.exit_code == 0, again.output
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
