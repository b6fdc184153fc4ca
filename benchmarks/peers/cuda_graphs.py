"""PyTorch on a GPU: FP16, channels last, one CUDA graph a section shape replayed for every batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.peers.common import CannotRunError, Found, pixel_array, serial_exam, task_of, torch_networks
from scanside.pack import Pack


class CudaGraphs:
    """Both networks in FP16 on the first GPU; the processor's part runs as in the paper's way."""

    precision = "fp16"

    def __init__(self, pack: Pack, threads: int) -> None:
        if not torch.cuda.is_available():
            raise CannotRunError("PyTorch sees no GPU", remedy="run this peer where there is one")
        torch.set_num_threads(threads)
        self._manifest = pack.manifest
        segmenter, classifier = torch_networks(pack)
        self._segmenter = _Replayed(segmenter, pack.manifest.segmenter.batch)
        self._classifier = _Replayed(classifier, pack.manifest.classifier.batch)

    def analyze(self, exam: Path) -> list[Found]:
        voxels = pixel_array(exam)
        task = task_of(exam, self._manifest, voxels)
        with torch.inference_mode():
            return serial_exam(voxels, task, self._segmenter, self._classify)

    def _classify(self, crops: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self._classifier(*crops.values()).astype(np.float32)


class _Replayed:
    """A network in FP16 whose kernels are recorded once a shape; uint8 in and out stay as they are."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        self._network = network.half().to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._batch = batch
        self._recorded: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]] = {}

    def __call__(self, *arrays: NDArray[np.uint8]) -> NDArray:
        shape = arrays[0].shape[1:]
        if shape not in self._recorded:
            self._recorded[shape] = self._record(len(arrays), shape)
        graph, inputs, output = self._recorded[shape]
        count = len(arrays[0])
        for tensor, array in zip(inputs, arrays, strict=True):
            tensor[:count].copy_(torch.from_numpy(array))
        graph.replay()
        return output[:count].cpu().numpy()

    def _record(
        self, count: int, shape: tuple[int, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]:
        inputs = [torch.zeros((self._batch, *shape), dtype=torch.uint8, device="cuda") for _ in range(count)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._network(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._network(*inputs)
        return graph, inputs, output


make = CudaGraphs
