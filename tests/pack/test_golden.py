"""Golden cases are read from verified bytes and judged fairly; a NaN never passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from scanside.errors import PackError
from scanside.pack import GoldenCase, Manifest, file_records, golden_cases, judge_golden, load_pack


def test_the_tiny_pack_s_graphs_reproduce_their_golden_cases(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    results = []
    for case in golden_cases(pack):
        session = ort.InferenceSession(pack.graph_bytes(case.network), providers=["CPUExecutionProvider"])
        answers = session.run(None, dict(case.inputs))
        results.append(judge_golden(case, dict(zip(case.outputs, answers, strict=True))))
    assert [result.network for result in results] == ["segmenter", "classifier"]
    assert all(result.passed for result in results), results


def case(expected: list, max_error: float = 1.0, mean_error: float = 0.5) -> GoldenCase:
    return GoldenCase("segmenter", "g.npz", {}, {"probability": np.array(expected)}, max_error, mean_error)


def test_errors_are_measured_without_wrapping() -> None:
    golden = case([0, 255], max_error=255, mean_error=255)
    result = judge_golden(golden, {"probability": np.array([255, 254], np.uint8)})
    assert (result.max_error, result.mean_error, result.passed) == (255, 128, True)


@pytest.mark.parametrize(
    ("found", "passed"), [([10, 20], True), ([11, 20], True), ([12, 20], False), ([11, 21], False), ([10], False)]
)
def test_both_limits_count(found: list[int], passed: bool) -> None:
    assert judge_golden(case([10, 20]), {"probability": np.array(found, np.uint8)}).passed is passed


def test_a_nan_and_a_missing_output_fail() -> None:
    assert not judge_golden(case([0.5, 0.5]), {"probability": np.array([0.5, np.nan])}).passed
    assert not judge_golden(case([0.5]), {}).passed


@pytest.mark.parametrize("content", [b"no zip", b"PK\x03\x04 cut", b""])
def test_a_listed_file_that_is_no_golden_case_is_named(tiny_pack_copy: Path, content: bytes) -> None:
    (tiny_pack_copy / "golden_segmenter.npz").write_bytes(content)
    manifest = json.loads((tiny_pack_copy / "manifest.json").read_text(encoding="utf-8"))
    record = file_records({"x": content})["x"]
    manifest["files"]["golden_segmenter.npz"] = {"sha256": record.sha256, "bytes": record.bytes}
    (tiny_pack_copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(PackError, match=r"golden_segmenter\.npz: no golden case; expected an npz with pixels"):
        list(golden_cases(load_pack(tiny_pack_copy)))


def test_a_pickle_inside_is_never_loaded(tiny_pack_copy: Path) -> None:
    file = tiny_pack_copy / "golden_segmenter.npz"
    np.savez(file, pixels=np.array([{}], object), probability=np.zeros(1, np.uint8))
    pack = load_pack_relisted(tiny_pack_copy, file)
    with pytest.raises(PackError, match="no golden case"):
        list(golden_cases(pack))


def load_pack_relisted(folder: Path, file: Path):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    record = file_records({"x": file.read_bytes()})["x"]
    manifest["files"][file.name] = {"sha256": record.sha256, "bytes": record.bytes}
    text = Manifest.from_json(json.dumps(manifest).encode())[0].to_json()
    (folder / "manifest.json").write_bytes(text)
    return load_pack(folder)
