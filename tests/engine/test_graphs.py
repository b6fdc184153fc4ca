"""Which graph a precision runs, and which precisions a pack's plans can have."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from scanside.engine.graphs import graph_of, graph_sha256, precisions_of
from scanside.errors import PackError
from scanside.pack import Pack, load_pack


def test_int8_plans_need_both_networks_calibrated(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = load_pack(tiny_pack)
    assert precisions_of(pack) == ("fp32", "fp16")
    monkeypatch.setattr(Pack, "is_calibrated", lambda _, network: network == "segmenter")
    assert precisions_of(pack) == ("fp32", "fp16")
    monkeypatch.setattr(Pack, "is_calibrated", lambda *_: True)
    assert precisions_of(pack) == ("fp32", "fp16", "int8")


def test_damage_is_not_taken_for_a_pack_that_is_not_calibrated(tiny_pack_copy: Path) -> None:
    pack = load_pack(tiny_pack_copy)
    (tiny_pack_copy / "classifier.onnx").unlink()
    with pytest.raises(PackError, match="the file is missing"):
        precisions_of(pack)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_stated_hash_is_that_of_the_bytes(tiny_pack: Path, precision: str) -> None:
    pack = load_pack(tiny_pack)
    graph = graph_of(pack, "segmenter", precision, "tensorrt/cuda")
    assert graph_sha256(pack, "segmenter", precision, "tensorrt/cuda") == hashlib.sha256(graph).hexdigest()


@pytest.mark.parametrize(
    ("runtime", "derived"),
    [
        ("onnxruntime/openvino-cpu", "int8"),
        ("openvino/cpu", "int8-u8"),
        ("tensorrt/cuda", "int8-fp16"),
        ("tensorrt-rtx/cuda", "int8-fp16"),
    ],
)
def test_each_runtime_has_its_own_int8_graph(
    tiny_pack: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, derived: str
) -> None:
    monkeypatch.setattr(Pack, "network_graph", lambda _, network, precision: f"{network} {precision}".encode())
    pack = load_pack(tiny_pack)
    assert graph_of(pack, "classifier", "int8", runtime).decode() == f"classifier {derived}"
    assert graph_of(pack, "classifier", "bf16", runtime).decode() == "classifier bf16"
