"""The shipped segmenter's answers: what lies beside a section in a batch never changes them."""

from __future__ import annotations

import numpy as np
import pytest

from scanside.engine.capabilities import capabilities
from scanside.engine.graphs import graph_of
from scanside.engine.networks import Segmenter
from scanside.engine.onnxruntime import choose
from scanside.errors import EngineError
from scanside.pack import load_pack


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_black_sections_can_be_left_out_of_a_batch(precision: str) -> None:
    pack = load_pack()
    try:
        runtime = choose(capabilities(), "cpu", precision).runtime
    except EngineError as error:
        pytest.skip(str(error))
    graph = graph_of(pack, "segmenter", precision, runtime)
    segmenter = Segmenter(graph, pack.manifest.segmenter, device="cpu", precision=precision, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 96, 96), np.uint8)
    pixels[[0, 3]] = 0
    together, packed = np.empty_like(pixels), np.empty_like(pixels[:3])
    segmenter.run(pixels, together)
    segmenter.run(np.ascontiguousarray(pixels[[1, 2, 4]]), packed)
    assert np.array_equal(together[[1, 2, 4]], packed)
    assert np.array_equal(together[[0, 3], 0], np.stack([segmenter.blank(96, 96)] * 2))
    assert segmenter.blank(96, 96) is segmenter.blank(96, 96)
    segmenter.close()
