"""The three-plane classifier: one ResNet branch a plane, fused by addition and concatenation (paper, eq. 1 and 2).

Equation 1 adds the transverse and sagittal feature maps, equation 2 concatenates the coronal ones, and a fully
connected layer then halves the width before the two class outputs. Adding, concatenating and a 1 x 1 convolution all
commute with global average pooling (they are linear, and no nonlinearity stands between), so the maps are pooled first
and the halving layer is a plain `Linear` on vectors: the same function as on maps, without its cost. A ReLU follows
the halving layer; without it the two linear layers would be one.

The sum of equation 1 is taken times one half. The layer that follows absorbs a constant, so the set of functions is
the paper's, and both halves of the concatenation keep one scale, which plain SGD needs to be stable.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from scanside.errors import UsageError
from scanside.models.normalise import GREY_MEAN, GREY_STD, GreyNormalised

Variant = Literal["transverse", "sagittal", "coronal", "fusion1", "fusion2"]
StrideAt = Literal["3x3", "1x1"]

VARIANTS: tuple[str, ...] = get_args(Variant)
PLANES = ("transverse", "sagittal", "coronal")
CLASSES = 2
MALIGNANT = 1
"""Index of the malignant class; 0 is benign."""

_BLOCKS = {"resnet50": [3, 4, 6, 3]}
_PLANES_OF = {
    "transverse": ("transverse",),
    "sagittal": ("sagittal",),
    "coronal": ("coronal",),
    "fusion1": ("transverse", "sagittal"),
    "fusion2": PLANES,
}


class Branch(ResNet):
    """A torchvision ResNet for one grey plane, without its head: `forward` gives feature maps [N, C, H/32, W/32].

    Parameters
    ----------
    backbone : str
        "resnet50".
    stride_at : {"3x3", "1x1"}
        Which convolution of a stage's first block strides: the 3 x 3 as in torchvision, or the first 1 x 1 as in the
        original network and the Keras weights.
    """

    def __init__(self, backbone: str, stride_at: StrideAt) -> None:
        super().__init__(Bottleneck, _BLOCKS[backbone])
        self.channels: int = self.fc.in_features
        self.stride_at = stride_at
        del self.fc, self.avgpool
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if stride_at == "1x1":
            for stage in (self.layer2, self.layer3, self.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class FusionClassifier(GreyNormalised):
    """Benign or malignant, from one crop a plane.

    Parameters
    ----------
    backbone : str
        "resnet50".
    variant : str
        "transverse", "sagittal", "coronal" (one plane), "fusion1" (T + S) or "fusion2" (T + S, then C beside it).
    stride_at : {"3x3", "1x1"}
        See `Branch`. Not part of the state dict: build with the value the weights were trained with.
    mean, std : float
        Input normalisation, fractions of 255.

    Raises
    ------
    UsageError
        An unknown backbone, variant or stride.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        variant: str = "fusion2",
        *,
        stride_at: StrideAt = "3x3",
        mean: float = GREY_MEAN,
        std: float = GREY_STD,
    ) -> None:
        super().__init__()
        for what, value, known in (
            ("backbone", backbone, tuple(_BLOCKS)),
            ("variant", variant, VARIANTS),
            ("stride_at", stride_at, get_args(StrideAt)),
        ):
            if value not in known:
                raise UsageError(f"unknown {what}", expected=" | ".join(known), found=value)
        self.backbone: str = backbone
        self.variant: str = variant
        self.stride_at: StrideAt = stride_at
        self.set_normalisation(mean, std)
        self.branches = nn.ModuleDict({plane: Branch(backbone, stride_at) for plane in _PLANES_OF[variant]})
        width = cast(Branch, next(iter(self.branches.values()))).channels
        self.halve = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU()) if variant == "fusion2" else nn.Identity()
        self.classify = nn.Linear(width, CLASSES)

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes this variant looks at, in the order of `forward`'s arguments."""
        return _PLANES_OF[self.variant]

    def forward(self, *crops: Tensor) -> Tensor:
        """Logits [N, 2] (benign, malignant) from normalised float crops [N, 1, S, S].

        Either all three planes in the order transverse, sagittal, coronal (unused ones are ignored), or exactly the
        variant's own `planes`.
        """
        return self.head(self.pooled(*crops))

    def pooled(self, *crops: Tensor) -> Tensor:
        """The fused, pooled features: [N, C], for fusion2 [N, 2 C]."""
        if len(crops) == len(PLANES):
            crops = tuple(crops[PLANES.index(plane)] for plane in self.planes)
        if len(crops) != len(self.planes):
            raise UsageError(
                "wrong number of crops", where=self.variant, expected=f"{len(self.planes)} or 3", found=len(crops)
            )
        features = [self.branches[p](x).mean((2, 3)) for p, x in zip(self.planes, crops, strict=True)]
        if len(features) == 1:
            return features[0]
        added = 0.5 * (features[0] + features[1])
        return added if self.variant == "fusion1" else torch.cat((added, features[2]), 1)

    def head(self, pooled: Tensor) -> Tensor:
        """Logits from `pooled`'s answer."""
        return self.classify(self.halve(pooled))

    def probability(self, *pixels: Tensor) -> Tensor:
        """P(malignant) [N] from uint8 crops [N, 1, S, S], as the exported graph computes it."""
        logits = self(*(self.normalise(x) for x in pixels))
        return torch.softmax(logits, 1)[:, MALIGNANT]
