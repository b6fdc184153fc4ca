"""OpenVINO by itself answers as ONNX Runtime does, in one session a stream, and fails with the engine's own errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from scanside.engine.onnxruntime import CPU, OPENVINO_API, Choice, OnnxRuntime, load_runtime
from scanside.errors import EngineError
from scanside.pack import load_pack

pytest.importorskip("openvino")

from scanside.engine.openvino import OpenvinoRuntime

FP32 = Choice(OPENVINO_API, "fp32", "")
SIZE = {"height": 32, "width": 64}


@pytest.fixture(scope="module")
def segmenter(tiny_pack: Path) -> bytes:
    return load_pack(tiny_pack).network_graph("segmenter", "fp32")


@pytest.fixture(scope="module")
def classifier(tiny_pack: Path) -> bytes:
    return load_pack(tiny_pack).network_graph("classifier", "fp32")


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, *shape), dtype=np.uint8)


def test_sections_in_parts_on_sessions_of_their_own(segmenter: bytes) -> None:
    sections = pixels(50, 32, 64)  # 13 parts, the last one short
    expected, answers = np.empty_like(sections), np.empty_like(sections)
    OnnxRuntime(segmenter, Choice(CPU, "fp32", ""), SIZE, 1, "segmenter").run(
        {"pixels": sections}, {"probability": expected}
    )
    runtime = OpenvinoRuntime(segmenter, FP32, SIZE, 3, "segmenter")
    assert (runtime.name, runtime.precision) == ("openvino/cpu", "fp32")
    assert runtime.in_flight == len({id(session) for session in runtime._sessions}) == 3
    assert [(spec.name, spec.dtype, spec.shape) for spec in (*runtime.inputs, *runtime.outputs)] == [
        ("pixels", np.uint8, (None, 1, 32, 64)),
        ("probability", np.uint8, (None, 1, 32, 64)),
    ]
    runtime.run({"pixels": sections}, {"probability": answers})
    assert np.abs(answers.astype(int) - expected).max() <= 1
    runtime.close()
    with pytest.raises(EngineError, match="closed"):
        runtime.run({"pixels": sections}, {"probability": answers})


def test_triplets_of_any_number_from_several_threads(classifier: bytes, tiny_pack: Path) -> None:
    spec = load_pack(tiny_pack).manifest.classifier
    plain = OnnxRuntime(classifier, Choice(CPU, "fp32", ""), {}, 1, "classifier")
    runtime = OpenvinoRuntime(classifier, FP32, {}, 2, "classifier")
    assert runtime.in_flight == 1
    assert {s.name: s.shape for s in runtime.inputs} == {s.name: s.shape for s in plain.inputs}
    batches = [{name: pixels(n, spec.size, spec.size) for name in spec.inputs.values()} for n in (1, 5, 3, 8)]
    expected = [{spec.output: np.empty(len(batch["coronal"]), np.float32)} for batch in batches]
    answers = [{spec.output: np.empty_like(answer[spec.output])} for answer in expected]
    for batch, answer in zip(batches, expected, strict=True):
        plain.run(batch, answer)
    threads = [threading.Thread(target=runtime.run, args=pair) for pair in zip(batches, answers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for theirs, ours in zip(expected, answers, strict=True):
        np.testing.assert_allclose(ours[spec.output], theirs[spec.output], atol=1e-5)


def test_nothing_of_it_reports_to_its_maker(tiny_pack: Path, tmp_path: Path) -> None:
    """Its model converters do when they are imported; a program that wants them can still import them afterwards."""
    script = """
import sys
from pathlib import Path
from scanside.engine.onnxruntime import OPENVINO_API, Choice
from scanside.engine.openvino import OpenvinoRuntime
from scanside.pack import load_pack
graph = load_pack(Path(sys.argv[1])).network_graph("segmenter", "fp32")
OpenvinoRuntime(graph, Choice(OPENVINO_API, "fp32", ""), {"height": 32, "width": 64}, 1, "segmenter").close()
assert not {name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools.ovc"))}
"""
    home = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, str(tiny_pack)], env=home, check=True)
    assert not list(tmp_path.iterdir())


def test_the_rule_s_choice_loads_it(segmenter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanside.engine.onnxruntime.choose", lambda *_: FP32)
    runtime = load_runtime(segmenter, device="cpu", dims=SIZE, threads=1)
    assert isinstance(runtime, OpenvinoRuntime)
    assert runtime.name == "openvino/cpu"
    runtime.close()


def test_what_fails_is_the_engine_s_error(segmenter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"cut\.onnx: the graph does not load"):
        OpenvinoRuntime(segmenter[:100], FP32, SIZE, 1, "cut.onnx")
    runtime = OpenvinoRuntime(segmenter, FP32, SIZE, 1, "segmenter")
    with pytest.raises(EngineError, match="segmenter"):
        runtime.run({"pixels": pixels(1, 32, 96)}, {"probability": pixels(1, 32, 96)})

    def broken(*_: object) -> None:
        raise RuntimeError("no memory\nand a trace")

    monkeypatch.setattr(runtime._sessions[0], "run", broken)
    with pytest.raises(EngineError, match=r"segmenter: the graph failed; found no memory$"):
        runtime.run({"pixels": pixels(4, 32, 64)}, {"probability": pixels(4, 32, 64)})
