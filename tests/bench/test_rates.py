"""The committed matrix graph is the one its script makes, and rates are those of right products."""

from __future__ import annotations

import pytest

from benchmarks.make_gemm import OUT, PRODUCTS, gemm_graph
from scanside.bench import rates
from scanside.errors import EngineError


def test_the_committed_graph_is_what_its_script_makes() -> None:
    assert OUT == rates.GEMM_GRAPH
    assert OUT.read_bytes() == gemm_graph()
    assert len(OUT.read_bytes()) < 1000
    assert rates.GEMM_PRODUCTS == PRODUCTS


def test_a_rate_of_matrix_products(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    small = tmp_path / "gemm.onnx"
    small.write_bytes(gemm_graph(size=64))
    monkeypatch.setattr(rates, "GEMM_GRAPH", small)
    monkeypatch.setattr(rates, "GEMM_ROWS", 64)
    rate = rates.gemm_rate("fp32", threads=1, rows=32, tries=1)
    assert rate.per_second > 0
    assert "fp32" in rate.by or rate.by == "numpy"


def test_a_wrong_product_is_no_rate(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrong = tmp_path / "gemm.onnx"
    wrong.write_bytes(gemm_graph(size=64, products=1))
    monkeypatch.setattr(rates, "GEMM_GRAPH", wrong)
    monkeypatch.setattr(rates, "_ANSWER_ERROR", -1.0)
    with pytest.raises(EngineError, match="product came out wrong"):
        rates.gemm_rate("fp32", threads=64, rows=8, tries=1)


def test_memory_moves() -> None:
    assert rates.memory_rate(2, size=2**16, tries=1).per_second > 0


def test_what_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineError("no bf16 here")

    monkeypatch.setattr(rates, "gemm_rate", refuse)
    monkeypatch.setattr(rates, "memory_rate", lambda threads: rates.Rate(2e9, "copy"))
    assert rates.rates_of("bf16", device="cpu", threads=1) == {
        "memory_gb_per_s": 2.0,
        "gemm_gop_per_s": None,
        "gemm_by": "no bf16 here",
    }
