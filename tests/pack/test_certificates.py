"""Certificates written into a pack's manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scanside.errors import OutputError
from scanside.pack import Certificate, add_certificates, load_pack
from tests.pack.test_manifest import CERTIFICATE

MADE = Certificate.from_json(CERTIFICATE, "certificate")


def test_the_packs_hash_stays_what_it_is(tiny_pack_copy: Path) -> None:
    file = tiny_pack_copy / "manifest.json"
    content = json.loads(file.read_text())
    del content["extra"], content["card"], content["files"]["card.md"]  # absent is another hash than its default
    file.write_text(json.dumps(content))
    pack = load_pack(tiny_pack_copy)
    certified = add_certificates(pack, [MADE])
    assert certified.sha256 == pack.sha256
    assert certified.manifest.certificates == (MADE,)
    assert sorted(p.name for p in tiny_pack_copy.iterdir() if p.name.startswith(".")) == []


def test_one_subject_has_one_certificate(tiny_pack_copy: Path) -> None:
    from dataclasses import replace

    pack = add_certificates(load_pack(tiny_pack_copy), [MADE])
    newer = replace(MADE, lesions=900)
    other = replace(MADE, runtime="onnxruntime/cuda")
    assert add_certificates(pack, [newer, other]).manifest.certificates == (newer, other)


def test_a_pack_that_cannot_be_written(tiny_pack_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = load_pack(tiny_pack_copy)
    before = (tiny_pack_copy / "manifest.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="the certificates cannot be written"):
        add_certificates(pack, [MADE])
    assert (tiny_pack_copy / "manifest.json").read_bytes() == before


def test_the_hash_of_a_networks_graph(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    shipped = pack.manifest.files["segmenter.onnx"].sha256
    assert pack.network_sha256("segmenter", "bf16") == shipped  # an uncalibrated graph is its own fp32 form
    assert not pack.is_calibrated("segmenter")
