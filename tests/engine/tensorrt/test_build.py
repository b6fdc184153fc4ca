"""Real plans, built by TensorRT for RTX without a GPU; and what every build has in common, on the fake module."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from scanside.engine.tensorrt.build import _config, build_plan
from scanside.engine.tensorrt.module import TensorRt
from scanside.engine.tensorrt.monitor import Log, Phases, logger
from scanside.engine.tensorrt.network import parse
from scanside.engine.tensorrt.plan import BuildOptions
from scanside.engine.tensorrt.profiles import Profile, segmenter_profiles
from scanside.errors import Cancelled, EngineError
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.engine.tensorrt.conftest import Fake

Make = Callable[..., bytes]


def constant(name: str, values: Any, dtype: type) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def a_graph(nodes: list[Any], constants: list[TensorProto], channels: int) -> bytes:
    """X float32 [1, channels, 4, 4] -> y."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model.SerializeToString()


def parsed_constants(trt: TensorRt, graph: bytes) -> tuple[int, list[np.ndarray]]:
    """How many weights were unfolded, and the constants that this added."""
    lines = logger(trt, Log())
    builder = trt.api.Builder(lines)
    network = parse(trt, builder, lines, graph, where="toy")
    added = []
    for i in range(network.network.num_layers):
        layer = network.network.get_layer(i)
        if layer.name.endswith("(unfolded)"):
            layer.__class__ = trt.api.IConstantLayer
            added.append(np.array(layer.weights).reshape(tuple(layer.shape)))
    return network.folded_weights, added


def test_a_plan_is_built_without_a_gpu(rtx: TensorRt, toy_graph: bytes, toy_options: BuildOptions) -> None:
    fractions: list[float] = []
    built = build_plan(rtx, toy_graph, toy_options, "SM86", where="toy", progress=fractions.append)
    assert len(built.plan) > 1000
    assert built.record.weight_bytes is not None
    assert len(built.record.activation_bytes) == len(toy_options.profiles)
    assert built.record.folded_weights == 1
    assert {"convolution", "cast", "dequantize"} <= {layer.kind for layer in built.record.layers}
    assert next(layer for layer in built.record.layers if layer.kind == "convolution").type == "float"
    assert any("Total Activation Memory" in line for line in built.log)
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1
    assert built.timing == b""


def test_the_shipped_segmenter_is_built_for_its_profiles(rtx: TensorRt) -> None:
    pack = load_pack()
    options = BuildOptions(segmenter_profiles(pack.manifest.segmenter))
    built = build_plan(rtx, pack.network_graph("segmenter", "fp32"), options, "SM89", where="segmenter")
    assert built.record.folded_weights == 78
    assert len(built.record.activation_bytes) == 6
    *fixed, wide = built.record.activation_bytes
    assert max(fixed) < wide
    assert built.record.weight_bytes is not None
    assert built.record.weight_bytes > 20e6  # float again: 4 bytes a weight


def test_precision_is_the_graphs(rtx: TensorRt, toy_options: BuildOptions, toy_graph_of: Make) -> None:
    nodes = [
        helper.make_node("Cast", ["grey"], ["half"], to=TensorProto.FLOAT16, name="to half"),
        helper.make_node("Relu", ["half"], ["positive"], name="relu"),
        helper.make_node("Cast", ["positive"], ["smooth"], to=TensorProto.FLOAT, name="to float"),
    ]
    built = build_plan(rtx, toy_graph_of(nodes), toy_options, "SM120", where="toy fp16")
    assert next(layer for layer in built.record.layers if layer.kind == "activation").type == "half"


