"""The paper's classifiers: one branch a plane, fused by addition and concatenation (eq. 1 and 2), or merged late.

Equation 1 adds the transverse and sagittal feature maps, equation 2 concatenates the coronal ones, and a fully
connected layer then halves the width before the two class outputs. Adding, concatenating and a 1 x 1 convolution all
commute with average pooling (they are linear, and no nonlinearity stands between), so the maps are pooled first and
the halving layer is a plain `Linear` on vectors: the same function as on maps, without its cost. A ReLU follows the
halving layer; without it the two linear layers would be one.

The sum of equation 1 is taken times one half. The layer that follows absorbs a constant, so the set of functions is
the paper's, and both halves of the concatenation keep one scale, which plain SGD needs to be stable.

`late` is no fusion of features: three single-plane networks, their softmax probabilities averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from scanside.errors import UsageError
from scanside.models.backbones import BACKBONES, Branch, StrideAt
from scanside.models.head import Head
from scanside.models.normalise import GREY_MEAN, GREY_STD, GreyNormalised

Variant = Literal["transverse", "sagittal", "coronal", "fusion1", "fusion2", "late"]

VARIANTS: tuple[str, ...] = get_args(Variant)
PLANES = ("transverse", "sagittal", "coronal")
CLASSES = 2
MALIGNANT = 1
"""Index of the malignant class; 0 is benign."""

PLANES_OF = {
    "transverse": ("transverse",),
    "sagittal": ("sagittal",),
    "coronal": ("coronal",),
    "fusion1": ("transverse", "sagittal"),
    "fusion2": PLANES,
    "late": PLANES,
}


class FusionClassifier(GreyNormalised):
    """Benign or malignant, from one crop a plane.

    Parameters
    ----------
    backbone : str
        "resnet50", "resnet101", "densenet161" or "vgg19".
    variant : str
        "transverse", "sagittal", "coronal" (one plane), "fusion1" (T + S), "fusion2" (T + S, then C beside it) or
        "late" (the mean of the three planes' own probabilities).
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
        if variant not in VARIANTS:
            raise UsageError("unknown variant", expected=" | ".join(VARIANTS), found=variant)
        self.backbone: str = backbone
        self.variant: str = variant
        self.stride_at: StrideAt = stride_at
        self.set_normalisation(mean, std)
        self.branches = nn.ModuleDict({plane: Branch(backbone, stride_at) for plane in PLANES_OF[variant]})
        kind = BACKBONES[backbone]
        width = kind.channels
        self.halve = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU()) if variant == "fusion2" else nn.Identity()
        if variant == "late":
            self.tail: nn.Module = nn.ModuleDict({plane: kind.tail() for plane in self.planes})
            self.classify: nn.Module = nn.ModuleDict({plane: nn.Linear(kind.width, CLASSES) for plane in self.planes})
        else:
            self.tail = kind.tail()
            self.classify = nn.Linear(kind.width, CLASSES)

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes this variant looks at, in the order of `forward`'s arguments."""
        return PLANES_OF[self.variant]

    def heads(self) -> tuple[Head, ...]:
        """The one head of the fused features, or with `late` one a plane."""
        if self.variant == "late":
            tails, last = cast(nn.ModuleDict, self.tail), cast(nn.ModuleDict, self.classify)
            return tuple(Head(self.halve, tails[plane], cast(nn.Linear, last[plane])) for plane in self.planes)
        return (Head(self.halve, self.tail, cast(nn.Linear, self.classify)),)

    def forward(self, *crops: Tensor) -> Tensor:
        """Logits [N, 2] (benign, malignant) from normalised float crops [N, 1, S, S].

        Either all three planes in the order transverse, sagittal, coronal (unused ones are ignored), or exactly the
        variant's own `planes`. The logits of `late` are the logarithms of the averaged probabilities.
        """
        pooled = [branch.pool(maps) for branch, maps in zip(self.branches.values(), self.maps(*crops), strict=True)]  # type: ignore[operator]
        return merged([head.logits(x) for head, x in zip(self.heads(), self.fused(pooled), strict=True)])

    def maps(self, *crops: Tensor) -> list[Tensor]:
        """The last feature maps [N, C, h, w] of each of the variant's planes; `crops` as for `forward`."""
        if len(crops) == len(PLANES):
            crops = tuple(crops[PLANES.index(plane)] for plane in self.planes)
        if len(crops) != len(self.planes):
            raise UsageError(
                "wrong number of crops", where=self.variant, expected=f"{len(self.planes)} or 3", found=len(crops)
            )
        return [self.branches[plane](x) for plane, x in zip(self.planes, crops, strict=True)]

    def fused(self, pooled: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What each head sees, from the planes' pooled features (equations 1 and 2)."""
        if self.variant == "fusion1":
            return (0.5 * (pooled[0] + pooled[1]),)
        if self.variant == "fusion2":
            return (torch.cat((0.5 * (pooled[0] + pooled[1]), pooled[2]), 1),)
        return tuple(pooled)

    def parted(self, gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The transpose of `fused`: gradients at what the heads see, as gradients at each plane's pooled features."""
        if self.variant == "fusion1":
            return (0.5 * gradients[0],) * 2
        if self.variant == "fusion2":
            added, coronal = gradients[0].chunk(2, 1)
            return 0.5 * added, 0.5 * added, coronal
        return tuple(gradients)

    def probability(self, *pixels: Tensor) -> Tensor:
        """P(malignant) [N] from uint8 crops [N, 1, S, S], as the exported graph computes it."""
        return malignancy(self(*(self.normalise(x) for x in pixels)))


def merged(logits: Sequence[Tensor]) -> Tensor:
    """The logits [N, 2] of one head; of several the logarithm of their mean softmax probability."""
    if len(logits) == 1:
        return logits[0]
    return torch.logsumexp(torch.log_softmax(torch.stack(list(logits)), -1), 0) - math.log(len(logits))


def malignancy(logits: Tensor) -> Tensor:
    """P(malignant) [N] from logits [N, 2]."""
    return torch.softmax(logits, 1)[:, MALIGNANT]
