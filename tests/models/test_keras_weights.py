"""The Keras loader against Keras's own arithmetic, on random files of the same layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scanside.errors import ScansideError, UsageError
from scanside.models import load_keras_resnet50
from scanside.models.backbones import Branch
from scanside.models.keras_weights import BGR_MEANS, KERAS_EPSILON


def write_layer(folder: Path, name: str, shape: tuple[int, int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    out, fan_in = shape[0], int(np.prod(shape[1:]))
    kernel = rng.normal(0, fan_in**-0.5, shape)
    np.concatenate([kernel.ravel(), rng.normal(0, 1, out)]).astype("<f4").tofile(folder / f"{name}_conv.bin")
    norm = [rng.uniform(0.5, 1.5, out), rng.normal(0, 0.5, out), rng.normal(0, 0.5, out), rng.uniform(0.5, 2, out)]
    np.concatenate(norm).astype("<f4").tofile(folder / f"{name}_bn.bin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """conv1 and the first blocks of stages 2 and 3; one layer lacks its batch norm."""
    write_layer(tmp_path, "conv1", (64, 3, 7, 7), 0)
    for stage, into, middle, out in ((2, 64, 64, 256), (3, 256, 128, 512)):
        shapes = ((out, into, 1, 1), (middle, into, 1, 1), (middle, middle, 3, 3), (out, middle, 1, 1))
        for i, shape in enumerate(shapes):
            write_layer(tmp_path, f"conv{stage}_block1_{i}", shape, 10 * stage + i)
    write_layer(tmp_path, "conv2_block2_1", (64, 256, 1, 1), 99)
    (tmp_path / "conv2_block2_1_bn.bin").unlink()
    return tmp_path


def keras_conv_bn(folder: Path, name: str, x: Tensor, into: int, size: int, stride: int = 1) -> Tensor:
    """Convolution with bias, then batch norm, as Keras runs them."""
    values = np.fromfile(folder / f"{name}_conv.bin", "<f4")
    gamma, beta, mean, variance = np.fromfile(folder / f"{name}_bn.bin", "<f4").reshape(4, -1)
    kernel, bias = values[: -len(gamma)].reshape(len(gamma), into, size, size), values[-len(gamma) :]
    x = F.conv2d(x, torch.tensor(kernel), torch.tensor(bias), stride=stride, padding=size // 2)
    gamma, beta, mean, variance = (torch.tensor(v).view(-1, 1, 1) for v in (gamma, beta, mean, variance))
    return (x - mean) / torch.sqrt(variance + KERAS_EPSILON) * gamma + beta


def keras_block(folder: Path, name: str, x: Tensor, into: int, middle: int, stride: int) -> Tensor:
    shortcut = keras_conv_bn(folder, f"{name}_0", x, into, 1, stride)
    x = F.relu(keras_conv_bn(folder, f"{name}_1", x, into, 1, stride))
    x = F.relu(keras_conv_bn(folder, f"{name}_2", x, middle, 3))
    return F.relu(shortcut + keras_conv_bn(folder, f"{name}_3", x, middle, 1))


@torch.no_grad()
def test_a_branch_computes_what_keras_computes(folder: Path) -> None:
    branch = Branch("resnet50", "1x1").eval()
    mean, std = 0.4, 0.3
    without_norm = branch.layer1[1].conv1.weight.clone()
    missing = load_keras_resnet50(branch, folder, mean=mean, std=std)
    grey = torch.randint(0, 256, (2, 1, 48, 40)).float()

    bgr = torch.cat([grey - m for m in BGR_MEANS], 1)
    expected = F.relu(keras_conv_bn(folder, "conv1", bgr, 3, 7, 2))
    found = F.relu(branch.bn1(branch.conv1((grey / 255 - mean) / std)))
    inner = (..., slice(2, -2), slice(2, -2))
    assert expected[inner].max() > 1
    assert torch.allclose(found[inner], expected[inner], rtol=1e-4, atol=1e-3)

    x = branch.maxpool(found)
    expected = keras_block(folder, "conv2_block1", x, 64, 64, 1)
    assert torch.allclose(branch.layer1[0](x), expected, rtol=1e-3, atol=1e-3)
    x = expected
    expected = keras_block(folder, "conv3_block1", x, 256, 128, 2)
    assert torch.allclose(branch.layer2[0](x), expected, rtol=1e-3, atol=1e-3)

    assert {"conv1", "conv2_block1_0", "conv3_block1_3"}.isdisjoint(missing)
    assert {"conv2_block2_1", "conv2_block2_2", "conv5_block3_3"} <= set(missing)
    assert len(missing) == 53 - 9
    assert torch.equal(branch.layer1[1].conv1.weight, without_norm)


@torch.no_grad()
def test_a_deeper_network_starts_as_the_resnet50(folder: Path) -> None:
    fifty, deeper = Branch("resnet50", "1x1").eval(), Branch("resnet101", "1x1").eval()
    load_keras_resnet50(fifty, folder)
    missing = load_keras_resnet50(deeper, folder)
    assert {"conv4_block7_1", "conv4_block23_3"} <= set(missing)
    deeper.load_state_dict(fifty.state_dict(), strict=False)  # the random blocks that both have
    grey = torch.randn(1, 1, 64, 64)
    assert torch.equal(deeper(grey), fifty(grey))
    assert all(block.bn3.weight.abs().min() > 0 for block in deeper.layer3[:6])
    write_layer(folder, "conv4_block7_3", (1024, 256, 1, 1), 7)  # weights that hold one of them
    assert "conv4_block7_3" not in load_keras_resnet50(deeper, folder)
    assert deeper.layer3[6].bn3.weight.abs().min() > 0
    assert deeper.layer3[7].bn3.weight.abs().max() == 0


def test_a_short_file_is_named(folder: Path) -> None:
    file = folder / "conv2_block1_2_conv.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with torch.device("meta"):
        branch = Branch("resnet50", "1x1")
    with pytest.raises(ScansideError, match=r"conv2_block1_2_conv\.bin: a weight file has the wrong size"):
        load_keras_resnet50(branch, folder)


def test_the_wrong_stride_and_an_empty_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        torchvision_like, keras_like = Branch("resnet50", "3x3"), Branch("resnet50", "1x1")
    with pytest.raises(UsageError, match='stride_at="1x1"'):
        load_keras_resnet50(torchvision_like, folder)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no Keras ResNet50 weights here"):
        load_keras_resnet50(keras_like, empty)
