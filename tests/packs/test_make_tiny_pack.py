"""The committed tiny pack is what its script makes, and it behaves as its docstring says."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from scanside.exam.planes import Plane, SectionGrid, crop
from scanside.pack import load_pack


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parent / "make_tiny_pack.py"))


def session(pack: Path, network: str) -> ort.InferenceSession:
    return ort.InferenceSession(load_pack(pack).graph_bytes(network), providers=["CPUExecutionProvider"])


def test_the_committed_pack_is_what_the_script_makes(script: dict[str, Any], tiny_pack: Path) -> None:
    made = script["contents"]()
    assert made.keys() == load_pack(tiny_pack).manifest.files.keys()
    for name, data in made.items():
        committed = (tiny_pack / name).read_bytes()
        if not name.endswith(".npz"):
            assert data == committed, name
            continue
        ours, theirs = np.load(io.BytesIO(data)), np.load(io.BytesIO(committed))
        assert ours.files == theirs.files
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours.files if key != "probability")
        assert np.allclose(ours["probability"], theirs["probability"], atol=1e-6)


def test_the_graphs_follow_the_contract(tiny_pack: Path) -> None:
    segmenter, classifier = (session(tiny_pack, network) for network in ("segmenter", "classifier"))
    assert [(i.name, i.type, i.shape) for i in segmenter.get_inputs()] == [
        ("pixels", "tensor(uint8)", ["batch", 1, "height", "width"])
    ]
    assert [(o.name, o.type) for o in segmenter.get_outputs()] == [("probability", "tensor(uint8)")]
    assert [i.name for i in classifier.get_inputs()] == ["transverse", "sagittal", "coronal"]
    assert [(o.name, o.type, o.shape) for o in classifier.get_outputs()] == [
        ("probability", "tensor(float)", ["batch"])
    ]


def test_blobs_are_found_in_every_plane_and_nothing_else(tiny_pack: Path, blob_volume: Any) -> None:
    run = session(tiny_pack, "segmenter").run
    geometry = blob_volume.volume().geometry
    expected_mm3 = sum(np.pi / 6 * np.prod(box.size) for box in blob_volume.boxes_mm)
    for plane in Plane:
        grid = SectionGrid.over(geometry, plane, 1.0, 1.0)
        height, width = (-(-n // 32) * 32 for n in grid.shape)
        batch = np.zeros((len(grid), 1, height, width), np.uint8)
        for s in range(len(grid)):
            grid.section(blob_volume.voxels, s, out=batch[s, 0])
        marked = run(None, {"pixels": batch})[0][:, 0] >= 128
        assert marked.sum() == pytest.approx(expected_mm3, rel=0.15)
        for s in np.flatnonzero(marked.any((1, 2))):
            at_mm = (grid.indices[s] + 0.5) * geometry.spacing_mm[plane.normal]
            assert any(box.min[plane.normal] - 1 <= at_mm <= box.max[plane.normal] + 1 for box in blob_volume.boxes_mm)


def test_the_two_blobs_are_told_apart(tiny_pack: Path, blob_volume: Any) -> None:
    run = session(tiny_pack, "classifier").run
    geometry = blob_volume.volume().geometry
    for box, malignant in zip(blob_volume.boxes_mm, blob_volume.malignant, strict=True):
        crops = {}
        for plane in Plane:
            index = int(box.centre[plane.normal] / geometry.spacing_mm[plane.normal])
            made = crop(blob_volume.voxels, geometry, plane, index, box, side_mm=1.25 * max(box.size), size=32)
            crops[str(plane)] = made.pixels[None, None]
        probability = float(run(None, crops)[0][0])
        assert (probability > 0.9) if malignant else (probability < 0.1)
