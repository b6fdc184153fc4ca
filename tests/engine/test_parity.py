"""Which precision a network may run in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scanside.engine import parity
from scanside.engine.capabilities import Capabilities
from scanside.engine.certificates import store_certificate
from scanside.engine.onnxruntime import CPU, OPENVINO, choose
from scanside.engine.parity import Allowed, allowed, is_valid, unmet
from scanside.errors import EngineError, PackError, ParityError
from scanside.pack import AucParity, Certificate, MaskParity, Pack, Spread, load_pack

AMX = Capabilities("amx", 2, frozenset({"avx512f", "amx_bf16", "amx_int8"}), {}, ("CPUExecutionProvider",), True)
AVX2 = Capabilities("avx2", 2, frozenset({"avx2"}), {}, ("CPUExecutionProvider",), True)
AUC = AucParity(0.951, 0.95, 0.001, (-0.002, 0.004), (-0.0021, 0.0041))
MASKS = MaskParity(0.9, 0.899, 0.001, 1.2, 1.3, -0.1, 2, 600, 1, 2)


@pytest.fixture(scope="module")
def pack(tiny_pack: Path) -> Pack:
    return load_pack(tiny_pack)


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCANSIDE_DATA_DIR", str(tmp_path))


def certificate(pack: Pack, network: str, **changes: object) -> Certificate:
    """A good one for bf16 on the plug-in."""
    good = Certificate(
        network=network,
        precision="bf16",
        runtime=OPENVINO,
        arithmetic="bf16",
        versions={"onnxruntime": "1"},
        graph_sha256=pack.network_sha256(network, "bf16"),
        ranges_sha256=None,
        against="PyTorch",
        data="phantoms",
        data_sha256="0" * 64,
        planes=("transverse",),
        lesions=600,
        items=4800,
        probability=Spread(0.001, 0.01, 0.1),
        flips=("17",),
        date="2026-01-01T00:00:00+00:00",
        processor="amx",
        flags=("amx_bf16",),
        auc=AUC if network == "classifier" else None,
        masks=MASKS if network == "segmenter" else None,
    )
    return replace(good, **changes)  # type: ignore[arg-type]


def with_certificates(pack: Pack, *certificates: Certificate) -> Pack:
    return replace(pack, manifest=replace(pack.manifest, certificates=certificates))


def of(pack: Pack, machine: Capabilities, precision: str, allow: bool = False) -> dict[str, Allowed]:
    found = allowed(pack, machine, device="auto", precision=precision, allow_uncertified=allow)
    return {each.network: each for each in found}


def precisions(each: Allowed) -> tuple[str, ...]:
    return tuple(choice.precision for choice in each.choices)


def test_fp32_needs_no_certificate(pack: Pack) -> None:
    for precision in ("fp32", "auto"):
        for each in of(pack, AVX2, precision).values():
            assert precisions(each) == ("fp32",)
            assert each.remarks == ()


def test_each_network_has_its_own_certificate(pack: Pack) -> None:
    certified = with_certificates(pack, certificate(pack, "segmenter"))
    found = of(certified, AMX, "auto")
    assert precisions(found["segmenter"]) == ("fp32", "bf16")
    assert precisions(found["classifier"]) == ("fp32",)
    (remark,) = found["classifier"].remarks
    assert remark == f"classifier: fp32 instead of bf16 on {OPENVINO}: no parity certificate (none)"
    with pytest.raises(ParityError, match=r"classifier of pack tiny.*precision bf16 has no parity certificate"):
        of(certified, AMX, "bf16")
    both = with_certificates(pack, certificate(pack, "segmenter"), certificate(pack, "classifier"))
    assert {precisions(each) for each in of(both, AMX, "bf16").values()} == {("bf16",)}
    assert {precisions(each) for each in of(both, AVX2, "auto").values()} == {("fp32",)}


BAD: list[tuple[str, Callable[[Certificate], Certificate], str]] = [
    ("classifier", lambda c: replace(c, lesions=599), "599 lesions, the gate needs 600"),
    ("classifier", lambda c: replace(c, auc=replace(AUC, delong=(-0.0051, 0.0))), "DeLong"),
    ("classifier", lambda c: replace(c, auc=replace(AUC, bootstrap=(0.0, 0.0051))), "bootstrap"),
    ("classifier", lambda c: replace(c, auc=AucParity(1.0, 1.0, 0.0, (0.0, 0.0), (0.0, 0.0))), "too easy to tell"),
    ("segmenter", lambda c: replace(c, masks=replace(MASKS, dice_difference=-0.006)), "Dice difference -0.0060"),
    ("segmenter", lambda c: replace(c, lesions=0), "0 lesions"),
    ("segmenter", lambda c: replace(c, graph_sha256="1" * 64), "a certificate of another graph"),
    ("segmenter", lambda c: replace(c, arithmetic="bf15"), "another arithmetic than bf16"),
    ("segmenter", lambda c: replace(c, runtime="onnxruntime/cuda"), "none"),
    ("segmenter", lambda c: replace(c, precision="fp16"), "none"),
]


@pytest.mark.parametrize(("network", "spoil", "found"), BAD, ids=[row[2] for row in BAD])
def test_a_certificate_that_does_not_hold_is_none(
    pack: Pack, network: str, spoil: Callable[[Certificate], Certificate], found: str
) -> None:
    good = [certificate(pack, name) for name in ("segmenter", "classifier")]
    doubtful = with_certificates(pack, *(spoil(c) if c.network == network else c for c in good))
    with pytest.raises(ParityError, match=found) as refused:
        of(doubtful, AMX, "bf16")
    assert refused.value.exit_code == 5
    each = of(doubtful, AMX, "auto")[network]
    assert precisions(each) == ("fp32",)
    assert found in each.remarks[0]


def test_the_gate_says_all_that_is_not_met(pack: Pack) -> None:
    assert is_valid(certificate(pack, "classifier"))
    bad = certificate(pack, "classifier", lesions=7, auc=replace(AUC, delong=(-1.0, 1.0), bootstrap=(-1.0, 1.0)))
    assert len(unmet(bad)) == 3


def test_uncertified_on_request_is_remarked(pack: Pack) -> None:
    for network, each in of(pack, AMX, "bf16", allow=True).items():
        assert precisions(each) == ("bf16",)
        assert each.remarks == (f"{network}: precision bf16 runs without a parity certificate (none)",)


def test_what_was_measured_here_has_the_last_word(pack: Pack) -> None:
    store_certificate(pack.sha256, certificate(pack, "segmenter"))
    assert precisions(of(pack, AMX, "auto")["segmenter"]) == ("fp32", "bf16")
    failing = certificate(pack, "segmenter", masks=replace(MASKS, dice_difference=0.01))
    store_certificate(pack.sha256, failing)
    certified = with_certificates(pack, certificate(pack, "segmenter"))
    each = of(certified, AMX, "auto")["segmenter"]
    assert precisions(each) == ("fp32",)
    assert "a certificate that fails: Dice difference +0.0100" in each.remarks[0]


def test_a_damaged_file_of_ones_own_is_passed_over_and_said(pack: Pack) -> None:
    file = store_certificate(pack.sha256, certificate(pack, "segmenter"))
    file.write_text('{"schema": "scanside-certificate/1"}')
    with pytest.raises(ParityError, match="is passed over"):
        of(pack, AMX, "bf16")
    assert "is passed over" in of(pack, AMX, "bf16", allow=True)["segmenter"].remarks[1]


def test_the_machine_has_the_first_word(pack: Pack) -> None:
    with pytest.raises(EngineError, match="no bf16 arithmetic"):
        of(pack, AVX2, "bf16", allow=True)
    with pytest.raises(EngineError, match="fp16 needs TensorRT and a GPU"):
        of(pack, AMX, "fp16", allow=True)


def test_an_int8_graphs_rest_is_another_arithmetic() -> None:
    assert choose(AMX, "cpu", "int8").arithmetic == "int8, rest bf16"
    assert choose(AMX, "cpu", "int8", "classifier").arithmetic == "int8, rest bf16"
    assert choose(AVX2, "cpu", "int8").arithmetic == "int8, 16-bit sums, rest fp32"
    assert choose(AVX2, "cpu", "fp32", "classifier").arithmetic == "fp32"
    gpu = replace(AVX2, ask_tensorrt=lambda: ("tensorrt/cuda", ""))
    assert choose(gpu, "cuda", "int8").arithmetic == "int8, rest fp16"
    assert choose(AVX2, "cpu", "fp32").runtime == CPU


def test_a_certificate_without_its_figures_is_none(pack: Pack) -> None:
    with pytest.raises(PackError, match="without its figures"):
        certificate(pack, "segmenter", masks=None)
    assert parity.MIN_LESIONS == 600
