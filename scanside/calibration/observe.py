"""Run a network over calibration batches and count what its tensors hold: streaming, resumable."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from scanside.calibration.histogram import BINS, Histogram
from scanside.errors import CalibrationError, EngineError
from scanside.exam.write import atomic_file

Batch = Mapping[str, NDArray[np.uint8]]
Progress = Callable[[int, int], None]

SAVE_EVERY = 8


def session(model: onnx.ModelProto | bytes, threads: int = 0) -> ort.InferenceSession:
    """The model in ONNX Runtime on the CPU in FP32, Q/DQ computed as written (rounding simulated exactly).

    Raises
    ------
    EngineError
        It does not load.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise EngineError("the graph does not load", found=_first_line(error)) from error


def observing(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy of `model` that answers `tensors` as well."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    present = {value.name for value in made.graph.output}
    for name in tensors:
        if name not in present:
            made.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return made


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Sequence[Callable[[], Batch]],
    *,
    state: Path | None = None,
    progress: Progress | None = None,
    threads: int = 0,
) -> dict[str, Histogram]:
    """Histograms of `tensors` over all batches. One batch's tensors are in memory at a time.

    Parameters
    ----------
    model : ModelProto
        The FP32 graph.
    batches : sequence of callables
        Each makes one batch, by input name, when its turn comes.
    state : path, optional
        A file in which progress is kept. A run that finds it goes on after the batches it has counted; it must be of
        the same graph and batches, so give it a name that says so.
    progress : callable, optional
        Called with (batches done, batches).

    Raises
    ------
    CalibrationError
        A batch does not fit the network's inputs, a tensor is not finite, or the state file is damaged.
    EngineError
        The graph does not load or fails.
    """
    done, histograms = _restore(state, tensors) if state is not None and state.is_file() else (0, None)
    histograms = histograms or {name: Histogram() for name in tensors}
    if done < len(batches):
        runtime = session(observing(model, tensors), threads)
        for number in range(done, len(batches)):
            for name, values in zip(tensors, run_batch(runtime, tensors, batches[number]()), strict=True):
                try:
                    histograms[name].add(values)
                except ValueError as error:
                    raise CalibrationError(
                        "a tensor is not finite in the calibration data",
                        where=f"batch {number}: {name}",
                        found=str(error),
                        remedy="check the network with `scanside pack verify`",
                    ) from None
            done = number + 1
            if state is not None and (done % SAVE_EVERY == 0 or done == len(batches)):
                _save(state, done, histograms)
            if progress is not None:
                progress(done, len(batches))
    return histograms


def run_batch(runtime: ort.InferenceSession, outputs: Sequence[str], batch: Batch) -> list[NDArray]:
    """The answers of one batch.

    Raises
    ------
    CalibrationError
        The batch does not fit the network's inputs.
    EngineError
        The graph failed.
    """
    expected = {node.name: node.shape for node in runtime.get_inputs()}
    for name, shape in expected.items():
        array = batch.get(name)
        sizes = None if array is None else array.shape
        fits = sizes is not None and len(sizes) == len(shape)
        if array is None or not fits or array.dtype != np.uint8 or _differ(shape, array.shape):
            raise CalibrationError(
                "calibration data of another size than the network's",
                where=name,
                expected=f"uint8 {list(shape)}",
                found="nothing" if array is None else f"{array.dtype} {list(array.shape)}",
                remedy="select the data with the pack that is calibrated",
            )
    try:
        return runtime.run(list(outputs), dict(batch))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise EngineError("the graph failed", found=_first_line(error)) from error


def _differ(shape: Sequence[int | str | None], sizes: tuple[int, ...]) -> bool:
    return any(isinstance(n, int) and n != size for n, size in zip(shape, sizes, strict=True))


def _save(state: Path, done: int, histograms: Mapping[str, Histogram]) -> None:
    rows = list(histograms.values())
    with atomic_file(state) as file:
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            done=np.int64(done),
            tensors=np.array(list(histograms)),
            counts=np.stack([h.counts for h in rows]) if rows else np.zeros((0, BINS), np.int64),
            extremes=np.array([(h.limit, h.low, h.high) for h in rows]).reshape(-1, 3),
        )
        file.write(stream.getvalue())


def _restore(state: Path, tensors: Sequence[str]) -> tuple[int, dict[str, Histogram]]:
    try:
        with np.load(state, allow_pickle=False) as kept:
            names, counts, extremes = kept["tensors"].tolist(), kept["counts"], kept["extremes"]
            done = int(kept["done"])
        if names != list(tensors) or counts.shape != (len(names), BINS) or extremes.shape != (len(names), 3):
            raise ValueError("other tensors")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CalibrationError(
            "the state of an earlier run is damaged",
            where=state,
            found=_first_line(error),
            remedy="delete the file to start this step again",
        ) from None
    return done, {name: Histogram(counts[i].copy(), *map(float, extremes[i])) for i, name in enumerate(names)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
