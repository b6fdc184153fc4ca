"""How fast these cores can be: matrix products a second in a precision, and bytes a second through memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanside.engine.capabilities import usable_cores
from scanside.engine.onnxruntime import load_runtime
from scanside.errors import EngineError, ScansideError

GEMM_GRAPH = Path(__file__).parent / "gemm.onnx"
"""Made by `python -m benchmarks.make_gemm`."""
GEMM_ROWS = 2048
GEMM_PRODUCTS = 4
COPY_BYTES = 128 * 2**20
TRIES = 5
_ANSWER_ERROR = 0.02


@dataclass(frozen=True)
class Rate:
    """The best of several tries: operations (a multiply and an add are two) or bytes a second, and by what."""

    per_second: float
    by: str


def gemm_rate(precision: str, *, device: str = "cpu", threads: int, rows: int = GEMM_ROWS, tries: int = TRIES) -> Rate:
    """Operations a second of large matrix products in `precision` on `threads` cores.

    fp32 on all cores is the faster of the engine's runtime and numpy's BLAS; anything else is the runtime's.

    Raises
    ------
    EngineError
        The runtime does not run this precision here, or its product is wrong.
    """
    found = [_runtime_rate(precision, device, threads, rows, tries)]
    if precision == "fp32" and device != "cuda" and threads >= usable_cores():
        found.append(_numpy_rate(rows, tries))
    return max(found, key=lambda rate: rate.per_second)


def memory_rate(threads: int, *, size: int = COPY_BYTES, tries: int = TRIES) -> Rate:
    """Bytes a second read plus written by copying on `threads` cores, far beyond the caches."""
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)), tries)
    return Rate(2 * size / seconds, "numpy copy")


def rates_of(precision: str, *, device: str, threads: int) -> dict[str, Any]:
    """Both rates for the record; what cannot be measured says why instead."""
    found: dict[str, Any] = {"memory_gb_per_s": round(memory_rate(threads).per_second / 1e9, 2)}
    try:
        rate = gemm_rate(precision, device=device, threads=threads)
    except ScansideError as error:
        return {**found, "gemm_gop_per_s": None, "gemm_by": str(error)}
    return {**found, "gemm_gop_per_s": round(rate.per_second / 1e9, 1), "gemm_by": rate.by}


def _runtime_rate(precision: str, device: str, threads: int, rows: int, tries: int) -> Rate:
    runtime = load_runtime(
        GEMM_GRAPH.read_bytes(),
        device=device,
        precision=precision,
        dims={"rows": rows},
        threads=threads,
        name=GEMM_GRAPH.name,
    )
    size = runtime.inputs[0].shape[1]
    assert size is not None
    a = np.random.default_rng(0).random((rows, size), dtype=np.float32)
    b = np.empty_like(a)
    seconds = _best(lambda: runtime.run({"a": a}, {"b": b}), tries)
    runtime.close()
    error = float(np.abs(b[:, 0] - a.mean(axis=1)).max())
    if not error <= _ANSWER_ERROR:
        raise EngineError("a matrix product came out wrong", where=runtime.name, expected="row means", found=error)
    return Rate(GEMM_PRODUCTS * 2 * rows * size * size / seconds, f"{runtime.name} {runtime.precision}")


def _numpy_rate(rows: int, tries: int) -> Rate:
    a = np.ones((rows, GEMM_ROWS), np.float32)
    b = np.ones((GEMM_ROWS, GEMM_ROWS), np.float32)
    out = np.empty_like(a)
    seconds = _best(lambda: np.matmul(a, b, out=out), tries)
    return Rate(2 * rows * GEMM_ROWS * GEMM_ROWS / seconds, "numpy")


def _best(work: Callable[[], object], tries: int) -> float:
    work()
    best = float("inf")
    for _ in range(tries):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best
