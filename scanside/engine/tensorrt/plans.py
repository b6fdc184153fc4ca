"""Plans of a pack: found in the cache, or built into it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from scanside.engine.cuda import shared_device
from scanside.engine.graphs import graph_of, precisions_of
from scanside.engine.tensorrt.build import build_plan
from scanside.engine.tensorrt.cache import PlanCache, rebuild_command
from scanside.engine.tensorrt.module import TensorRt, require
from scanside.engine.tensorrt.plan import ANY_DRIVER, CURRENT, BuildOptions, PlanKey, StoredPlan, plan_key
from scanside.engine.tensorrt.profiles import Batch, classifier_profiles, segmenter_profiles
from scanside.errors import EngineError, UsageError
from scanside.pack import ClassifierSpec, Pack, SegmenterSpec

NETWORKS = ("segmenter", "classifier")
_COMMON = ("SM86", "SM89", "SM120")
OnProgress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Target:
    """What a plan is built for. `name` is "SM86" or "current"; RTX plans built by name run with any driver."""

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True)
class PlanRow:
    """One plan of a `build`: where it lies, and whether it was there already."""

    plan: StoredPlan
    target: str
    reused: bool


def targets_from(text: str) -> tuple[str, ...]:
    """`SM86,SM89` or `current` as names.

    Raises
    ------
    UsageError
        Another form.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(n == CURRENT or (n[:2] == "SM" and n[2:].isdigit()) for n in names):
        raise UsageError(
            "--target makes no sense",
            expected="SM86,SM89,SM120 (any of them), or current",
            found=repr(text),
            remedy="for example --target SM86",
        )
    return names


def target_named(trt: TensorRt, name: str) -> Target:
    """The target of this name; "current" asks the GPU at hand.

    Raises
    ------
    EngineError
        No GPU answers.
    """
    if name != CURRENT:
        return Target(name, f"{name[2:-1]}.{name[-1]}", ANY_DRIVER)
    try:
        device = shared_device()
    except EngineError as error:
        if not trt.targets:
            raise
        raise EngineError(
            "--target current needs a GPU",
            found=f"{error.what}: {error.found}" if error.found else error.what,
            remedy=f"name the GPU instead: --target {','.join(n for n in trt.targets if n in _COMMON)}",
        ) from None
    return target_of(trt, device.compute_capability, device.driver)


def target_of(trt: TensorRt, compute_capability: tuple[int, int], driver: str) -> Target:
    """The target for a GPU: by name where the module builds ahead of time for it, else "current" with its driver."""
    major, minor = compute_capability
    name = f"SM{major}{minor}"
    if name in trt.targets:
        return Target(name, f"{major}.{minor}", ANY_DRIVER)
    return Target(CURRENT, f"{major}.{minor}", driver)


def options_of(
    spec: SegmenterSpec | ClassifierSpec, batch: Batch | None = None, workspace_mb: int | None = None
) -> BuildOptions:
    """The build options of a network."""
    if isinstance(spec, SegmenterSpec):
        return BuildOptions(segmenter_profiles(spec, batch), workspace_mb)
    return BuildOptions(classifier_profiles(spec, batch), workspace_mb)


def key_of(trt: TensorRt, target: Target, network: str, precision: str, graph: bytes, options: BuildOptions) -> PlanKey:
    """The key under which the plan of `graph` lies."""
    return plan_key(
        network,
        precision,
        graph,
        options,
        module=trt.name,
        module_version=trt.version,
        compute_capability=target.compute_capability,
        driver=target.driver,
    )


def require_plan(cache: PlanCache, key: PlanKey) -> StoredPlan:
    """The plan of `key`.

    Raises
    ------
    EngineError
        There is none; the message says in which fields the nearest one differs, and the command that builds it.
    """
    plan = cache.find(key)
    if plan is not None:
        return plan
    near = cache.nearest(key)
    raise EngineError(
        f"no plan of the {key.network} fits here",
        where=cache.folder if near is None else near.path.name,
        expected=None if near is None else "; ".join(key.differences(near.key)),
        found="none built yet" if near is None else None,
        remedy=f"build it: `{rebuild_command(key)}`",
    )


