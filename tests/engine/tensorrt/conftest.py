"""TensorRT without a GPU: a module whose engines run ONNX graphs on the CPU, over the stand-in for CUDA."""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from scanside.engine.cuda_runtime import CudaRuntime, in_flight_of
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.tensorrt.cache import PlanCache
from scanside.engine.tensorrt.module import TensorRt, installed
from scanside.engine.tensorrt.plan import BuildOptions
from scanside.engine.tensorrt.plans import options_of
from scanside.engine.tensorrt.profiles import Profile
from scanside.engine.tensorrt.session import Engine
from scanside.pack import load_pack
from tests.engine.cuda_stand_in import StandInDevice


class Enum(enum.IntEnum):
    pass


class DataType(Enum):
    FLOAT, HALF, INT8, INT32, UINT8 = range(5)


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class TensorIOMode(Enum):
    INPUT, OUTPUT = range(2)


OF_ORT = {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT}
NUMPY = {DataType.UINT8: np.dtype(np.uint8), DataType.FLOAT: np.dtype(np.float32)}


class FakeTensorRt:
    """The part of the TensorRT 11 API that is used. `refuse` names calls that answer False, `broken_graphs` makes a
    replayed graph add one to its answer, `fault` makes the work itself fail on the device. TensorRT itself finds room
    for `most_contexts` contexts, and for runs of `largest_batch`.
    """

    __version__ = "11.4.0.106"
    DataType = DataType
    TensorIOMode = TensorIOMode
    LayerType = Enum("LayerType", "CONSTANT QUANTIZE DEQUANTIZE")
    NetworkDefinitionCreationFlag = Enum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    ExecutionContextAllocationStrategy = Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED")
    ProfilingVerbosity = Enum("ProfilingVerbosity", "DETAILED")
    BuilderFlag = Enum("BuilderFlag", "TF32")
    MemoryPoolType = Enum("MemoryPoolType", "WORKSPACE")
    LayerInformationFormat = Enum("LayerInformationFormat", "JSON")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    class IProgressMonitor:
        pass

    def __init__(self, device: StandInDevice | None = None) -> None:
        self.device = device
        self.refuse: set[str] = set()
        self.broken_graphs = False
        self.fault = False
        self.most_contexts = self.largest_batch = 1000
        self.timing_given: list[bytes] = []
        self.contexts = 0
        self.builders: weakref.WeakSet[FakeBuilder] = weakref.WeakSet()

    def Runtime(self, logger: Any) -> FakeRuntime:  # noqa: N802
        return FakeRuntime(self, logger)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        builder = FakeBuilder(self, logger)
        self.builders.add(builder)
        return builder

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        def parse(graph: bytes) -> bool:
            network.graph = graph
            network.session = session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
            network.num_inputs = len(session.get_inputs())
            network.get_input = lambda i: session.get_inputs()[i]
            return True

        return SimpleNamespace(parse=parse)


class FakeRtx(FakeTensorRt):
    """The same as RTX: targets by name, a runtime cache that remembers what was compiled, no timing cache."""

    __version__ = "1.7.1.116"
    ComputeCapability = SimpleNamespace(CURRENT=0, SM86=86)
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    IRuntimeCache = object

    def __init__(self, device: StandInDevice | None = None) -> None:
        super().__init__(device)
        self.kernels_given: list[bytes] = []


class FakeBuilder:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self.trt, self.logger = trt, logger

    def create_network(self, flags: int) -> Any:
        assert flags == 2
        return SimpleNamespace(num_layers=0)

    def create_builder_config(self) -> Any:
        config = SimpleNamespace(profiles=[], cache=None, clear_flag=lambda flag: None, limits={})
        config.set_memory_pool_limit = config.limits.__setitem__
        config.add_optimization_profile = lambda profile: config.profiles.append(profile) or len(config.profiles) - 1

        timing_given = self.trt.timing_given

        def create_timing_cache(content: bytes) -> Any:
            timing_given.append(content)
            return SimpleNamespace(content=content, serialize=lambda: content + b"measured;")

        def set_timing_cache(cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return cache.content in (b"", b"measured;", b"measured;measured;")

        config.create_timing_cache, config.set_timing_cache = create_timing_cache, set_timing_cache
        if isinstance(self.trt, FakeRtx):
            config.set_compute_capability = lambda chip, index: None
        return config

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *three: shapes.__setitem__(name, three))

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        if not all(monitor.step_complete("Building engine", step) for step in range(2)):
            return None
        monitor.phase_finish("Building engine")
        self.logger.log(Severity.INFO, "Total Weights Memory: 7 bytes")
        return fake_plan(network.graph, [profile.shapes for profile in config.profiles])


