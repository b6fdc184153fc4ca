"""Fixtures shared by all tests: a tiny model pack and a small volume whose findings are known."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from scanside.exam.geometry import Box
from scanside.exam.volume import Volume

if TYPE_CHECKING:
    from scanside.models import FusionClassifier

TINY_PACK = Path(__file__).parent / "packs" / "tiny"


@dataclass(frozen=True)
class BlobVolume:
    """Two bright ellipsoids in speckle; the tiny pack finds both and calls the second, brighter one malignant."""

    voxels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    boxes_mm: tuple[Box, ...]
    centroids_mm: tuple[tuple[float, float, float], ...]
    malignant: tuple[bool, ...]

    def volume(self) -> Volume:
        return Volume.from_array(self.voxels, self.spacing_mm)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell that starts the tests in the background makes them, and every child, ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Certificates and remembered choices of whoever runs the tests neither decide them nor are touched."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SCANSIDE_DATA_DIR", "SCANSIDE_CACHE_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="session")
def tiny_pack() -> Path:
    """Folder of a valid pack of a few kB. Read only: copy it (`tiny_pack_copy`) to change it."""
    return TINY_PACK


@pytest.fixture
def tiny_pack_copy(tmp_path: Path) -> Path:
    """A private copy of the tiny pack, to be damaged at will."""
    return Path(shutil.copytree(TINY_PACK, tmp_path / "pack"))


@pytest.fixture(scope="session")
def heatmap_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pack whose classifier also draws heatmaps: how far each quarter of a crop is above its threshold."""
    import onnx
    from onnx import TensorProto, helper

    from scanside.pack import file_records, load_pack, write_pack
    from scanside.pack.manifest import PLANES

    pack = load_pack(TINY_PACK)
    spec = pack.manifest.classifier
    graph = onnx.load_from_string(pack.graph_bytes("classifier"))
    half = spec.size // 2
    quarters = [f"{plane}_quarters" for plane in PLANES]
    graph.graph.node.extend(
        helper.make_node("AveragePool", [f"{p}_positive"], [q], kernel_shape=[half, half], strides=[half, half])
        for p, q in zip(PLANES, quarters, strict=True)
    )
    graph.graph.node.append(helper.make_node("Concat", quarters, ["heatmaps"], axis=1))
    graph.graph.output.append(helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", 3, 2, 2]))
    onnx.checker.check_model(graph, full_check=True)
    contents = {name: pack.file_bytes(name) for name in pack.manifest.files}
    contents[spec.graph] = graph.SerializeToString()
    manifest = replace(
        pack.manifest, name="heatmaps", classifier=replace(spec, heatmaps="heatmaps"), files=file_records(contents)
    )
    return write_pack(tmp_path_factory.mktemp("heatmaps") / "pack", contents, manifest)


@pytest.fixture(scope="session")
def blob_volume() -> BlobVolume:
    """24 x 80 x 96 voxels of 1.0 x 0.5 x 0.8 mm with a benign and a malignant ellipsoid. Do not write into it."""
    shape, spacing = (24, 80, 96), (1.0, 0.5, 0.8)
    grids = np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    blobs = (((8.0, 14.0, 22.0), (4.0, 5.0, 7.0), 165), ((15.5, 25.0, 54.0), (4.5, 6.0, 8.0), 235))
    grey = np.full(shape, 60.0)
    for centre, radii, level in blobs:
        grey[sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre, radii, strict=True)) <= 1] = level
    noise = np.random.default_rng(11).normal(0, 8, shape)
    voxels = np.clip(grey + noise, 0, 255).astype(np.uint8)
    voxels.setflags(write=False)
    boxes = tuple(
        Box(
            tuple(c - r for c, r in zip(centre, radii, strict=True)),
            tuple(c + r for c, r in zip(centre, radii, strict=True)),
        )
        for centre, radii, _ in blobs
    )
    return BlobVolume(voxels, spacing, boxes, tuple(centre for centre, _, _ in blobs), (False, True))


@pytest.fixture(scope="session")
def shallow() -> Iterator[str]:
    """A backbone of one block a stage, so that building, exporting and running cost little."""
    from scanside.models.backbones import BACKBONES, resnet

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "shallow", resnet([1, 1, 1, 1]))
        yield "shallow"


@pytest.fixture(scope="session")
def pebble() -> Iterator[str]:
    """A backbone of two convolutions, where exporting is what costs."""
    from collections import OrderedDict

    from torch import nn

    from scanside.models.backbones import BACKBONES, Backbone

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict(
            conv1=nn.Conv2d(3, 8, 5, stride=4, padding=2, bias=False),
            bn1=nn.BatchNorm2d(8),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(8, 16, 3, stride=4, padding=1),
            relu2=nn.ReLU(),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "pebble", Backbone(layers, first="conv1", channels=16, width=16))
        yield "pebble"


@pytest.fixture(scope="session", params=["resnet50", "resnet101", "densenet161", "vgg19"])
def single(request: pytest.FixtureRequest) -> FusionClassifier:
    """The transverse classifier of each backbone, built once, with weights that give crops different answers."""
    import torch
    from torch import nn

    from scanside.models import FusionClassifier

    torch.manual_seed(len(request.param))
    model = FusionClassifier(request.param, "transverse", mean=0.4, std=0.2).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.6)
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0, (2 / module.in_features) ** 0.5)
            module.bias.data.normal_(0, 0.01)
    model.classify.weight.data[0] = -model.classify.weight.data[1]  # so that one logit is positive
    with torch.no_grad():  # answers neither all alike nor all certain
        model.classify.weight /= model(torch.randn(2, 1, 96, 96)).abs().mean()
    return model