def test_tf32_is_off(rtx: TensorRt, toy_options: BuildOptions) -> None:
    builder = rtx.api.Builder(logger(rtx, Log()))
    config = _config(rtx, builder, BuildOptions((), workspace_mb=64), "SM86")
    assert not config.get_flag(rtx.api.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(rtx.api.MemoryPoolType.WORKSPACE) == 64 * 2**20
    assert config.profiling_verbosity == rtx.api.ProfilingVerbosity.DETAILED
    assert config.get_compute_capability(0) == rtx.api.ComputeCapability.SM86


def test_8_bit_weights_become_the_floats_they_stand_for(rtx: TensorRt) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (3, 2, 2, 2), np.int8)
    scale = rng.uniform(0.01, 0.1, 3).astype(np.float32)
    transposed = rng.integers(-127, 128, (3, 4, 2, 2), np.int8)
    scales = rng.uniform(0.01, 0.1, 4).astype(np.float32)
    graph = a_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], axis=0, name="first"),
            helper.make_node("Conv", ["x", "wf"], ["h"], kernel_shape=[2, 2]),
            helper.make_node("DequantizeLinear", ["t", "ts", "tz"], ["tf"], axis=1, name="second"),
            helper.make_node("ConvTranspose", ["h", "tf"], ["g"], kernel_shape=[2, 2]),
            helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bf"], name="third"),
            helper.make_node("Mul", ["g", "bf"], ["y"]),
        ],
        [
            constant("w", weight, np.int8),
            constant("s", scale, np.float32),
            constant("z", [0] * 3, np.int8),
            constant("t", transposed, np.int8),
            constant("ts", scales, np.float32),
            constant("tz", [0] * 4, np.int8),
            constant("b", np.full((1, 4, 1, 1), 5), np.int8),
            constant("bs", 0.5, np.float32),
            constant("bz", 0, np.int8),
        ],
        channels=2,
    )
    count, (first, second, third) = parsed_constants(rtx, graph)
    assert count == 3
    np.testing.assert_array_equal(first, weight.astype(np.float32) * scale[:, None, None, None])
    np.testing.assert_array_equal(second, transposed.astype(np.float32) * scales[None, :, None, None])
    np.testing.assert_array_equal(third, np.full((1, 4, 1, 1), 2.5, np.float32))


def test_weights_of_a_graph_that_quantizes_activations_stay(rtx: TensorRt) -> None:
    graph = a_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xf"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], axis=0),
            helper.make_node("Conv", ["xf", "wf"], ["y"], kernel_shape=[1, 1]),
        ],
        [
            constant("xs", 0.1, np.float32),
            constant("xz", 0, np.int8),
            constant("w", np.ones((16, 16, 1, 1)), np.int8),
            constant("s", np.ones(16), np.float32),
            constant("z", np.zeros(16), np.int8),
        ],
        channels=16,
    )
    assert parsed_constants(rtx, graph) == (0, [])
    options = BuildOptions((Profile({"x": ((1, 16, 4, 4),) * 3}),))
    built = build_plan(rtx, graph, options, "SM86", where="toy int8")
    assert built.record.folded_weights == 0
    assert [layer.kind for layer in built.record.layers].count("quantize") == 1


def test_an_unknown_operator_is_refused_by_name(rtx: TensorRt, toy_options: BuildOptions, toy_graph_of: Make) -> None:
    graph = toy_graph_of([helper.make_node("Nonsense", ["grey"], ["smooth"], name="the strange one")])
    with pytest.raises(EngineError, match=r"refuses the graph.*Nonsense 'the strange one'") as caught:
        build_plan(rtx, graph, toy_options, "SM86", where="segmenter fp32")
    assert caught.value.exit_code == 4
    assert caught.value.where == "segmenter fp32"


def test_what_is_no_graph_is_refused(rtx: TensorRt, toy_options: BuildOptions) -> None:
    with pytest.raises(EngineError, match="refuses the graph"):
        build_plan(rtx, b"no onnx", toy_options, "SM86", where="segmenter fp32")


def test_other_inputs_than_the_manifests_are_an_error(rtx: TensorRt, toy_graph: bytes) -> None:
    options = BuildOptions((Profile({"image": ((1, 1, 8, 8),) * 3}),))
    with pytest.raises(EngineError, match="the graph's inputs are not what the manifest says"):
        build_plan(rtx, toy_graph, options, "SM86", where="toy")


