"""From a pack's network to a TensorRT runtime: the plan of this GPU, opened once, one session a size."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping

from scanside.engine.cuda import Device, shared_device
from scanside.engine.cuda_runtime import CudaRuntime, in_flight_of
from scanside.engine.tensorrt.cache import KERNELS_SUFFIX, PlanCache
from scanside.engine.tensorrt.module import TensorRt, require
from scanside.engine.tensorrt.plan import BuildOptions, PlanKey, StoredPlan
from scanside.engine.tensorrt.plans import Target, ensure_plan, key_of, options_of, require_plan, target_of
from scanside.engine.tensorrt.session import Engine
from scanside.errors import OutputError
from scanside.pack import ClassifierSpec, SegmenterSpec

_opening = threading.Lock()
_engines: weakref.WeakValueDictionary[str, Engine] = weakref.WeakValueDictionary()


def load_tensorrt(
    graph: bytes,
    spec: SegmenterSpec | ClassifierSpec,
    *,
    precision: str,
    dims: Mapping[str, int],
    cache: PlanCache | None = None,
    trt: TensorRt | None = None,
    device: Device | None = None,
) -> CudaRuntime:
    """The runtime of one network at one size.

    A plan that is missing is built here only by a module that builds ahead of time, in seconds (RTX); `tensorrt`
    measures kernels for minutes, which belongs into `scanside build`.

    Parameters
    ----------
    graph : bytes
        ONNX in `precision`.
    spec : SegmenterSpec or ClassifierSpec
        Says which network it is, and its shapes.
    dims : mapping
        See `CudaRuntime`.
    cache, trt, device
        This user's plan cache, the installed module and the first GPU if None.

    Raises
    ------
    EngineError
        No TensorRT, no GPU, no plan that fits (which field differs, and the command), or a plan that does not load.
    OutputError
        The plan cannot be kept.
    """
    trt = trt or require()
    device = device or shared_device()
    cache = cache or PlanCache()
    network = "segmenter" if isinstance(spec, SegmenterSpec) else "classifier"
    target = target_of(trt, device.compute_capability, device.driver)
    options = options_of(spec)
    key = key_of(trt, target, network, precision, graph, options)
    remarks: tuple[str, ...] = ()
    with _opening:
        plan = _usable(cache, key)
        if plan is None and trt.targets:
            plan, remarks = _built(trt, cache, key, graph, options, target)
        if plan is None:
            plan = require_plan(cache, key)
        engine = _opened(trt, device, cache, plan)
    runtime = CudaRuntime(engine, precision, dims, remarks=remarks, **in_flight_of(spec))
    try:
        engine.keep_runtime_cache(lambda content: cache.store_blob(_runtime_cache_file(plan), content))
    except OutputError as error:
        runtime.fallbacks += (f"compiled kernels are not kept: {error.found or error.what}",)
    except BaseException:
        runtime.close()
        raise
    return runtime


def _usable(cache: PlanCache, key: PlanKey) -> StoredPlan | None:
    """The plan of `key`, or the last used one built with another `--batch` or `--workspace`."""
    return cache.find(key) or next((plan for plan in cache.plans() if plan.key.serves(key)), None)


def _built(
    trt: TensorRt, cache: PlanCache, key: PlanKey, graph: bytes, options: BuildOptions, target: Target
) -> tuple[StoredPlan, tuple[str, ...]]:
    near = cache.nearest(key)
    why = "there was none" if near is None else f"the one there differs in {'; '.join(key.differences(near.key))}"
    plan, reused = ensure_plan(trt, cache, key, graph, options, target)
    remark = f"the plan of the {key.network} was built at load in {plan.record.seconds:.1f} s: {why}"
    return plan, () if reused else (remark,)


def _opened(trt: TensorRt, device: Device, cache: PlanCache, plan: StoredPlan) -> Engine:
    engine = _engines.get(plan.sha256)
    if engine is None or engine.device is not device or not engine.share():
        data = cache.read(plan)
        kernels = cache.blob(_runtime_cache_file(plan)) if trt.has_runtime_cache else b""
        where = f"{plan.key.network} {plan.key.precision}"
        engine = Engine(trt, device, data, where=where, runtime_cache=kernels)
        _engines[plan.sha256] = engine
    return engine


def _runtime_cache_file(plan: StoredPlan) -> str:
    return plan.path.with_suffix(KERNELS_SUFFIX).name
