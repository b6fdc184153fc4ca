"""The manifest's rules, and that `manifest.schema.json` says the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import scanside.pack
from scanside.errors import PackError
from scanside.pack import Certificate, Manifest
from scanside.pack.manifest import pack_sha256

SCHEMA = json.loads((Path(scanside.pack.__file__).parent / "manifest.schema.json").read_text(encoding="utf-8"))
CERTIFICATE = {
    "network": "classifier",
    "precision": "bf16",
    "runtime": "onnxruntime/cpu",
    "arithmetic": "bf16",
    "versions": {"onnxruntime": "1.32.0"},
    "graph_sha256": "a" * 64,
    "ranges_sha256": None,
    "against": "PyTorch",
    "data": "phantoms",
    "data_sha256": "b" * 64,
    "planes": ["transverse"],
    "lesions": 600,
    "items": 4800,
    "probability": {"mean": 0.001, "p99": 0.01, "max": 0.05},
    "flips": ["17"],
    "date": "2026-01-01T00:00:00+00:00",
    "processor": "a processor",
    "flags": ["avx2"],
    "auc": {"auc": 0.951, "reference": 0.95, "difference": 0.001, "delong": [-0.001, 0.003], "bootstrap": [0, 0.002]},
}
MASKS = {
    "dice": 0.9,
    "reference": 0.899,
    "dice_difference": 0.001,
    "hd95_mm": 1.2,
    "reference_hd95_mm": 1.3,
    "hd95_difference_mm": -0.1,
    "recounted": 2,
    "matched": 600,
    "appeared": 1,
    "vanished": 2,
}


def certificate(network: str, **changes: object) -> Certificate:
    """A good one of bf16."""
    figures = {} if network == "classifier" else {"network": network, "auc": None, "masks": MASKS}
    return replace(Certificate.from_json({**CERTIFICATE, **figures}, "certificate"), **changes)  # type: ignore[arg-type]


@pytest.fixture
def content(tiny_pack: Path) -> dict[str, Any]:
    return json.loads((tiny_pack / "manifest.json").read_text(encoding="utf-8"))


def read(content: dict[str, Any]) -> Manifest:
    return Manifest.from_json(json.dumps(content).encode())[0]


def test_a_good_manifest_passes_both(content: dict[str, Any]) -> None:
    of_segmenter = {**CERTIFICATE, "network": "segmenter", "auc": None, "masks": MASKS}
    content["certificates"] = [CERTIFICATE, of_segmenter]
    content["classifier"]["heatmaps"] = "heatmaps"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(content, SCHEMA)
    manifest = read(content)
    assert manifest.segmenter.pitch_mm == 1.0
    assert manifest.classifier.inputs["sagittal"] == "sagittal"
    assert manifest.certificates[0].auc is not None
    assert manifest.certificates[0].auc.delong == (-0.001, 0.003)
    assert manifest.certificates[1].to_json() == of_segmenter
    assert manifest.classifier.heatmaps == "heatmaps"


def test_a_manifest_of_before_heatmaps_keeps_its_hash_when_written_again(content: dict[str, Any]) -> None:
    assert "heatmaps" not in content["classifier"]
    manifest, sha256 = Manifest.from_json(json.dumps(content).encode())
    assert manifest.classifier.heatmaps is None
    assert Manifest.from_json(manifest.to_json())[1] == sha256


def test_what_is_written_reads_back(content: dict[str, Any]) -> None:
    manifest = read(content)
    assert Manifest.from_json(manifest.to_json()) == (manifest, pack_sha256(json.loads(manifest.to_json())))
    jsonschema.validate(json.loads(manifest.to_json()), SCHEMA)


def put(*path: str | int) -> Callable[[dict, Any], None]:
    """A function that sets the value at `path`."""

    def change(content: dict, value: Any) -> None:
        target: Any = content
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


BAD: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("surprise",), 1, "unknown key 'surprise'"),
    (("segmenter", "colour"), "red", "segmenter: unknown key 'colour'"),
    (("segmenter", "pitch_mm"), 0, "segmenter: pitch_mm: out of range"),
    (("segmenter", "pitch_mm"), "0.66", "segmenter: pitch_mm: wrong type"),
    (("segmenter", "threshold"), 1.5, "segmenter: threshold: out of range; expected 0 to 1, found 1.5"),
    (("segmenter", "batch"), 0, "segmenter: batch: out of range"),
    (("segmenter", "batch"), 1.5, "segmenter: batch: wrong type"),
    (("segmenter", "planes"), ["axial"], "segmenter: planes: unknown value"),
    (("segmenter", "planes"), [], "segmenter: planes: empty"),
    (("segmenter", "graph"), "../segmenter.onnx", "not a plain file name"),
    (("classifier", "graph"), "/etc/passwd", "not a plain file name"),
    (("classifier", "heatmaps"), 3, "classifier: heatmaps: wrong type"),
    (("classifier", "inputs"), {"axial": "x"}, "classifier: inputs: unknown value"),
    (("classifier", "margin"), 0.5, "classifier: margin: out of range"),
    (("golden", 0, "network"), "detector", "golden: network: unknown value"),
    (("golden", 0, "max_error"), -1, "golden: max_error: out of range"),
    (("precisions",), ["fp64"], "precisions: names: unknown value"),
    (("files", "..\\up"), {"sha256": "0" * 64, "bytes": 1}, "not a plain file name"),
    (("files", "card.md", "sha256"), "abc", "no SHA-256"),
    (("files", "card.md", "bytes"), -1, "files: bytes: out of range"),
    (("certificates",), [{**CERTIFICATE, "auc": {**CERTIFICATE["auc"], "delong": [0.1]}}], "no \\(low, high\\) pair"),
    (("certificates",), [{**CERTIFICATE, "auc": None}], "without its figures"),
    (("certificates",), [{**CERTIFICATE, "masks": MASKS}], "without its figures"),
    (("certificates",), [{**CERTIFICATE, "network": "detector"}], "certificates: network: unknown value"),
    (("certificates",), [{**CERTIFICATE, "planes": []}], "certificates: planes: empty"),
    (("certificates",), [{**CERTIFICATE, "graph_sha256": "abc"}], "no SHA-256"),
    (("certificates",), [{**CERTIFICATE, "lesions": "600"}], "lesions: wrong type"),
    (("certificates",), [{**CERTIFICATE, "auc_ci": [0, 1]}], "unknown key 'auc_ci'"),
    (("licences",), {}, "licences: wrong type"),
    (("card",), 5, "card: wrong type"),
    (("schema",), "scanside-pack/2", "unknown schema version; expected scanside-pack/1, found scanside-pack/2"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), BAD, ids=["-".join(map(str, row[0])) + f"={row[1]}" for row in BAD]
)
def test_the_parser_and_the_schema_refuse_the_same(
    content: dict[str, Any], path: tuple[str | int, ...], value: Any, message: str
) -> None:
    put(*path)(content, value)
    with pytest.raises(PackError, match=message):
        read(content)
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(content)


def paths_of_required_keys(content: Any, prefix: tuple = ()) -> list[tuple]:
    if prefix in (("certificates",), ("card",), ("extra",), ("provenance",)):
        return []
    if isinstance(content, dict):
        inner = [paths_of_required_keys(value, (*prefix, key)) for key, value in content.items()]
        own = [] if prefix in (("files",), ("classifier", "inputs")) else [(*prefix, key) for key in content]
        return own + [path for paths in inner for path in paths]
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return paths_of_required_keys(content[0], (*prefix, 0))
    return []


def test_every_required_key_is_missed_by_name(content: dict[str, Any]) -> None:
    optional = {"certificates", "card", "extra", "dice", "citation"}
    paths = [path for path in paths_of_required_keys(content) if path[-1] not in optional]
    assert len(paths) > 40
    for path in paths:
        damaged = copy.deepcopy(content)
        target: Any = damaged
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]
        with pytest.raises(PackError, match=f"missing key '{path[-1]}'"):
            read(damaged)
        assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(damaged), path


def test_a_used_file_must_be_listed(content: dict[str, Any]) -> None:
    del content["files"]["golden_segmenter.npz"]
    with pytest.raises(PackError, match=r"'golden_segmenter\.npz' is used but not listed"):
        read(content)


def test_the_identity_ignores_certificates_and_key_order_but_nothing_else(content: dict[str, Any]) -> None:
    identity = pack_sha256(content)
    assert pack_sha256({**content, "certificates": [CERTIFICATE]}) == identity
    assert pack_sha256(dict(reversed(content.items()))) == identity
    content["segmenter"]["threshold"] = 0.51
    assert pack_sha256(content) != identity
