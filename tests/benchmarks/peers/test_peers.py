"""Each peer finds what the engine finds, reads the same frames, and says why it cannot run where it cannot."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydicom import uid
from torch import nn

from benchmarks.contest import require_same_lesions
from benchmarks.peers import compiled
from benchmarks.peers.common import CannotRunError, pixel_array, task_of
from benchmarks.worker import peer_contestant
from scanside.engine.predictor import load
from scanside.errors import EngineError
from scanside.exam.geometry import Geometry
from scanside.exam.write import write_dicom
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.conftest import BlobVolume


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory, blob_volume: BlobVolume) -> Path:
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("exam")
    return Path(write_dicom(folder / "exam.dcm", blob_volume.voxels, geometry, transfer_syntax=uid.RLELossless))


def test_pixel_array_is_the_volume(blobs: Path, blob_volume: BlobVolume, tiny_pack: Path) -> None:
    voxels = pixel_array(blobs)
    assert np.array_equal(voxels, blob_volume.voxels)
    manifest = load_pack(tiny_pack).manifest
    assert task_of(blobs, manifest, voxels).geometry.spacing_mm == pytest.approx(blob_volume.spacing_mm)
    with pytest.raises(EngineError, match="other frames"):
        task_of(blobs, manifest, voxels[1:])


@pytest.mark.parametrize(("name", "package"), [("plain_onnx", "onnxruntime"), ("openvino_async", "openvino")])
def test_a_peer_finds_the_same_lesions(name: str, package: str, blobs: Path, tiny_pack: Path) -> None:
    pytest.importorskip(package)
    with load(tiny_pack, device="cpu", precision="fp32", threads=1) as predictor:
        ours = [
            {
                "box_mm": [lesion.box_mm.min, lesion.box_mm.max],
                "centroid_mm": lesion.centroid_mm,
                "detection_score": lesion.detection_score,
                "probability": lesion.probability,
            }
            for lesion in predictor.analyze(blobs).lesions
        ]
    analyze, about = peer_contestant(name, {"pack": str(tiny_pack), "threads": 1, "exam": str(blobs)})
    assert about["about"]
    assert len(ours) == 2
    for _ in range(2):
        found = analyze()["lesions"]
        assert require_same_lesions(name, ours, found, ("fp32", about["precision"]), 0.5).borderline_alone == 0


@pytest.mark.parametrize("best", [1, 2, 4, 8])
def test_openvino_takes_the_fastest_number_of_sections_and_looks_for_it_once(
    best: int, blobs: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    peer_module, tried = import_module("benchmarks.peers.openvino_async"), []

    def seconds(queue: object, sections: int, shape: tuple[int, int]) -> float:
        tried.append((sections, shape))
        return float(sections != best)

    peer = peer_module.make(load_pack(tiny_pack), 1)
    first = peer.analyze(blobs)
    monkeypatch.setattr(peer_module, "_seconds", seconds)
    peer._queues.clear()
    assert len(peer.analyze(blobs)) == len(first) == 2
    shapes = {shape for _, shape in tried}
    assert sorted(tried) == sorted((n, shape) for n in (1, 2, 4, 8) for shape in shapes)
    assert peer.settings == {"sections_a_request": {f"{h}x{w}": best for h, w in shapes}}
    peer.analyze(blobs)
    assert len(tried) == 4 * len(shapes)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_short_batch_is_filled_up_and_cut_again(count: int) -> None:
    sizes: list[int] = []

    class Doubles(nn.Module):
        def forward(self, *x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x[0]))
            return sum(x[1:], x[0]) * 2

    a, b = (torch.arange(count * 6, dtype=torch.uint8).reshape(count, 1, 2, 3) % 20 for _ in range(2))
    assert torch.equal(compiled._Padded(Doubles(), 4)(a, b), (a + b) * 2)
    assert sizes == [4]


def test_without_a_compiler(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotRunError, match=r"C\+\+ compiler"):
        compiled.make(load_pack(tiny_pack), 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tiny_pack: Path) -> None:
    with pytest.raises(CannotRunError, match="no GPU"):
        import_module("benchmarks.peers.cuda_graphs").make(load_pack(tiny_pack), 1)
