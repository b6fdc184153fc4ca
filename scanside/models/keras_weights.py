"""Start a branch from ImageNet ResNet50 weights in the Keras v1 layout, one raw float32 file a layer.

``<layer>_conv.bin`` is the kernel (out, in, height, width) followed by the bias; ``<layer>_bn.bin`` is gamma, beta,
moving mean, moving variance. Layers are named ``conv1`` and ``conv<2-5>_block<n>_<0-3>`` (0 is the shortcut).
What differs from torchvision is folded exactly, so that only ordinary parameters change:

* the convolution bias into the batch norm's running mean;
* Keras's epsilon of 1.001e-5 into the running variance;
* the three BGR input planes of ``g - (103.939, 116.779, 123.68)`` into one grey plane of the branch's own normalised
  input, the constant part into the first running mean (exact except within 3 pixels of the border, where padding
  meets the mean).

The stride sits on the first 1 x 1 of a stage, so the branch must be built with ``stride_at="1x1"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from scanside.errors import ScansideError, UsageError
from scanside.models.backbones import Branch
from scanside.models.normalise import GREY_MEAN, GREY_STD

BGR_MEANS = (103.939, 116.779, 123.68)
KERAS_EPSILON = 1.001e-5
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
"""How many blocks each stage of a ResNet50 has, by Keras's number (torchvision's plus one)."""


def load_keras_resnet50(
    branch: Branch, folder: str | Path, *, mean: float = GREY_MEAN, std: float = GREY_STD
) -> list[str]:
    """Load what `folder` holds into `branch` and return the names of the layers that were not loaded.

    A convolution and its batch norm are loaded together or not at all: running statistics mean nothing behind a
    random kernel. The further blocks of a deeper network that were not loaded start as the identity (the scale of
    their last norm is zero), so that it starts as the ResNet50: random ones in its middle would undo what the others
    know. `mean` and `std` are the normalisation of the input that the branch will see.

    Raises
    ------
    UsageError
        The branch was built with ``stride_at="3x3"``, or the folder holds no ``conv1``.
    ScansideError
        A file has the wrong size.
    """
    folder = Path(folder)
    if branch.stride_at != "1x1":
        raise UsageError(
            "these weights stride in the first 1 x 1 of a stage",
            expected='stride_at="1x1"',
            found=f'stride_at="{branch.stride_at}"',
        )
    if not (folder / "conv1_conv.bin").is_file():
        raise UsageError("no Keras ResNet50 weights here", where=folder, expected="conv1_conv.bin")
    missing = []
    for name, conv, norm in _layers(branch):
        files = folder / f"{name}_conv.bin", folder / f"{name}_bn.bin"
        if all(file.is_file() for file in files):
            _load_layer(*files, conv, norm, grey=(mean, std) if name == "conv1" else None)
        else:
            missing.append(name)
    for stage, count in BLOCKS.items():
        for number, block in enumerate(branch.get_submodule(f"layer{stage - 1}").children(), start=1):
            if number > count and f"conv{stage}_block{number}_3" in missing:
                nn.init.zeros_(cast(Bottleneck, block).bn3.weight)
    return missing


def _layers(branch: Branch) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    parts: dict[str, Any] = dict(branch.named_children())
    layers = [("conv1", parts["conv1"], parts["bn1"])]
    for stage in range(2, 6):
        for number, block in enumerate(parts[f"layer{stage - 1}"], start=1):
            name = f"conv{stage}_block{number}"
            if block.downsample is not None:
                layers.append((f"{name}_0", block.downsample[0], block.downsample[1]))
            pairs = ((block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3))
            layers += [(f"{name}_{i}", conv, norm) for i, (conv, norm) in enumerate(pairs, start=1)]
    return layers


def _load_layer(
    conv_file: Path, bn_file: Path, conv: nn.Conv2d, norm: nn.BatchNorm2d, grey: tuple[float, float] | None
) -> None:
    out_channels, in_channels, *kernel_size = conv.weight.shape
    shape = (out_channels, len(BGR_MEANS) if grey else in_channels, *kernel_size)
    values = _floats(conv_file, int(np.prod(shape)) + out_channels)
    kernel, bias = values[:-out_channels].reshape(shape), values[-out_channels:]
    gamma, beta, moving_mean, variance = _floats(bn_file, 4 * out_channels).reshape(4, out_channels)
    if grey is not None:
        mean, std = grey
        offsets = 255 * mean - np.array(BGR_MEANS)
        bias = bias + np.einsum("ocij,c->o", kernel, offsets)
        kernel = 255 * std * kernel.sum(1, keepdims=True)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        for parameter, value in (
            (conv.weight, kernel),
            (norm.weight, gamma),
            (norm.bias, beta),
            (norm.running_mean, moving_mean - bias),
            (norm.running_var, variance + (KERAS_EPSILON - norm.eps)),
        ):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _floats(file: Path, count: int) -> np.ndarray:
    size = file.stat().st_size
    if size != 4 * count:
        raise ScansideError("a weight file has the wrong size", where=file, expected=f"{4 * count} bytes", found=size)
    return np.fromfile(file, "<f4").astype(np.float64)
