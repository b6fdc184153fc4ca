"""What `scanside pack info` shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from scanside.pack import Certificate, describe, info_rows, load_pack
from tests.pack.test_manifest import CERTIFICATE


def test_the_description_is_json_and_complete(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    told = json.loads(json.dumps(describe(pack)))
    assert told["sha256"] == pack.sha256
    assert told["bytes"] == sum((tiny_pack / name).stat().st_size for name in told["files"])
    assert told["segmenter"]["pitch_mm"] == 1.0
    assert told["golden_cases"] == 2
    assert told["card"].startswith("# Tiny test pack")


def test_the_rows_name_what_a_reader_looks_for(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    certificate = Certificate.from_json(CERTIFICATE, "certificate")
    pack = replace(pack, manifest=replace(pack.manifest, certificates=(certificate,)))
    rows = dict(info_rows(pack))
    assert rows["pack"] == "tiny 1"
    assert rows["sha256"] == pack.sha256
    assert "threshold 0.5" in rows["segmenter"]
    assert "fusion2" in rows["classifier"]
    assert "Dice 1.0000" in rows["check, segmenter"]
    assert "95 % CI -0.0010 to +0.0030), 1 flips, against PyTorch" in rows["certificate, classifier bf16"]
    assert rows["licence, everything"] == "Apache-2.0"
