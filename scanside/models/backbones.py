"""The paper's four backbones, each as the branch of one grey plane: torchvision's layers up to the last feature maps.

Layers keep torchvision's names, so a plain torchvision state dict fits a branch; only the first convolution takes one
grey channel in place of three (see `scanside.models.own_weights`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torchvision.models import densenet161
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import cfgs, make_layers

from scanside.errors import UsageError

StrideAt = Literal["3x3", "1x1"]


@dataclass(frozen=True)
class Backbone:
    """What a torchvision classifier is made of.

    Its head is linear layers with a ReLU between each two; the last of them, `classify`, is not part of this.

    Parameters
    ----------
    layers : callable
        Makes the named layers up to the last feature maps; run in order they are torchvision's `forward`.
    first : str
        Name of the first convolution.
    channels, grid : int
        The feature maps have `channels`, and are pooled to means over `grid` x `grid` parts (1: over everything).
    width : int
        Inputs of the last layer.
    tail : callable
        Makes what stands between the pooled features and the last layer.
    head : mapping
        Where torchvision's own head lies here: its names to "tail.<n>" and "classify".
    """

    layers: Callable[[], OrderedDict[str, nn.Module]]
    first: str
    channels: int
    width: int
    grid: int = 1
    tail: Callable[[], nn.Module] = nn.Identity
    head: Mapping[str, str] = field(default_factory=lambda: {"fc": "classify"})


def resnet(blocks: list[int]) -> Backbone:
    """A ResNet of bottlenecks, `blocks` of them a stage."""

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict(list(ResNet(Bottleneck, blocks).named_children())[:-2])

    return Backbone(layers, first="conv1", channels=2048, width=2048)


def _densenet161_layers() -> OrderedDict[str, nn.Module]:
    return OrderedDict(features=densenet161(weights=None).features, relu=nn.ReLU())


def _vgg19_layers() -> OrderedDict[str, nn.Module]:
    features = make_layers(cfgs["E"], batch_norm=False)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            _initialise(layer)
    return OrderedDict(features=features)


def _vgg19_tail() -> nn.Module:
    widths = (512 * 7 * 7, 4096, 4096)
    parts: list[nn.Module] = []
    for into, out in pairwise(widths):
        linear = nn.Linear(into, out)
        nn.init.normal_(linear.weight, 0, 0.01)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*parts)


BACKBONES: dict[str, Backbone] = {
    "resnet50": resnet([3, 4, 6, 3]),
    "resnet101": resnet([3, 4, 23, 3]),
    "densenet161": Backbone(
        _densenet161_layers,
        first="features.conv0",
        channels=2208,
        width=2208,
        head={"classifier": "classify"},
    ),
    "vgg19": Backbone(
        _vgg19_layers,
        first="features.0",
        channels=512,
        width=4096,
        grid=7,
        tail=_vgg19_tail,
        head={"classifier.0": "tail.0", "classifier.3": "tail.3", "classifier.6": "classify"},
    ),
}


def known_backbone(name: str) -> Backbone:
    """The backbone of this name.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in BACKBONES:
        raise UsageError("unknown backbone", expected=" | ".join(BACKBONES), found=name)
    return BACKBONES[name]


class Branch(nn.Sequential):
    """One plane's layers: `forward` takes a normalised grey crop [N, 1, S, S] to feature maps [N, C, S/32, S/32].

    Parameters
    ----------
    backbone : str
        A key of `BACKBONES`.
    stride_at : {"3x3", "1x1"}
        Of a ResNet, which convolution of a stage's first block strides: the 3 x 3 as in torchvision, or the first
        1 x 1 as in the original network and the Keras weights. Other backbones know "3x3" only.

    Raises
    ------
    UsageError
        An unknown backbone, or a stride that it does not have.
    """

    def __init__(self, backbone: str, stride_at: StrideAt = "3x3") -> None:
        kind = known_backbone(backbone)
        layers = kind.layers()
        strides = get_args(StrideAt) if "layer4" in layers else ("3x3",)
        if stride_at not in strides:
            raise UsageError(f"unknown stride_at of a {backbone}", expected=" | ".join(strides), found=stride_at)
        super().__init__(layers)
        self.channels = kind.channels
        self.grid = kind.grid
        self.stride_at = stride_at
        colour = self.get_submodule(kind.first)
        assert isinstance(colour, nn.Conv2d)
        grey = nn.Conv2d(
            1,
            colour.out_channels,
            kernel_size=colour.kernel_size,  # type: ignore[arg-type]
            stride=colour.stride,  # type: ignore[arg-type]
            padding=colour.padding,  # type: ignore[arg-type]
            bias=colour.bias is not None,
        )
        _initialise(grey)
        self.set_submodule(kind.first, grey)
        if stride_at == "1x1":
            for stage in ("layer2", "layer3", "layer4"):
                first = cast(Bottleneck, self.get_submodule(f"{stage}.0"))
                first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)

    def pool(self, maps: Tensor) -> Tensor:
        """The means of feature maps over the parts of the grid: [N, C], or [N, C, grid, grid]."""
        if self.grid == 1:
            return maps.mean((2, 3))
        height, width = maps.shape[2:]
        if (height, width) == (self.grid, self.grid):
            return maps
        rows, columns = (_means(side, self.grid).to(maps.dtype).to(maps.device) for side in (height, width))
        return rows @ maps @ columns.mT


def _means(side: int, grid: int) -> Tensor:
    """[grid, side]: row g takes the mean of part g, as `adaptive_avg_pool` cuts them; a plain matrix exports as one."""
    ends = [(g * side // grid, -(-(g + 1) * side // grid)) for g in range(grid)]
    return torch.tensor([[(low <= i < high) / (high - low) for i in range(side)] for low, high in ends])


def _initialise(conv: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
