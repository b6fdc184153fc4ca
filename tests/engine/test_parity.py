"""Which precision may run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scanside.engine.capabilities import Capabilities
from scanside.engine.onnxruntime import OPENVINO
from scanside.engine.parity import certified_precision, is_valid
from scanside.errors import EngineError, ParityError
from scanside.pack import Certificate, Manifest, load_pack

GOOD = Certificate("bf16", OPENVINO, "phantoms", 600, 0.001, (-0.002, 0.004), 0.001, ())
AMX = Capabilities("amx", 2, frozenset({"avx512f", "amx_bf16"}), {}, ("CPUExecutionProvider",), True)
AVX2 = Capabilities("avx2", 2, frozenset({"avx2"}), {}, ("CPUExecutionProvider",), True)
BAD = [
    replace(GOOD, lesions=599),
    replace(GOOD, auc_ci=(-0.0051, 0.0)),
    replace(GOOD, auc_ci=(0.0, 0.0051)),
    replace(GOOD, dice_difference=-0.006),
    replace(GOOD, runtime="onnxruntime/cuda"),
    replace(GOOD, precision="fp16"),
]


@pytest.fixture(scope="module")
def manifest(tiny_pack: Path) -> Manifest:
    return load_pack(tiny_pack).manifest


def precision_of(manifest: Manifest, machine: Capabilities, precision: str, allow: bool = False):
    return certified_precision(manifest, machine, device="auto", precision=precision, allow_uncertified=allow)


def test_fp32_needs_no_certificate(manifest: Manifest) -> None:
    assert precision_of(manifest, AVX2, "fp32") == ("fp32", ())
    assert precision_of(manifest, AVX2, "auto") == ("fp32", ())


def test_a_certificate_lets_a_precision_run_and_auto_takes_it(manifest: Manifest) -> None:
    certified = replace(manifest, certificates=(GOOD,))
    assert is_valid(GOOD)
    assert precision_of(certified, AMX, "bf16") == ("bf16", ())
    assert precision_of(certified, AMX, "auto") == ("bf16", ())
    assert precision_of(certified, AVX2, "auto") == ("fp32", ())


@pytest.mark.parametrize("certificate", BAD)
def test_a_certificate_that_fails_is_none(manifest: Manifest, certificate: Certificate) -> None:
    doubtful = replace(manifest, certificates=(certificate,))
    with pytest.raises(ParityError, match="no parity certificate") as refused:
        precision_of(doubtful, AMX, "bf16")
    assert refused.value.exit_code == 5
    precision, remarks = precision_of(doubtful, AMX, "auto")
    assert precision == "fp32"
    assert "bf16" in remarks[0]


def test_uncertified_on_request_is_remarked(manifest: Manifest) -> None:
    precision, remarks = precision_of(manifest, AMX, "bf16", allow=True)
    assert precision == "bf16"
    assert "without a parity certificate" in remarks[0]


def test_the_machine_has_the_first_word(manifest: Manifest) -> None:
    with pytest.raises(EngineError, match="no bf16 arithmetic"):
        precision_of(manifest, AVX2, "bf16", allow=True)
    with pytest.raises(EngineError, match="fp16 needs TensorRT and a GPU"):
        precision_of(manifest, AMX, "fp16", allow=True)
