"""The runtime protocol: load a graph, say its inputs and outputs, run a batch from and into the caller's buffers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.errors import EngineError

if TYPE_CHECKING:
    from scanside.engine.cuda import Buffer, Device, Stream


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of a graph's input or output. The first axis is the batch and may be None (dynamic)."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]


class Made(Protocol):
    """An input that a GPU makes in the runtime's own buffer. Only a runtime that has a `gpu` takes it, and on that."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Made:
        """Some of its items."""

    def make(self, buffer: Buffer, stream: Stream) -> None:
        """Give the work to `stream`; it fills `buffer` from the beginning."""


Input = NDArray | Made


class Pending(Protocol):
    """A run that was started. Its arrays must live, and the outputs must not be read, before `wait` returns."""

    def wait(self) -> None:
        """Wait until the outputs are filled.

        Raises
        ------
        EngineError
            The run failed.
        """


class Runtime(Protocol):
    """One loaded graph on one device. `run` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Runtime and device, as it appears in the report ("onnxruntime/cpu", "onnxruntime/openvino-cpu")."""

    @property
    def precision(self) -> str:
        """The arithmetic really used: fp32, bf16, fp16 or int8."""

    @property
    def in_flight(self) -> int:
        """How many runs are worth having under way at once: 1 where `submit` does the work itself."""

    @property
    def device_name(self) -> str:
        """The processor or GPU that computes."""

    @property
    def gpu(self) -> Device | None:
        """The GPU whose memory its inputs may be made in (see `Made`); None: inputs are arrays."""
        return None

    fallbacks: tuple[str, ...]
    """What was wanted and not possible, one line each, for the report."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> None:
        """Run one batch. `inputs` and `outputs` are C-contiguous arrays with equal first axes, by tensor name.

        `outputs` may leave out some of the graph's: those are not fetched.

        Raises
        ------
        EngineError
            A tensor of another name, dtype or shape, or a failure inside the runtime.
        """

    def submit(self, inputs: Mapping[str, Input], outputs: Mapping[str, NDArray]) -> Pending:
        """Start what `run` does, also with inputs that are `Made`.

        A runtime on the processor may be done when this returns; one on a GPU, or with threads of its own, goes on.

        Raises
        ------
        EngineError
            As `run`; a failure that shows later is raised by `Pending.wait`.
        """

    def close(self) -> None:
        """Free the graph. Safe to call twice."""


class Done:
    """A run that is over."""

    def wait(self) -> None:
        """Nothing is left to wait for."""


DONE = Done()

_FOLDERS = re.compile(r"(?<![\w./\\:])(?:[A-Za-z]:)?[/\\](?:[^\s/\\]+[/\\])+")


def without_folders(text: str) -> str:
    """`text` with every absolute path cut to its last part: a report must not say whose home it was made in."""
    return _FOLDERS.sub("", text.replace(str(Path.home()), ""))


def require_tensors(
    graph: str,
    inputs: tuple[TensorSpec, ...],
    given: Mapping[str, Input],
    outputs: tuple[TensorSpec, ...],
    taken: Mapping[str, NDArray],
) -> None:
    """Raise unless `given` are the tensors of `inputs` and `taken` some of `outputs`, of one batch size.

    Raises
    ------
    EngineError
        A tensor of another name, dtype or shape, one that is not C-contiguous, or batches of different sizes.
    """
    _require(graph, inputs, given)
    _require(graph, tuple(spec for spec in outputs if spec.name in taken) or outputs, taken)
    if len({array.shape[0] for array in (*given.values(), *taken.values()) if array.shape}) > 1:
        raise EngineError("inputs and outputs differ in batch size", where=graph)


def _require(graph: str, specs: tuple[TensorSpec, ...], arrays: Mapping[str, Input]) -> None:
    if {spec.name for spec in specs} != set(arrays):
        expected = ", ".join(spec.name for spec in specs)
        raise EngineError("other tensors than the graph's", where=graph, expected=expected, found=", ".join(arrays))
    for spec in specs:
        array = arrays[spec.name]
        fits = len(array.shape) == len(spec.shape) and all(
            size in (None, n) for size, n in zip(spec.shape, array.shape, strict=True)
        )
        contiguous = not isinstance(array, np.ndarray) or array.flags.c_contiguous
        if array.dtype != spec.dtype or not fits or not contiguous:
            raise EngineError(
                "a tensor does not fit the graph",
                where=f"{graph}: {spec.name}",
                expected=f"C-contiguous {spec.dtype} {list(spec.shape)}",
                found=f"{array.dtype} {list(array.shape)}",
            )