def ensure_plan(
    trt: TensorRt,
    cache: PlanCache,
    key: PlanKey,
    graph: bytes,
    options: BuildOptions,
    target: Target,
    *,
    progress: Callable[[float], object] = lambda fraction: None,
    cancel: threading.Event | None = None,
) -> tuple[StoredPlan, bool]:
    """The plan of `key`, built if it is not there or damaged; and whether it was there.

    Raises
    ------
    EngineError, OutputError, Cancelled
        See `build_plan` and `PlanCache.store`. Nothing half-written is left.
    """
    with cache.building(key):
        plan = cache.find(key)
        if plan is not None and _is_whole(cache, plan):
            return plan, True
        with _timing(trt, cache, key) as (timing, keep):
            built = build_plan(
                trt,
                graph,
                options,
                target.name,
                where=f"{key.network} {key.precision}",
                timing=timing,
                progress=progress,
                cancel=cancel,
            )
            plan = cache.store(key, built.plan, built.record, built.log)
            keep(built.timing)
        return plan, False


def build_pack(
    pack: Pack,
    *,
    targets: Sequence[str],
    precision: str = "auto",
    batch: Batch | None = None,
    workspace_mb: int | None = None,
    cache: PlanCache | None = None,
    progress: OnProgress = lambda stage, done, total: None,
    cancel: threading.Event | None = None,
) -> Iterator[PlanRow]:
    """Build the plans of both networks for every target; each row is given as soon as its plan is in the cache.

    Parameters
    ----------
    targets : sequence of str
        See `targets_from`.
    precision : str
        "auto" builds every precision the pack has a graph for.
    batch, workspace_mb
        See `Batch` and `BuildOptions`.
    progress : callable
        Called with the stage's name, and percent done of 100.

    Raises
    ------
    EngineError
        No TensorRT, no such target, no GPU for "current", or a build that fails.
    PackError
        The pack has no graph of this precision.
    OutputError, Cancelled
        The cache cannot be written; the caller asked for a stop.
    """
    aims = []
    for name in targets:
        trt = require(None if name == CURRENT else name)
        aims.append((trt, target_named(trt, name)))
    cache = cache or PlanCache()
    wanted = precisions_of(pack) if precision == "auto" else (precision,)
    graphs = {(n, p): graph_of(pack, n, p, "tensorrt") for p in wanted for n in NETWORKS}
    for trt, target in aims:
        for (network, kind), graph in graphs.items():
            options = options_of(getattr(pack.manifest, network), batch, workspace_mb)
            key = key_of(trt, target, network, kind, graph, options)
            stage = f"{network} {kind} SM{target.compute_capability.replace('.', '')}"

            step = _in_percent(progress, stage)
            plan, reused = ensure_plan(trt, cache, key, graph, options, target, progress=step, cancel=cancel)
            progress(stage, 100, 100)
            yield PlanRow(plan, target.name, reused)


def _in_percent(progress: OnProgress, stage: str) -> Callable[[float], None]:
    """A function of the fraction done that tells `progress` each whole per cent once; 100 is left to the end."""
    told = -1

    def step(fraction: float) -> None:
        nonlocal told
        percent = min(99, int(100 * fraction))
        if percent > told:
            told = percent
            progress(stage, percent, 100)

    return step


@contextmanager
def _timing(trt: TensorRt, cache: PlanCache, key: PlanKey) -> Iterator[tuple[bytes, Callable[[bytes], None]]]:
    """The timing cache of this GPU and a function that keeps the next one.

    It is held throughout: builds that measure kernels on one GPU at the same time would measure each other.
    """
    if not trt.has_timing_cache:
        yield b"", lambda content: None
        return
    file = f"timing-{trt.name}-{trt.version}-{key.compute_capability}-{key.driver}.cache"
    with cache.locked_blob(file) as timing:
        yield timing, lambda content: cache.store_blob(file, content)


def _is_whole(cache: PlanCache, plan: StoredPlan) -> bool:
    try:
        cache.read(plan)
    except EngineError:
        return False
    return True
