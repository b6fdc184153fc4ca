"""Peers compute with the weights of the pack: their networks give its golden answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from scanside.errors import EngineError
from scanside.export.read_back import fp32_graph, load_from_graph, torch_classifier, torch_segmenter
from scanside.pack import Pack, golden_cases, load_pack

ORDER = {"segmenter": ["pixels"], "classifier": ["transverse", "sagittal", "coronal"]}


@cache
def shipped() -> Pack:
    return load_pack()


@pytest.mark.parametrize(("network", "limit"), [("segmenter", 1), ("classifier", 2e-5)])
def test_torch_networks_give_the_graphs_answers(network: str, limit: float) -> None:
    make = {"segmenter": torch_segmenter, "classifier": torch_classifier}[network]
    module = make(shipped())
    session = onnxruntime.InferenceSession(fp32_graph(shipped(), network))
    case = next(case for case in golden_cases(shipped()) if case.network == network)
    inputs = {name: array[:2] for name, array in case.inputs.items()}
    expected = session.run(None, inputs)[0]
    with torch.inference_mode():
        found = module(*(torch.from_numpy(inputs[name]) for name in ORDER[network])).numpy()
    assert found.dtype == expected.dtype
    assert np.abs(found.astype(float) - expected).max() <= limit
    assert np.abs(expected.astype(float)).max() > 0  # something is there to be equal


def test_folding_leaves_no_8_bit_weight_and_the_same_answer(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    graph, folded = pack.graph_bytes("segmenter"), fp32_graph(pack, "segmenter")
    assert "DequantizeLinear" not in {node.op_type for node in onnx.load_from_string(folded).graph.node}
    pixels = np.random.default_rng(3).integers(0, 256, (1, 1, 32, 32), dtype=np.uint8)
    answers = [onnxruntime.InferenceSession(g).run(None, {"pixels": pixels})[0] for g in (graph, folded)]
    assert np.abs(answers[0].astype(int) - answers[1]).max() <= 1


@pytest.mark.parametrize("model", [nn.Conv2d(1, 1, 5), nn.Sequential(nn.Linear(2, 2))])
def test_a_graph_of_another_network_is_refused(tiny_pack: Path, model: nn.Module) -> None:
    graph = fp32_graph(load_pack(tiny_pack), "segmenter")
    with pytest.raises(EngineError, match="no place in the PyTorch model"):
        load_from_graph(model, graph, "tiny")
