"""The paper's way through `torch.compile`: FP32, one compilation a section shape, batches padded to one size."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch._dynamo
from torch import nn

from benchmarks.peers.common import CannotRunError, Found
from benchmarks.peers.paper import Paper
from scanside.pack import Pack


class Compiled(Paper):
    """As `Paper`, compiled by inductor; the first exam compiles."""

    def __init__(self, pack: Pack, threads: int) -> None:
        if not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
            raise CannotRunError("torch.compile needs a C++ compiler", found="none on the path")
        super().__init__(pack, threads)
        torch._dynamo.config.cache_size_limit = 32
        self._segmenter = _Padded(torch.compile(self._segmenter, dynamic=False), pack.manifest.segmenter.batch)
        self._classifier = _Padded(torch.compile(self._classifier, dynamic=False), pack.manifest.classifier.batch)

    def analyze(self, exam: Path) -> list[Found]:
        try:
            return super().analyze(exam)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CannotRunError("torch.compile does not compile here", found=reason) from error


class _Padded(nn.Module):
    """A last, shorter batch is filled up, since another size would be compiled anew."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self._network, self._size = network, size

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        count = len(inputs[0])
        missing = (0, 0) * 3 + (0, self._size - count)
        return self._network(*(nn.functional.pad(x, missing) for x in inputs))[:count]


make = Compiled
