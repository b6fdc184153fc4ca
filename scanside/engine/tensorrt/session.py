"""A plan made ready: the deserialized engine, what it takes and answers, and its execution contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scanside.engine.cuda import Buffer, Device, Stream
from scanside.engine.runtime import TensorSpec
from scanside.engine.tensorrt.module import TensorRt
from scanside.engine.tensorrt.monitor import Log, logger
from scanside.engine.tensorrt.profiles import Profile, Shape
from scanside.errors import EngineError


class Engine:
    """A deserialized plan on a GPU, shared by all sessions of its network; a `cuda_worker.Network`.

    Parameters
    ----------
    trt : TensorRt
    device : Device
    plan : bytes
        Verified bytes of a plan that this user built: a plan is code.
    where : str
        What errors call it.
    runtime_cache : bytes
        Kernels that RTX compiled in an earlier process; ignored where they do not fit.

    Raises
    ------
    EngineError
        TensorRT refuses the plan, or the GPU has no room for its weights.
    """

    def __init__(self, trt: TensorRt, device: Device, plan: bytes, *, where: str, runtime_cache: bytes = b"") -> None:
        self.trt = trt
        self.device = device
        self.where = where
        self.log = Log()
        self._logger = logger(trt, self.log)
        with device.active():
            self._runtime = self.call("TensorRT does not start", trt.api.Runtime, self._logger)
            self._engine = self.call("TensorRT refuses the plan", self._runtime.deserialize_cuda_engine, plan)
        if self._engine is None:
            raise self.error("TensorRT refuses the plan", "no reason given")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.api.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(self._spec(name) for name in names if is_input[name])
        self.outputs = tuple(self._spec(name) for name in names if not is_input[name])
        self.profiles = tuple(self._profile(i) for i in range(self._engine.num_optimization_profiles))
        self._given = runtime_cache
        self._cache: Any | None = None
        self._config: Any | None = None

    def profile_for(self, shapes: Mapping[str, Shape]) -> int:
        """The first profile that takes inputs of these shapes; exact sizes come before ranges.

        Raises
        ------
        EngineError
            None does.
        """
        for index, profile in enumerate(self.profiles):
            if profile.takes(shapes):
                return index
        raise EngineError(
            "no profile of the plan takes this size",
            where=self.where,
            expected="; ".join(str(profile.to_json()) for profile in self.profiles),
            found=str({name: list(shape[1:]) for name, shape in shapes.items()}),
            remedy="run with device cpu",
        )

    @property
    def name(self) -> str:
        return self.trt.runtime

    def program(self, profile: int, shapes: Mapping[str, Shape], stream: Stream) -> Context:
        """An execution context of `profile` with its input shapes set and no device memory yet.

        Raises
        ------
        EngineError
            TensorRT refuses a step.
        """
        strategy = self.trt.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._engine, "create_runtime_config"):
            context = self._engine.create_execution_context(self._runtime_config(strategy))
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self.error("an execution context cannot be made", "no reason given")
        if profile != 0 or len(self.profiles) > 1:
            self.call("the profile cannot be chosen", context.set_optimization_profile_async, profile, stream.handle)
        for name, shape in shapes.items():
            self.call(f"the shape of {name} is refused", context.set_input_shape, name, shape)
        return Context(self, context, stream)

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call TensorRT, whose refusals are False from some functions and exceptions from others.

        Raises
        ------
        EngineError
            It was refused.
        """
        try:
            answer = function(*arguments)
        except Exception as error:  # whatever the bindings throw
            raise self.error(what, str(error)) from error
        if answer is False:
            raise self.error(what, "refused without a reason")
        return answer

    def error(self, what: str, otherwise: str) -> EngineError:
        """An error with what TensorRT last logged."""
        return EngineError(
            what,
            where=f"{self.where} on {self.trt.name} {self.trt.version}, {self.device.name}",
            found=self.log.last_errors() or otherwise,
            remedy="build the plan again with `scanside build`, or run with device cpu",
        )

    def information(self) -> str:
        """The engine inspector's JSON: every fused layer with its inputs, outputs, types and kernel."""
        with self.device.active():
            inspector = self._engine.create_engine_inspector()
            return str(inspector.get_engine_information(self.trt.api.LayerInformationFormat.JSON))

    def keep_runtime_cache(self, keep: Callable[[bytes], None]) -> None:
        """Give `keep` the kernels RTX has compiled so far, if there are any new ones."""
        if self._cache is None:
            return
        with self.device.active():
            content = self._cache.serialize()
        if content is not None and bytes(content) != self._given:
            self._given = bytes(content)
            keep(self._given)

    def _runtime_config(self, strategy: Any) -> Any:
        if self._config is not None:
            return self._config
        self._config = config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            # Eager: a CUDA graph would keep the general kernels that lazy specialization starts with.
            eager = self.trt.api.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        if self.trt.has_runtime_cache:
            cache = config.create_runtime_cache()
            if self._given and not cache.deserialize(self._given):
                self._given = b""
            self._cache = cache if config.set_runtime_cache(cache) else None
        return config

    def _spec(self, name: str) -> TensorSpec:
        dtype = self.trt.numpy_types.get(self._engine.get_tensor_dtype(name))
        if dtype is None:
            found = str(self._engine.get_tensor_dtype(name))
            raise EngineError("a tensor of a type the engine does not know", where=f"{self.where}: {name}", found=found)
        shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
        return TensorSpec(name, np.dtype(dtype), shape)

    def _profile(self, index: int) -> Profile:
        shapes = {}
        for spec in self.inputs:
            least, best, most = (tuple(dims) for dims in self._engine.get_tensor_profile_shape(spec.name, index))
            shapes[spec.name] = (least, best, most)
        return Profile(shapes)


class Context:
    """An execution context; a `cuda_worker.Program`."""

    _MEMORY = "the context's memory cannot be set"

    def __init__(self, engine: Engine, context: Any, stream: Stream) -> None:
        self._engine, self._context, self._stream = engine, context, stream
        self.memory = max(1, int(engine.call(self._MEMORY, context.update_device_memory_size_for_shapes)))

    def use(self, memory: Buffer) -> None:
        self._engine.call(self._MEMORY, self._context.set_device_memory, memory.address, memory.nbytes)

    def shape(self, output: str) -> Shape:
        return tuple(int(size) for size in self._context.get_tensor_shape(output))

    def bind(self, buffers: Mapping[str, Buffer]) -> Callable[[], None]:
        call, context, handle = self._engine.call, self._context, self._stream.handle

        def enqueue() -> None:
            for name, buffer in buffers.items():
                call(f"the address of {name} is refused", context.set_tensor_address, name, buffer.address)
            call("the run was refused", context.execute_async_v3, handle)

        return enqueue

    def refusal(self) -> str:
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is None or capturable(self._stream.handle):
            return ""
        return "TensorRT says the plan cannot be captured"
