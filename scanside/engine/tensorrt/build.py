"""One plan from one graph."""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from scanside.engine.tensorrt.module import TensorRt
from scanside.engine.tensorrt.monitor import Log, logger, monitor
from scanside.engine.tensorrt.network import Network, add_profiles, parse
from scanside.engine.tensorrt.plan import CURRENT, BuildOptions, BuildRecord
from scanside.errors import Cancelled, EngineError

_POLL_S = 0.05
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


@dataclass(frozen=True)
class Built:
    """A plan's bytes, what the build was, its log, and TensorRT's timing cache after it (empty when it has none)."""

    plan: bytes
    record: BuildRecord
    log: tuple[str, ...]
    timing: bytes


def build_plan(
    trt: TensorRt,
    graph: bytes,
    options: BuildOptions,
    target: str,
    *,
    where: str,
    timing: bytes = b"",
    progress: Callable[[float], object] = lambda fraction: None,
    cancel: threading.Event | None = None,
) -> Built:
    """Build `graph` (ONNX) for `target`: "SM86" and so on without a GPU, or "current" for the GPU at hand.

    Parameters
    ----------
    timing : bytes
        A timing cache of an earlier build; ignored where the module has none.
    progress : callable
        Called with the fraction done, from TensorRT's threads.
    cancel : threading.Event, optional
        Set it to stop. A KeyboardInterrupt, or any exception in the calling thread, stops the build as well.

    Raises
    ------
    EngineError
        TensorRT refuses the graph, or the build fails; the message has the last errors it logged.
    Cancelled
        `cancel` was set.
    """
    try:
        return _built(trt, graph, options, target, where, timing, progress, cancel)
    except BaseException as error:
        # Frames would keep the builder for the collector (closures even when they are cleared: there are none here).
        # TensorRT holds a lock while it logs, and takes it to free a builder: a collection that begins in a log line of
        # the next build would wait for ever.
        traceback.clear_frames(error.__traceback__)
        raise


def _built(
    trt: TensorRt,
    graph: bytes,
    options: BuildOptions,
    target: str,
    where: str,
    timing: bytes,
    progress: Callable[[float], object],
    cancel: threading.Event | None,
) -> Built:
    log = Log()
    lines = logger(trt, log)
    try:
        builder = trt.api.Builder(lines)
    except Exception as error:  # without the driver it needs, the bindings find no builder and throw
        raise EngineError(
            f"{trt.name} {trt.version} does not start",
            where=where,
            found=log.last_errors() or str(error),
            remedy="check the driver with `scanside doctor`",
        ) from error
    begun = time.perf_counter()
    network = parse(trt, builder, lines, graph, where=where)
    config = _config(trt, builder, options, target)
    add_profiles(builder, config, network.network, options, where=where)
    cache = _attach_timing(trt, config, timing)
    stop = threading.Event()
    config.progress_monitor = steps = monitor(trt, progress, stop)
    plan = _run(partial(builder.build_serialized_network, network.network, config), stop, cancel)
    del steps
    if plan is None:
        raise EngineError(
            f"{trt.name} {trt.version} could not build the plan",
            where=f"{where}, {target}",
            found=log.last_errors() or "no reason given",
            remedy="run with --device cpu, and report the build's log",
        )
    record = _record(time.perf_counter() - begun, network, "\n".join(log.lines))
    kept = b"" if cache is None else bytes(cache.serialize())
    return Built(bytes(plan), record, tuple(log.lines), kept)


def _config(trt: TensorRt, builder: Any, options: BuildOptions, target: str) -> Any:
    api = trt.api
    config = builder.create_builder_config()
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    config.clear_flag(api.BuilderFlag.TF32)  # on by default, and no fp32
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mb * 2**20)
    if hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        chip = api.ComputeCapability.CURRENT if target == CURRENT else getattr(api.ComputeCapability, target)
        config.set_compute_capability(chip, 0)
    return config


def _attach_timing(trt: TensorRt, config: Any, timing: bytes) -> Any | None:
    """The timing cache in use, or None. One of another version or GPU is left out and a fresh one begun."""
    if not trt.has_timing_cache:
        return None
    for content in dict.fromkeys((timing, b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _run(build: Callable[[], Any], stop: threading.Event, cancel: threading.Event | None) -> Any:
    """`build()` in a thread, so that a signal in this one is heard; it is stopped and waited for, whatever happens."""
    result: list[Any] = []
    failure: list[BaseException] = []
    ended = threading.Event()

    thread = threading.Thread(
        target=_body, args=(build, stop, result, failure, ended), name="scanside-tensorrt-build", daemon=True
    )
    try:
        thread.start()
        while not ended.wait(_POLL_S):
            if cancel is not None and cancel.is_set():
                raise Cancelled("the build was stopped; nothing was written")
    except BaseException:
        stop.set()
        if thread.ident is not None:
            ended.wait()
            thread.join()
        raise
    thread.join()
    if failure:
        raise failure[0]
    if stop.is_set() or (cancel is not None and cancel.is_set()):
        raise Cancelled("the build was stopped; nothing was written")
    return result[0]


def _body(
    build: Callable[[], Any],
    stop: threading.Event,
    result: list[Any],
    failure: list[BaseException],
    ended: threading.Event,
) -> None:
    try:
        if not stop.is_set():  # a thread whose start was interrupted is not waited for: it must not begin
            result.append(build())
    except BaseException as error:  # raised in the caller's thread
        failure.append(error)
    finally:
        ended.set()


def _record(seconds: float, network: Network, log: str) -> BuildRecord:
    weights = _WEIGHTS.search(log)
    return BuildRecord(
        seconds=round(seconds, 3),
        weight_bytes=int(weights.group(1)) if weights else None,
        activation_bytes=tuple(int(n) for n in _ACTIVATIONS.findall(log)),
        folded_weights=network.folded_weights,
        layers=network.layers,
    )