def fake_plan(graph: bytes, profiles: list[Any]) -> bytes:
    header = json.dumps(profiles).encode()
    return b"PLAN" + len(header).to_bytes(4, "big") + header + graph


class FakeRuntime:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        trt.device.outlive(self, "runtime")

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        return FakeEngine(self.trt, self.logger, plan[4:]) if plan.startswith(b"PLAN") else None


class FakeEngine:
    def __init__(self, trt: FakeTensorRt, logger: Any, content: bytes) -> None:
        size = int.from_bytes(content[:4], "big")
        self.trt, self.logger = trt, logger
        self.profiles = json.loads(content[4 : 4 + size])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content[4 + size :], options, ["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.nodes = self.inputs | self.outputs
        self.num_io_tensors = len(self.nodes)
        self.num_optimization_profiles = len(self.profiles)
        trt.device.outlive(self, "engine")

    def get_tensor_name(self, index: int) -> str:
        return list(self.nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return OF_ORT[self.nodes[name].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.nodes[name].shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return self.profiles[index][name]

    def __getattr__(self, name: str) -> Any:
        if name == "create_runtime_config" and isinstance(self.trt, FakeRtx):
            return self.runtime_config
        raise AttributeError(name)

    def runtime_config(self) -> Any:
        given_before = self.trt.kernels_given

        def deserialize(content: bytes) -> bool:
            given_before.append(content)
            return content.startswith(b"kernels")

        cache = SimpleNamespace(deserialize=deserialize, serialize=lambda: b"kernels of this GPU")
        config = SimpleNamespace(
            create_runtime_cache=lambda: cache,
            set_runtime_cache=lambda given: given is cache,
            dynamic_shapes_kernel_specialization_strategy="lazy",
        )
        config.set_execution_context_allocation_strategy = lambda given: setattr(config, "allocation", given)
        return config

    def create_execution_context(self, strategy: Any) -> Any:
        if isinstance(strategy, SimpleNamespace):
            assert strategy.dynamic_shapes_kernel_specialization_strategy == "eager"
            strategy = strategy.allocation
        assert strategy == FakeTensorRt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.trt.device.alive["context"] >= self.trt.most_contexts:
            self.logger.log(Severity.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
            self.logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (no further information)")
            return None
        return None if "create_execution_context" in self.trt.refuse else FakeContext(self)

    def create_engine_inspector(self) -> Any:
        layers = {"Layers": [{"Name": "conv + relu"}]}
        return SimpleNamespace(get_engine_information=lambda form: json.dumps(layers))


class FakeContext:
    """Reads and writes the stand-in's memory when its work runs, as kernels do."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.trt = engine, engine.trt
        self.trt.contexts += 1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.trt.device.outlive(self, "context")

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return "set_optimization_profile_async" not in self.trt.refuse

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return "set_input_shape" not in self.trt.refuse

    def update_device_memory_size_for_shapes(self) -> int:
        return 64 * sum(int(np.prod(shape)) for shape in self.shapes.values())

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.update_device_memory_size_for_shapes()
        self.memory = (address, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, *rest = next(iter(self.shapes.values()))
        shape = self.engine.get_tensor_shape(name)
        return (batch, *rest) if len(shape) == 1 + len(rest) else (batch, *shape[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return "set_tensor_address" not in self.trt.refuse

    def execute_async_v3(self, handle: int) -> bool:
        if "execute_async_v3" in self.trt.refuse:
            self.engine.logger.log(Severity.ERROR, "Error Code 1: the enqueue went wrong")
            return False
        if next(iter(self.shapes.values()))[0] > self.trt.largest_batch:
            self.engine.logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
            return False
        assert self.memory is not None
        device, addresses = self.trt.device, dict(self.addresses)
        is_captured = device.streams[handle].recording is not None

        def work() -> None:
            if self.trt.fault:
                raise RuntimeError("an illegal instruction was met")
            given = {
                name: device.read(addresses[name], NUMPY[OF_ORT[node.type]], self.shapes[name])
                for name, node in self.engine.inputs.items()
            }
            for name, answer in zip(self.engine.outputs, self.engine.session.run(None, given), strict=True):
                target = device.read(addresses[name], answer.dtype, answer.shape)
                np.copyto(target, answer + 1 if is_captured and self.trt.broken_graphs else answer)

        device.submit(handle, work)
        return True


class Fake(SimpleNamespace):
    """The fake module `api`, as a `TensorRt`, and its device."""

    api: FakeTensorRt
    trt: TensorRt
    device: StandInDevice


@pytest.fixture
def fake() -> Callable[..., Fake]:
    def make(seed: int | None = None, memory: int = 1 << 30, name: str = "tensorrt", **faults: Any) -> Fake:
        device = StandInDevice(seed, memory, **faults)
        api = FakeRtx(device) if name == "tensorrt_rtx" else FakeTensorRt(device)
        return Fake(api=api, trt=TensorRt(api, name, api.__version__), device=device)

    return make


@pytest.fixture(scope="session")
def toy_graph() -> bytes:
    """Pixels uint8 [batch, 1, height, width] -> probability of the same shape: a 3 x 3 mean, int8 weights unfolded."""
    return make_toy_graph()


def make_toy_graph(nodes: list[Any] | None = None, opset: int = 18) -> bytes:
    weight = np.full((1, 1, 3, 3), 127, np.int8)
    constants = [
        numpy_helper.from_array(weight, "weight_int8"),
        numpy_helper.from_array(np.array([1 / 9 / 127], np.float32), "scale"),
        numpy_helper.from_array(np.array([0], np.int8), "zero"),
    ]
    body = nodes or [
        helper.make_node("DequantizeLinear", ["weight_int8", "scale", "zero"], ["weight"], axis=0, name="unfold"),
        helper.make_node("Conv", ["grey", "weight"], ["smooth"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="mean"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT, name="in"),
            *body,
            helper.make_node("Cast", ["smooth"], ["probability"], to=TensorProto.UINT8, name="out"),
        ],
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 1, "height", "width"])],
        [helper.make_tensor_value_info("probability", TensorProto.UINT8, ["batch", 1, "height", "width"])],
        constants if nodes is None else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model.SerializeToString()


@pytest.fixture(scope="session")
def toy_graph_of() -> Callable[[list[Any]], bytes]:
    """The toy graph with other nodes between `grey` (float32) and `smooth` (float32)."""
    return make_toy_graph


@pytest.fixture(scope="session")
def toy_options() -> BuildOptions:
    """8 x 16 pixels exactly, then 4 x 4 to 32 x 32; 1 to 4 items."""
    exact = ((1, 1, 8, 16), (4, 1, 8, 16), (4, 1, 8, 16))
    wide = ((1, 1, 4, 4), (2, 1, 8, 16), (2, 1, 32, 32))
    return BuildOptions((Profile({"pixels": exact}), Profile({"pixels": wide})))


@pytest.fixture
def toy_engine(toy_graph: bytes, toy_options: BuildOptions) -> Callable[[Fake], Engine]:
    """The toy graph as an engine of a fake TensorRT."""

    def make(fake: Fake) -> Engine:
        plan = fake_plan(toy_graph, [profile.to_json() for profile in toy_options.profiles])
        return Engine(fake.trt, fake.device, plan, where="toy fp32")

    return make


@pytest.fixture(scope="session")
def toy_answer(toy_graph: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """What the toy graph answers, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(toy_graph, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


@pytest.fixture(scope="session")
def plan_of() -> Callable[[bytes, list], bytes]:
    """A plan that the fake module loads: a graph and its profiles in JSON form."""
    return fake_plan


@pytest.fixture
def plan_cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache" / "plans")


@pytest.fixture
def rtx() -> TensorRt:
    """TensorRT for RTX, which builds without a GPU; the test is skipped where it is not installed."""
    found = installed(("tensorrt_rtx",))
    if not found:
        pytest.skip("tensorrt_rtx is not installed (scanside[plans]): no plan can be built without a GPU")
    return found[0]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> Callable[[Fake], tuple[Segmenter, Classifier]]:
    """The tiny pack's networks on a fake TensorRT, sections cut on the stand-in."""

    def make(fake: Fake) -> tuple[Segmenter, Classifier]:
        engines: dict[bytes, Engine] = {}

        def load(graph: bytes, *, spec: Any, dims: Any = None, **how: Any) -> CudaRuntime:
            if graph not in engines or not engines[graph].share():
                plan = fake_plan(graph, [profile.to_json() for profile in options_of(spec).profiles])
                engines[graph] = Engine(fake.trt, fake.device, plan, where=how["name"])
            return CudaRuntime(engines[graph], "fp32", dims or {}, **in_flight_of(spec))

        monkeypatch.setattr("scanside.engine.networks.load_runtime", load)
        pack = load_pack(tiny_pack)
        return (
            Segmenter(pack.graph_bytes("segmenter"), pack.manifest.segmenter),
            Classifier(pack.graph_bytes("classifier"), pack.manifest.classifier),
        )

    return make
