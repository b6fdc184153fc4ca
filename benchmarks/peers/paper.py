"""The paper's way: PyTorch in eager mode, FP32, one step after another, frames through `pixel_array`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.peers.common import Found, pixel_array, serial_exam, task_of, torch_networks
from scanside.pack import Pack


class Paper:
    """Both networks in eager PyTorch on `threads` threads."""

    precision = "fp32"

    def __init__(self, pack: Pack, threads: int) -> None:
        torch.set_num_threads(threads)
        self._manifest = pack.manifest
        self._segmenter, self._classifier = torch_networks(pack)

    def analyze(self, exam: Path) -> list[Found]:
        voxels = pixel_array(exam)
        with torch.inference_mode():
            return serial_exam(voxels, task_of(exam, self._manifest, voxels), self._segment, self._classify)

    def _segment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return run(self._segmenter, pixels)

    def _classify(self, crops: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
        return run(self._classifier, *crops.values())


def run(network: nn.Module, *arrays: NDArray[np.uint8]) -> NDArray:
    """The network's answer to arrays."""
    return network(*(torch.from_numpy(array) for array in arrays)).numpy()


make = Paper
