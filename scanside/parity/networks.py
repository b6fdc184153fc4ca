"""What answers: a pack's network as the engine runs it, loaded at its first batch; `pytorch.py` has the other kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.engine.capabilities import Capabilities
from scanside.engine.choice import load_network
from scanside.engine.graphs import graph_sha256
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.onnxruntime import Choice
from scanside.exam.planes import Plane
from scanside.pack import Pack

ARITHMETIC_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp")
"""Instruction sets that decide how a processor rounds."""


class Answering(Protocol):
    """A network to be judged, or to judge by."""

    @property
    def network(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain JSON: all that decides the answers."""

    def segment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Sections uint8 [n, 1, h, w] to probabilities of the same shape."""

    def classify(self, crops: Mapping[Plane, NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Triplets, uint8 [n, 1, size, size] a plane, to P(malignant) [n]."""

    def close(self) -> None:
        """Free it; it is loaded again when asked again."""


def key_of(network: Answering) -> str:
    """The hash of a network's identity."""
    return hashlib.sha256(json.dumps(network.identity, sort_keys=True).encode()).hexdigest()


class EngineNetwork:
    """A network of a pack as `choice` runs it."""

    def __init__(
        self, pack: Pack, network: str, machine: Capabilities, choice: Choice, *, device: str, threads: int
    ) -> None:
        self.network = network
        self.choice = choice
        self.arithmetic = choice.arithmetic
        self.graph_sha256 = graph_sha256(pack, network, choice.precision, choice.runtime)
        self.versions = runtime_versions(machine, choice)
        self.processor = machine.processor
        self.flags = tuple(flag for flag in ARITHMETIC_FLAGS if flag in machine.flags)
        self.identity: Mapping[str, Any] = {
            "network": network,
            "precision": choice.precision,
            "runtime": choice.runtime,
            "arithmetic": self.arithmetic,
            "graph_sha256": self.graph_sha256,
            "versions": dict(self.versions),
            "processor": self.processor,
            "flags": list(self.flags),
        }
        self._load = lambda: load_network(pack, network, choice, device=device, threads=threads)
        self._loaded: Segmenter | Classifier | None = None

    def segment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        segmenter = self._network()
        assert isinstance(segmenter, Segmenter)
        probability = np.empty_like(pixels)
        batch = segmenter.spec.batch
        for at in range(0, len(pixels), batch):
            segmenter.run(np.ascontiguousarray(pixels[at : at + batch]), probability[at : at + batch])
        return probability

    def classify(self, crops: Mapping[Plane, NDArray[np.uint8]]) -> NDArray[np.float32]:
        classifier = self._network()
        assert isinstance(classifier, Classifier)
        count, batch = len(next(iter(crops.values()))), classifier.spec.batch
        parts = [
            classifier.run({plane: np.ascontiguousarray(pixels[at : at + batch]) for plane, pixels in crops.items()})
            for at in range(0, count, batch)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _network(self) -> Segmenter | Classifier:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


def runtime_versions(machine: Capabilities, choice: Choice) -> dict[str, str]:
    """The packages that compute, with their versions."""
    if choice.runtime.startswith("tensorrt"):
        from scanside.engine.cuda import shared_device
        from scanside.engine.tensorrt.module import require

        module, device = require(), shared_device()
        return {module.name: module.version, "driver": device.driver, "gpu": device.name}
    return dict(sorted(machine.packages.items()))
