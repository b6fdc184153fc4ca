"""The PyTorch reference: the pack's own weights, or those of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from scanside.engine.capabilities import capabilities
from scanside.errors import CheckpointError
from scanside.exam.planes import Plane
from scanside.pack import golden_cases, load_pack
from scanside.parity.pytorch import TorchNetwork

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.mark.parametrize(("folder", "limit"), [(None, 1), (WEIGHTS, 3)])
def test_the_segmenter_gives_the_golden_answers(folder: Path | None, limit: int) -> None:
    pack = load_pack()
    network = TorchNetwork(pack, "segmenter", capabilities(), folder, 1)
    case = next(case for case in golden_cases(pack) if case.network == "segmenter")
    before = torch.get_num_threads()
    answer = network.segment(next(iter(case.inputs.values())))
    (expected,) = case.outputs.values()
    error = np.abs(answer.astype(int) - expected)
    # The file holds FP16 of the weights that were then rounded to 8 bits; the golden answers are of the former.
    assert error.max() <= max(limit, case.max_error)
    assert error.mean() <= max(0.05, case.mean_error)
    assert torch.get_num_threads() == before
    assert network.description.endswith("own weights") == (folder is None)
    assert len(network.identity["weights_sha256"]) == 64
    network.close()


def test_the_two_weights_are_two_references() -> None:
    pack = load_pack()
    own, trained = (TorchNetwork(pack, "segmenter", capabilities(), folder, 1) for folder in (None, WEIGHTS))
    assert own.identity != trained.identity


def test_a_reference_of_another_training_is_refused(tmp_path: Path) -> None:
    for name in ("segmenter.safetensors", "segmenter.json"):
        shutil.copyfile(WEIGHTS / name, tmp_path / name)
    kept, record = tmp_path / "segmenter.safetensors", tmp_path / "segmenter.json"
    TorchNetwork(load_pack(), "segmenter", capabilities(), tmp_path, 1)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"steps": 1}))
    with pytest.raises(CheckpointError, match="is of another training than the pack's segmenter") as refused:
        TorchNetwork(load_pack(), "segmenter", capabilities(), tmp_path, 1)
    assert refused.value.where == str(kept)
    record.write_text("{")
    with pytest.raises(CheckpointError, match="the record cannot be read"):
        TorchNetwork(load_pack(), "segmenter", capabilities(), tmp_path, 1)
    record.unlink()  # weights of another origin have none
    TorchNetwork(load_pack(), "segmenter", capabilities(), tmp_path, 1)
    kept.unlink()
    assert TorchNetwork(load_pack(), "segmenter", capabilities(), tmp_path, 1).description.endswith("own weights")


@pytest.mark.parametrize("folder", [None, WEIGHTS])
def test_the_classifier_gives_the_golden_answers_in_any_batch(folder: Path | None) -> None:
    pack = load_pack()
    spec = pack.manifest.classifier
    network = TorchNetwork(pack, "classifier", capabilities(), folder, 1)
    case = next(case for case in golden_cases(pack) if case.network == "classifier")
    crops = {Plane(plane): case.inputs[tensor] for plane, tensor in spec.inputs.items()}
    answer = network.classify(crops)
    expected = case.outputs[spec.output]
    assert np.abs(answer - expected).max() <= (case.max_error if folder is None else 1e-3)
    assert network.description.endswith("own weights") == (folder is None)
    network._batch = 3
    assert np.allclose(network.classify(crops), answer, atol=1e-5)
