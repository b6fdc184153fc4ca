"""The rule that picks a provider, on machines this one is not, and the runtime on this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from scanside.engine.capabilities import Capabilities, capabilities
from scanside.engine.onnxruntime import CPU, CUDA, OPENVINO, OPENVINO_API, Choice, OnnxRuntime, choose, load_runtime
from scanside.errors import EngineError, NotBuiltError, UsageError
from scanside.pack import load_pack


def machine(
    *flags: str, openvino: bool = True, providers: tuple[str, ...] = ("CPUExecutionProvider",), **packages: str
) -> Capabilities:
    remark = "" if openvino else "the plug-in is not installed"
    return Capabilities("a processor", 4, frozenset(flags), packages, providers, openvino, remark)


AVX2 = machine("avx2")
AVX512 = machine("avx2", "avx512f")
AMX = machine("avx2", "avx512f", "amx_bf16")
OTHER_MAKER = replace(machine("avx2", "avx512f", "avx512_bf16", openvino=False), openvino_api=True)
"""Its processor is none that the plug-in offers, and OpenVINO itself is installed."""
GPU = machine("avx2", providers=("CUDAExecutionProvider", "CPUExecutionProvider"))


@pytest.mark.parametrize(
    ("here", "device", "precision", "runtime", "arithmetic"),
    [
        (AVX2, "auto", "auto", CPU, "fp32"),
        (AVX2, "cpu", "fp32", CPU, "fp32"),
        (AVX512, "auto", "auto", OPENVINO, "fp32"),
        (AMX, "cpu", "fp32", OPENVINO, "fp32"),
        (AMX, "auto", "bf16", OPENVINO, "bf16"),
        (AMX, "auto", "int8", OPENVINO, "int8"),
        (AVX2, "cpu", "int8", OPENVINO, "int8"),
        (machine("avx512f", openvino=False), "auto", "fp32", CPU, "fp32"),
        (OTHER_MAKER, "auto", "fp32", CPU, "fp32"),
        (OTHER_MAKER, "cpu", "bf16", OPENVINO_API, "bf16"),
        (OTHER_MAKER, "auto", "int8", OPENVINO_API, "int8"),
        (replace(AMX, openvino_api=True), "cpu", "int8", OPENVINO, "int8"),
        (GPU, "auto", "auto", CUDA, "fp32"),
        (GPU, "cuda", "fp32", CUDA, "fp32"),
        (GPU, "cpu", "fp32", CPU, "fp32"),
    ],
)
def test_the_rule(here: Capabilities, device: str, precision: str, runtime: str, arithmetic: str) -> None:
    choice = choose(here, device, precision)
    assert (choice.runtime, choice.precision) == (runtime, arithmetic)
    assert choice.reason


@pytest.mark.parametrize(
    ("flags", "arithmetic"),
    [
        (("avx2",), "int8, 16-bit sums, rest fp32"),
        (("avx2", "avx_vnni"), "int8, rest fp32"),
        (("avx512f", "avx512_vnni", "avx512_bf16"), "int8, rest bf16"),
    ],
)
def test_int8_says_how_it_multiplies_and_what_the_rest_is(flags: tuple[str, ...], arithmetic: str) -> None:
    """A certificate of one arithmetic lets no other run: without dot products the answers are others."""
    assert choose(machine(*flags), "cpu", "int8").arithmetic == arithmetic


def test_the_classifier_in_fp32_runs_on_the_cpu_provider() -> None:
    assert choose(AMX, "cpu", "fp32", "classifier").runtime == CPU
    assert choose(AMX, "cpu", "fp32", "classifier").fallbacks == ()
    assert choose(AMX, "cpu", "bf16", "classifier").runtime == OPENVINO
    assert choose(GPU, "auto", "auto", "classifier").runtime == CUDA


def test_a_missing_plug_in_is_a_fallback_only_where_it_would_gain() -> None:
    (remark,) = choose(machine("avx512f", openvino=False)).fallbacks
    assert "the plug-in is not installed" in remark
    assert choose(machine("avx2", openvino=False)).fallbacks == ()


@pytest.mark.parametrize(
    ("here", "device", "precision", "error", "text"),
    [
        (AVX2, "cuda", "auto", EngineError, "no usable CUDA provider"),
        (AVX512, "auto", "bf16", EngineError, "no bf16 arithmetic"),
        (machine("amx_bf16", openvino=False), "cpu", "bf16", EngineError, "bf16 needs OpenVINO"),
        (machine("amx_bf16", openvino=False), "cpu", "int8", EngineError, "Pip install onnxruntime-ep-openvino"),
        (
            replace(machine("avx2", openvino=False), packages={"onnxruntime-ep-openvino": "1.8.1"}),
            "cpu",
            "int8",
            EngineError,
            r'the plug-in is not installed. Pip install "scanside\[openvino\]"',
        ),
        (AMX, "auto", "fp16", EngineError, "fp16 needs TensorRT and a GPU"),
        (GPU, "cuda", "int8", EngineError, "int8 needs TensorRT and a GPU"),
        (GPU, "cuda", "bf16", NotBuiltError, "bf16 on CUDA"),
        (AVX2, "tpu", "fp32", UsageError, "unknown device"),
        (AVX2, "cpu", "fp8", UsageError, "unknown precision"),
    ],
)
def test_what_cannot_run_is_refused(
    here: Capabilities, device: str, precision: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as refused:
        choose(here, device, precision)
    assert refused.value.exit_code == (2 if error is UsageError else 4)  # type: ignore[attr-defined]


def test_clashing_builds_are_named() -> None:
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    assert machine(**both).clash == ("onnxruntime", "onnxruntime-gpu")
    assert machine(onnxruntime="1").clash == ()


def test_this_machine() -> None:
    here = capabilities()
    assert here.processor
    assert here.cores >= 1
    assert "CPUExecutionProvider" in here.providers
    assert here.openvino == (here.openvino_remark == "")
    assert here is capabilities()


@pytest.fixture(scope="module")
def graph(tiny_pack: Path) -> bytes:
    return load_pack(tiny_pack).graph_bytes("segmenter")


def test_a_graph_runs_into_the_callers_buffers(graph: bytes) -> None:
    runtime = load_runtime(graph, device="cpu", precision="fp32", dims={"height": 32, "width": 64}, threads=1)
    assert runtime.precision == "fp32"
    assert runtime.inputs[0].name == "pixels"
    assert runtime.inputs[0].shape == (None, 1, 32, 64)
    assert runtime.outputs[0].dtype == np.uint8
    pixels = np.zeros((3, 1, 32, 64), np.uint8)
    pixels[1] = 200
    out = np.full_like(pixels, 7)
    runtime.run({"pixels": pixels}, {"probability": out})
    assert out[0].max() < 20
    assert out[1, 0, 10, 10] > 230
    one = np.full((1, 1, 32, 64), 7, np.uint8)
    runtime.run({"pixels": pixels[1:2]}, {"probability": one})
    assert np.array_equal(one[0], out[1])


@pytest.mark.parametrize(
    ("pixels", "probability", "text"),
    [
        (np.zeros((1, 1, 32, 64), np.float32), np.zeros((1, 1, 32, 64), np.uint8), "pixels: a tensor does not fit"),
        (np.zeros((1, 1, 32, 32), np.uint8), np.zeros((1, 1, 32, 32), np.uint8), r"\[None, 1, 32, 64\]"),
        (np.zeros((1, 1, 32, 128), np.uint8)[..., ::2], np.zeros((1, 1, 32, 64), np.uint8), "C-contiguous"),
        (np.zeros((2, 1, 32, 64), np.uint8), np.zeros((1, 1, 32, 64), np.uint8), "differ in batch size"),
        (np.zeros((1, 1, 32, 64), np.uint8), np.zeros((1, 1, 32, 64), np.float32), "probability: a tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    graph: bytes, pixels: np.ndarray, probability: np.ndarray, text: str
) -> None:
    runtime = load_runtime(graph, device="cpu", dims={"height": 32, "width": 64}, threads=1, name="tiny.onnx")
    with pytest.raises(EngineError, match=text) as refused:
        runtime.run({"pixels": pixels}, {"probability": probability})
    assert "tiny.onnx" in str(refused.value)


def test_other_tensors_and_a_closed_runtime_are_refused(graph: bytes) -> None:
    runtime = load_runtime(graph, device="cpu", dims={"height": 32, "width": 32}, threads=1)
    array = np.zeros((1, 1, 32, 32), np.uint8)
    with pytest.raises(EngineError, match="other tensors"):
        runtime.run({"image": array}, {"probability": array})
    runtime.close()
    runtime.close()
    with pytest.raises(EngineError, match="closed"):
        runtime.run({"pixels": array}, {"probability": array.copy()})


@pytest.mark.parametrize("bad", [b"", b"no graph at all", b"\x08\x07"])
def test_a_damaged_graph_is_one_clear_error(bad: bytes) -> None:
    with pytest.raises(EngineError, match=r"damaged.onnx: the graph does not load.*scanside pack verify"):
        load_runtime(bad, device="cpu", name="damaged.onnx")


def test_a_failure_inside_the_graph_is_an_engine_error() -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    made = helper.make_graph(
        [node],
        "gather",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    # The CPU provider refuses an index outside the table; the OpenVINO plug-in answers something.
    graph = model.SerializeToString()
    runtime = load_runtime(graph, device="cpu", network="classifier", threads=1, name="gather.onnx")
    out = np.zeros(1, np.float32)
    runtime.run({"x": np.array([1])}, {"y": out})
    assert out[0] == 2.0
    with pytest.raises(EngineError, match=r"gather.onnx: the graph failed"):
        runtime.run({"x": np.array([9])}, {"y": out})


def test_cuda_without_a_gpu_is_an_error(graph: bytes) -> None:
    if capabilities().cuda:
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match="no usable CUDA provider") as refused:
        load_runtime(graph, device="cuda", dims={"height": 32, "width": 32})
    assert refused.value.exit_code == 4
    assert refused.value.remedy


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_auto_gives_way_to_the_cpu_provider_and_says_so(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    unusable = Choice(CUDA, "fp32", "a CUDA provider is installed")
    monkeypatch.setattr("scanside.engine.onnxruntime.choose", lambda *_: unusable)
    runtime = load_runtime(graph, device="auto", dims={"height": 32, "width": 32}, threads=1)
    if runtime.name != CUDA:
        assert runtime.name == CPU
        assert any(CUDA in remark for remark in runtime.fallbacks)


@pytest.mark.skipif(not capabilities().openvino, reason="the plug-in offers no device for this processor")
def test_openvino_answers_like_the_cpu_provider(graph: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 64), dtype=np.uint8)
    answers = []
    for choice in (Choice(CPU, "fp32", ""), Choice(OPENVINO, "fp32", "")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scanside.engine.onnxruntime.choose", lambda *_, choice=choice: choice)
            runtime = load_runtime(graph, device="cpu", dims={"height": 32, "width": 64}, threads=1)
        assert runtime.name == choice.runtime
        answers.append(np.empty_like(pixels))
        runtime.run({"pixels": pixels}, {"probability": answers[-1]})
    assert np.abs(answers[0].astype(int) - answers[1]).max() <= 1


@pytest.mark.skipif(not capabilities().openvino, reason="the plug-in offers no device for this processor")
def test_each_stream_is_a_session_of_its_own_and_all_answer_alike(
    graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanside.engine.onnxruntime.choose", lambda *_: Choice(OPENVINO, "fp32", ""))
    runtime = load_runtime(graph, device="cpu", dims={"height": 32, "width": 64}, threads=3)
    assert isinstance(runtime, OnnxRuntime)
    assert runtime.in_flight == len({id(session) for session in runtime._sessions}) == 3
    one = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 64), dtype=np.uint8)
    pixels = np.repeat(one, 50, axis=0)  # 13 parts, the last one short
    answers = np.empty_like(pixels)
    runtime.run({"pixels": pixels}, {"probability": answers})
    assert (answers == answers[0]).all()
    assert runtime._pool is not None
    runtime._pool.shutdown()  # as `close` in another thread does it, just now
    with pytest.raises(EngineError, match="closed"):
        runtime.run({"pixels": pixels}, {"probability": answers})
    runtime.close()
