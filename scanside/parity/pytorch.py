"""The reference in eager PyTorch, FP32: the one module of this folder that loads PyTorch.

Its weights are those of a reference folder where that has them (`weights/` of the repository, as trained), else the
pack's own, read back from its graph (`scanside.export.read_back`). The certificate says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scanside.engine.capabilities import Capabilities
from scanside.errors import CheckpointError
from scanside.exam.planes import Plane
from scanside.export.onnx import SegmenterGraph
from scanside.export.read_back import Probability, stride_of, torch_classifier, torch_segmenter
from scanside.models.fusion import FusionClassifier
from scanside.models.unet import build_segmenter
from scanside.models.weights import load_weights, weight_files, weights_sha256
from scanside.pack import Pack
from scanside.parity.networks import ARITHMETIC_FLAGS


class TorchNetwork:
    """A network of `pack` in eager PyTorch on the processor; see `scanside.parity.networks.Answering`.

    Parameters
    ----------
    folder : Path, optional
        Where "segmenter.safetensors" and "classifier.safetensors" are looked for.

    Raises
    ------
    CheckpointError
        The weights there come, by the record beside them, from another training than the pack's network.
    """

    def __init__(self, pack: Pack, network: str, machine: Capabilities, folder: Path | None, threads: int) -> None:
        self.network = network
        self._pack, self._threads = pack, threads
        file = None if folder is None else folder / f"{network}.safetensors"
        self._file = file if file is not None and weight_files(file) else None
        if self._file is None:
            graphs = {"segmenter": pack.manifest.segmenter.graph, "classifier": pack.manifest.classifier.graph}
            sha256 = pack.manifest.files[graphs[network]].sha256
            weights = "the pack's own weights"
        else:
            _require_same_training(self._file, pack, network)
            sha256 = weights_sha256(self._file)
            weights = f"weights {self._file.name} {sha256[:16]}"
        version = torch.__version__.partition("+")[0]
        self.description = f"PyTorch {version} FP32, {weights}"
        self.identity: Mapping[str, Any] = {
            "network": network,
            "pytorch": version,
            "weights_sha256": sha256,
            "processor": machine.processor,
            "flags": [flag for flag in ARITHMETIC_FLAGS if flag in machine.flags],
        }
        self._model: nn.Module | None = None
        self._order = tuple(p for p in Plane if p.value in pack.manifest.classifier.inputs)
        self._batch = pack.manifest.segmenter.batch if network == "segmenter" else pack.manifest.classifier.batch

    def segment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._run([pixels])

    def classify(self, crops: Mapping[Plane, NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self._run([crops[plane] for plane in self._order])

    def close(self) -> None:
        self._model = None

    def _run(self, inputs: list[NDArray[np.uint8]]) -> NDArray:
        if self._model is None:
            self._model = self._built()
        answers = []
        with torch.inference_mode(), _threads(self._threads):
            for at in range(0, len(inputs[0]), self._batch):
                tensors = [torch.from_numpy(np.ascontiguousarray(x[at : at + self._batch])) for x in inputs]
                answers.append(self._model(*tensors).numpy())
        return np.concatenate(answers)

    def _built(self) -> nn.Module:
        if self._file is None:
            return torch_segmenter(self._pack) if self.network == "segmenter" else torch_classifier(self._pack)
        if self.network == "segmenter":
            spec = self._pack.manifest.segmenter
            segmenter = build_segmenter(spec.mean, spec.std)
            load_weights(segmenter, self._file)
            return SegmenterGraph(segmenter).eval()
        shown = self._pack.manifest.classifier
        model = FusionClassifier(
            shown.backbone, shown.variant, stride_at=stride_of(self._pack), mean=shown.mean, std=shown.std
        )
        load_weights(model, self._file)
        return Probability(model).eval()


def _require_same_training(weights: Path, pack: Pack, network: str) -> None:
    """Raise where the weights and the pack's network both have a training's record, and not the same one."""
    file, said = weights.with_suffix(".json"), pack.manifest.provenance.get(network)
    if said is None or not file.is_file():
        return
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("the record cannot be read", where=file, found=str(error).splitlines()[0]) from None
    if record != said:
        raise CheckpointError(
            f"the reference is of another training than the pack's {network}",
            where=weights,
            expected=f"the training that the manifest of {pack.manifest.name} {pack.manifest.version} records",
            remedy=f"a folder without {weights.name}: the pack's own weights are the reference then",
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch's thread count is the process's: put back what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
