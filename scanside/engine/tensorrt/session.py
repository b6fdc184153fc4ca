"""A plan made ready: the deserialized engine, what it takes and answers, and its execution contexts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scanside.engine.cuda import NO_ROOM_REMEDY, Buffer, Device, OutOfDeviceMemory, Stream, says_no_room
from scanside.engine.runtime import TensorSpec
from scanside.engine.tensorrt.module import TensorRt
from scanside.engine.tensorrt.monitor import Log, logger
from scanside.engine.tensorrt.profiles import Profile, Shape
from scanside.errors import EngineError

_JUDGED_LINES = 10
"""Of the log, for the reason of a refusal: what runs out of memory says so first and fails for it later."""


class Engine:
    """A deserialized plan on a GPU, shared by all sessions of its network; a `cuda_worker.Network`.

    TensorRT frees a thing with the last reference to it, so each has one name here, and calls go through that name:
    an error on its way, which keeps the frames of a failed call, keeps nothing on the GPU.

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
        TensorRT refuses the plan.
    OutOfDeviceMemory
        The GPU has no room for its weights.
    """

    def __init__(self, trt: TensorRt, device: Device, plan: bytes, *, where: str, runtime_cache: bytes = b"") -> None:
        self.trt = trt
        self.device = device
        self.where = where
        self.log = Log()
        self._logger = logger(trt, self.log)
        self._runtime: Any = None
        self._engine: Any = None
        self._config: Any = None
        self._cache: Any = None
        self._given = runtime_cache
        self._lock = threading.Lock()
        self._users = 1
        try:
            self._open(plan)
        except BaseException:
            self.close()
            raise

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
        context = Context(self, stream)
        try:
            context.prepare(profile, shapes)
        except BaseException:
            context.free()
            raise
        return context

    def new_context(self) -> Any:
        """TensorRT's execution context, or None."""
        strategy = self.trt.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._engine, "create_runtime_config"):
            return self._engine.create_execution_context(self._runtime_config(strategy))
        return self._engine.create_execution_context(strategy)

    def call(self, what: str, function: Callable[[], Any]) -> Any:
        """Call TensorRT, whose refusals are False or None from some functions and exceptions from others.

        Raises
        ------
        EngineError
            It was refused.
        OutOfDeviceMemory
            For want of memory.
        """
        try:
            answer = function()
        except Exception as error:  # whatever the bindings throw
            raise self._error(what, str(error)) from error
        if answer is False:
            raise self._error(what, "refused without a reason")
        return answer

    def make(self, what: str, function: Callable[[], Any]) -> Any:
        """As `call`, of a function that answers None where it can make nothing."""
        made = self.call(what, function)
        if made is None:
            raise self._error(what, "no reason given")
        return made

    def share(self) -> bool:
        """One user more, who closes it too; False if it is closed already."""
        with self._lock:
            if self._users == 0:
                return False
            self._users += 1
            return True

    def close(self) -> None:
        """One user fewer; the last one's frees the engine with its weights, then the runtime."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
        with self.device.active():
            self._config = None
            self._cache = None
            self._engine = None
            self._runtime = None

    def information(self) -> str:
        """The engine inspector's JSON: every fused layer with its inputs, outputs, types and kernel."""
        form = self.trt.api.LayerInformationFormat.JSON
        with self.device.active():
            return str(self._engine.create_engine_inspector().get_engine_information(form))

    def keep_runtime_cache(self, keep: Callable[[bytes], None]) -> None:
        """Give `keep` the kernels RTX has compiled so far, if there are any new ones."""
        if self._cache is None:
            return
        with self.device.active():
            content = self._cache.serialize()
        if content is not None and bytes(content) != self._given:
            self._given = bytes(content)
            keep(self._given)

    def _open(self, plan: bytes) -> None:
        with self.device.active():
            self._runtime = self.make("TensorRT does not start", lambda: self.trt.api.Runtime(self._logger))
            self._engine = self.make("TensorRT refuses the plan", lambda: self._runtime.deserialize_cuda_engine(plan))
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == self.trt.api.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(self._spec(name) for name in names if is_input[name])
        self.outputs = tuple(self._spec(name) for name in names if not is_input[name])
        self.profiles = tuple(self._profile(i) for i in range(self._engine.num_optimization_profiles))

    def _error(self, what: str, otherwise: str) -> EngineError:
        """An error with what TensorRT has logged since the last one."""
        logged = self.log.last_errors(_JUDGED_LINES)
        no_room = says_no_room(f"{logged} {otherwise}")
        found = self.log.last_errors() or otherwise
        self.log.lines.clear()
        return (OutOfDeviceMemory if no_room else EngineError)(
            what,
            where=f"{self.where} on {self.trt.name} {self.trt.version}, {self.device.name}",
            found=found,
            remedy=NO_ROOM_REMEDY if no_room else "build the plan again with `scanside build`, or run with device cpu",
        )

    def _runtime_config(self, strategy: Any) -> Any:
        if self._config is None:
            self._config = self._engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(strategy)
            if hasattr(self._config, "dynamic_shapes_kernel_specialization_strategy"):
                # Eager: a CUDA graph would keep the general kernels that lazy specialization starts with.
                eager = self.trt.api.DynamicShapesKernelSpecializationStrategy.EAGER
                self._config.dynamic_shapes_kernel_specialization_strategy = eager
            if self.trt.has_runtime_cache:
                self._cache = self._config.create_runtime_cache()
                if self._given and not self._cache.deserialize(self._given):
                    self._given = b""
                if not self._config.set_runtime_cache(self._cache):
                    self._cache = None
        return self._config

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

    def __init__(self, engine: Engine, stream: Stream) -> None:
        self._engine, self._stream = engine, stream
        self._context: Any = engine.make("an execution context cannot be made", engine.new_context)
        self.memory = 0

    def prepare(self, profile: int, shapes: Mapping[str, Shape]) -> None:
        """Choose its profile and shapes.

        Raises
        ------
        EngineError
            TensorRT refuses a step.
        """
        if profile != 0 or len(self._engine.profiles) > 1:
            handle = self._stream.handle
            self._call("the profile cannot be chosen", "set_optimization_profile_async", profile, handle)
        for name, shape in shapes.items():
            self._call(f"the shape of {name} is refused", "set_input_shape", name, shape)
        self.memory = max(1, int(self._call(self._MEMORY, "update_device_memory_size_for_shapes")))

    def use(self, memory: Buffer) -> None:
        self._call(self._MEMORY, "set_device_memory", memory.address, memory.nbytes)

    def shape(self, output: str) -> Shape:
        return tuple(int(size) for size in self._context.get_tensor_shape(output))

    def bind(self, buffers: Mapping[str, Buffer]) -> Callable[[], None]:
        def enqueue() -> None:
            for name, buffer in buffers.items():
                self._call(f"the address of {name} is refused", "set_tensor_address", name, buffer.address)
            self._call("the run was refused", "execute_async_v3", self._stream.handle)

        return enqueue

    def refusal(self) -> str:
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is None or capturable(self._stream.handle):
            return ""
        return "TensorRT says the plan cannot be captured"

    def free(self) -> None:
        self._context = None

    def _call(self, what: str, method: str, *arguments: Any) -> Any:
        return self._engine.call(what, lambda: getattr(self._context, method)(*arguments))