def test_a_set_event_stops_a_build(rtx: TensorRt, toy_graph: bytes, toy_options: BuildOptions) -> None:
    cancel = threading.Event()
    with pytest.raises(Cancelled, match="the build was stopped"):
        build_plan(
            rtx, toy_graph, toy_options, "SM86", where="toy", cancel=cancel, progress=lambda fraction: cancel.set()
        )


def test_ctrl_c_stops_a_build_and_no_thread_is_left(rtx: TensorRt, toy_graph: bytes, toy_options: BuildOptions) -> None:
    sent = threading.Event()

    def once(fraction: float) -> None:
        if not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_plan(rtx, toy_graph, toy_options, "SM86", where="toy", progress=once)
    assert not [t for t in threading.enumerate() if t.name == "scanside-tensorrt-build"]


def test_an_error_in_the_progress_callback_stops_the_build(
    rtx: TensorRt, toy_graph: bytes, toy_options: BuildOptions
) -> None:
    def broken(fraction: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(Cancelled):
        build_plan(rtx, toy_graph, toy_options, "SM86", where="toy", progress=broken)


@pytest.mark.parametrize("reason", ["other inputs", "a stop", "progress"])
def test_a_build_that_fails_keeps_no_builder(
    fake: Callable[..., Fake], toy_graph: bytes, toy_options: BuildOptions, reason: str
) -> None:
    def progress(fraction: float) -> None:
        if reason == "progress":
            raise ZeroDivisionError

    machine, cancel = fake(), threading.Event()
    options = BuildOptions((Profile({"others": ((1,), (1,), (1,))}),)) if reason == "other inputs" else toy_options
    if reason == "a stop":
        cancel.set()
    gc.disable()
    try:
        with pytest.raises((EngineError, Cancelled)) as caught:
            build_plan(machine.trt, toy_graph, options, "SM86", where="toy", progress=progress, cancel=cancel)
        assert not machine.api.builders
        assert caught.value.__traceback__ is not None  # the error is still on its way
    finally:
        gc.enable()


def test_a_module_that_does_not_start_is_one_error(
    fake: Callable[..., Fake], toy_graph: bytes, toy_options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_builder(lines: Any) -> None:
        lines.log(lines.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("factory function returned nullptr")

    machine = fake()
    monkeypatch.setattr(machine.api, "Builder", no_builder)
    with pytest.raises(EngineError, match=r"tensorrt 11\.4.* does not start.*error: 35.*scanside doctor"):
        build_plan(machine.trt, toy_graph, toy_options, "current", where="toy")


def test_the_timing_cache_is_given_back(fake: Callable[..., Fake], toy_graph: bytes, toy_options: BuildOptions) -> None:
    machine = fake()
    first = build_plan(machine.trt, toy_graph, toy_options, "current", where="toy")
    assert first.timing == b"measured;"
    second = build_plan(machine.trt, toy_graph, toy_options, "current", where="toy", timing=first.timing)
    assert second.timing == b"measured;measured;"
    other = build_plan(machine.trt, toy_graph, toy_options, "current", where="toy", timing=b"of another GPU")
    assert other.timing == b"measured;"
    assert machine.api.timing_given == [b"", b"measured;", b"of another GPU", b""]


def test_phases_nest_into_one_fraction() -> None:
    phases = Phases()
    phases.start("build", None, 2)
    phases.start("prepare", "build", 4)
    assert phases.step("prepare", 0) == pytest.approx(0.125)
    phases.finish("prepare")
    assert phases.step("build", 0) == pytest.approx(0.5)
    phases.start("optimize", "build", 2)
    phases.start("pass", "optimize", 10)
    assert phases.step("pass", 4) == pytest.approx(0.5 + 0.5 * 0.25)
    phases.finish("pass")
    assert phases.step("unheard of", 3) == pytest.approx(0.625)
    assert phases.step("build", 1) == 1
