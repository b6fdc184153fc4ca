"""OpenVINO's own API as a good engineer would use it: asynchronous, throughput hint, default precision.

The FP32 graphs, one compiled model a section shape, OpenVINO's own number of requests in flight, sections cut while
others are computed, sagittal slices in blocks. How many sections a request takes is measured for each shape in the
first run, which is not timed. On processors with bf16 the default precision computes in bf16.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.common import (
    Found,
    classifier_inputs,
    lesions_of,
    pixel_array,
    section_batches,
    task_of,
)
from scanside.engine.openvino import openvino_module
from scanside.engine.sections import native_slices
from scanside.engine.support import Support
from scanside.export.read_back import fp32_graph
from scanside.pack import Pack

openvino = openvino_module()

SECTIONS_A_REQUEST = (1, 2, 4, 8)
"""What is tried; the fastest is taken."""
TRIED_SECTIONS = 32
TRIES = 3


class OpenvinoAsync:
    """Both networks in OpenVINO on `threads` threads."""

    def __init__(self, pack: Pack, threads: int) -> None:
        self._pack, self._core = pack, openvino.Core()
        self._how = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads}
        self._segmenter = fp32_graph(pack, "segmenter")
        self._queues: dict[tuple[int, int], tuple[int, Any]] = {}
        classifier = self._core.read_model(fp32_graph(pack, "classifier"))
        self._classifier = self._core.compile_model(classifier, "CPU", self._how)
        hint = self._classifier.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}.get(hint, hint)

    def analyze(self, exam: Path) -> list[Found]:
        voxels = pixel_array(exam)
        task = task_of(exam, self._pack.manifest, voxels)
        support = Support(task.grids)
        for plane, grid in task.grids.items():
            sections, queue = self._queue(task.network_shape(grid))
            answers = np.empty((len(grid), *task.network_shape(grid)), np.uint8)
            queue.set_callback(lambda request, place, answers=answers: _keep(request, place, answers))
            for first, pixels in section_batches(
                task, grid, native_slices(voxels, grid.plane, grid.indices.tolist()), sections
            ):
                count = len(pixels)
                if count < sections:
                    pixels = np.concatenate([pixels, np.zeros((sections - count, *pixels.shape[1:]), np.uint8)])
                queue.start_async({0: pixels}, (first, count))
            queue.wait_all()
            support.add(plane, 0, answers)
        return lesions_of(voxels, task, support, self._classify)

    @property
    def settings(self) -> dict[str, Any]:
        """Sections a request, by section shape."""
        chosen = {f"{height}x{width}": sections for (height, width), (sections, _) in self._queues.items()}
        return {"sections_a_request": chosen}

    def _queue(self, shape: tuple[int, int]) -> tuple[int, Any]:
        """The fastest number of sections a request, and its queue; found when a shape is first met."""
        if shape not in self._queues:
            least = float("inf")
            for sections in SECTIONS_A_REQUEST:
                queue = self._compiled(sections, shape)
                seconds = _seconds(queue, sections, shape)
                if seconds < least:
                    least, self._queues[shape] = seconds, (sections, queue)
        return self._queues[shape]

    def _compiled(self, sections: int, shape: tuple[int, int]) -> Any:
        model = self._core.read_model(self._segmenter)
        model.reshape([sections, 1, *shape])
        return openvino.AsyncInferQueue(self._core.compile_model(model, "CPU", self._how))

    def _classify(self, crops: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
        answer = self._pack.manifest.classifier.output
        return self._classifier(classifier_inputs(self._pack, crops))[answer]


def _seconds(queue: Any, sections: int, shape: tuple[int, int]) -> float:
    """The best time of `TRIES` for `TRIED_SECTIONS` sections."""
    pixels = np.random.default_rng(0).integers(0, 256, (sections, 1, *shape), dtype=np.uint8)
    seconds = []
    for _ in range(TRIES + 1):  # the first run of a request allocates
        begun = time.perf_counter()
        for _ in range(TRIED_SECTIONS // sections):
            queue.start_async({0: pixels})
        queue.wait_all()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def _keep(request: Any, place: tuple[int, int], answers: NDArray[np.uint8]) -> None:
    first, count = place
    answers[first : first + count] = request.get_output_tensor(0).data[:count, 0]


make = OpenvinoAsync
