"""The runtime protocol: load a graph, say its inputs and outputs, run a batch from and into the caller's buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of a graph's input or output. The first axis is the batch and may be None (dynamic)."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]


class Runtime(Protocol):
    """One loaded graph on one device. `run` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Runtime and device, as it appears in the report ("onnxruntime/cpu", "onnxruntime/openvino-cpu")."""

    @property
    def precision(self) -> str:
        """The arithmetic really used: fp32, bf16, fp16 or int8."""

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

    def close(self) -> None:
        """Free the graph. Safe to call twice."""
