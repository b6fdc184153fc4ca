"""A plain ONNX Runtime loop: FP32 graphs on the CPU provider, default settings, one step after another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers.common import Found, classifier_inputs, pixel_array, serial_exam, task_of
from scanside.export.read_back import fp32_graph
from scanside.pack import Pack


class PlainOnnx:
    """Both networks in ONNX Runtime on `threads` threads."""

    precision = "fp32"

    def __init__(self, pack: Pack, threads: int) -> None:
        self._pack = pack
        self._segmenter, self._classifier = (
            _session(fp32_graph(pack, name), threads) for name in ("segmenter", "classifier")
        )

    def analyze(self, exam: Path) -> list[Found]:
        voxels = pixel_array(exam)
        return serial_exam(voxels, task_of(exam, self._pack.manifest, voxels), self._segment, self._classify)

    def _segment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._segmenter.run(None, {self._pack.manifest.segmenter.input: pixels})[0]

    def _classify(self, crops: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
        answer = self._pack.manifest.classifier.output
        return self._classifier.run([answer], classifier_inputs(self._pack, crops))[0]


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


make = PlainOnnx
