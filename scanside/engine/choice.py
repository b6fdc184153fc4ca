"""One network of a pack, loaded as a choice says; and which of its certified precisions runs fastest here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, overload

import numpy as np

from scanside.engine.capabilities import Capabilities
from scanside.engine.fastest import Run, fastest
from scanside.engine.graphs import graph_of
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.onnxruntime import Choice
from scanside.engine.parity import Allowed
from scanside.engine.sections import padded_shape
from scanside.exam.geometry import Geometry
from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack import Pack


@overload
def load_network(
    pack: Pack, network: Literal["segmenter"], choice: Choice, *, device: str, threads: int
) -> Segmenter: ...
@overload
def load_network(
    pack: Pack, network: Literal["classifier"], choice: Choice, *, device: str, threads: int
) -> Classifier: ...
@overload
def load_network(pack: Pack, network: str, choice: Choice, *, device: str, threads: int) -> Segmenter | Classifier: ...
def load_network(pack: Pack, network: str, choice: Choice, *, device: str, threads: int) -> Segmenter | Classifier:
    """The "segmenter" or "classifier" of `pack` in the precision that was chosen.

    Raises
    ------
    EngineError
        The graph does not load, or breaks the graph contract.
    PackError
        The pack has no graph of this precision, or it is damaged.
    """
    graph = graph_of(pack, network, choice.precision, choice.runtime)
    how: dict[str, Any] = {"device": device, "precision": choice.precision, "threads": threads}
    if network == "segmenter":
        return Segmenter(graph, pack.manifest.segmenter, **how)
    return Classifier(graph, pack.manifest.classifier, **how)


def fastest_choice(
    pack: Pack, machine: Capabilities, candidates: Allowed, *, device: str, threads: int
) -> tuple[Choice, tuple[str, ...]]:
    """The fastest of what a network may run, measured at the first call and then remembered (see `fastest`).

    And remarks for the report: the gate's, and each certified precision that does not run.
    """
    choices = {choice.precision: choice for choice in candidates.choices}
    if len(choices) == 1:
        return candidates.choices[0], candidates.remarks
    subject = {
        "pack": pack.sha256,
        "network": candidates.network,
        "candidates": [[c.precision, c.runtime, c.arithmetic] for c in candidates.choices],
        "certificates": [certificate.to_json() for certificate in candidates.certificates],
        "packages": dict(sorted(machine.packages.items())),
        "processor": machine.processor,
        "flags": sorted(machine.flags),
        "gpu": _gpu(candidates),
        "device": device,
        "threads": threads,
    }

    @contextmanager
    def loaded(precision: str) -> Iterator[Run]:
        network = load_network(pack, candidates.network, choices[precision], device=device, threads=threads)
        try:
            yield batch_of(network)
        finally:
            network.close()

    precision, remarks = fastest(tuple(choices), loaded, subject)
    return choices[precision], (*candidates.remarks, *(f"{candidates.network}: {remark}" for remark in remarks))


def _gpu(candidates: Allowed) -> list[str]:
    """The GPU and its driver, where a candidate runs on one through TensorRT."""
    if not any(choice.runtime.startswith("tensorrt") for choice in candidates.choices):
        return []
    from scanside.engine.cuda import shared_device

    device = shared_device()
    return [device.name, device.driver]


def batch_of(network: Segmenter | Classifier) -> Run:
    """A batch as the pipeline makes it: transverse sections of the standard exam, or triplets."""
    rng = np.random.default_rng(0)
    if isinstance(network, Classifier):
        shape = (network.spec.batch, 1, network.spec.size, network.spec.size)
        return partial(network.run, {p: rng.integers(0, 256, shape, np.uint8) for p in network.rule.planes})
    spec = network.spec
    spacing = tuple(mm / n for mm, n in zip(STANDARD_EXTENT_MM, STANDARD_SHAPE, strict=True))
    geometry = Geometry(STANDARD_SHAPE, spacing)  # type: ignore[arg-type]
    plane = Plane.TRANSVERSE if Plane.TRANSVERSE in network.planes else network.planes[0]
    grid = SectionGrid.over(geometry, plane, spec.pitch_mm, spec.every_mm)
    pixels = rng.integers(0, 256, (spec.batch, 1, *padded_shape(grid.shape, spec.size_multiple)), np.uint8)
    return partial(network.run, pixels, np.empty_like(pixels))
