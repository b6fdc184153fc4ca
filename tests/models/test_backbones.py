"""Each branch against torchvision's own network, and the parts that torchvision has no name for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from scanside.errors import UsageError
from scanside.models import BACKBONES, Branch, FusionClassifier
from scanside.models.backbones import _means

PARAMETERS = {"resnet50": 25_557_032, "resnet101": 44_549_160, "densenet161": 28_681_000, "vgg19": 143_667_240}


@torch.no_grad()
def test_one_plane_is_torchvision_s_network_with_a_grey_input(
    single: FusionClassifier, plain: Callable[..., nn.Module]
) -> None:
    kind = BACKBONES[single.backbone]
    state = {
        f"{theirs}.{part}": getattr(module, part).data
        for theirs, ours in kind.head.items()
        for module in [single.get_submodule(ours)]
        for part in ("weight", "bias")
    }
    state |= single.branches["transverse"].state_dict()
    grey = f"{kind.first}.weight"
    state[grey] = torch.cat((state[grey], torch.zeros_like(state[grey]).repeat(1, 2, 1, 1)), 1)
    reference = plain(single.backbone)
    reference.load_state_dict(state, assign=True)
    pixels = torch.randint(0, 256, (2, 1, 96, 96), dtype=torch.uint8)
    pixels[1] //= 4
    x = single.normalise(pixels)
    assert torch.allclose(single(x), reference(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert (single(x)[0] - single(x)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("backbone", PARAMETERS)
def test_a_plane_has_torchvision_s_parameters(backbone: str) -> None:
    """Torchvision's documented counts are for three channels and a thousand classes."""
    kind = BACKBONES[backbone]
    with torch.device("meta"):
        model = FusionClassifier(backbone, "coronal")
    first = model.branches["coronal"].get_submodule(kind.first).weight.numel()
    counted = sum(p.numel() for p in model.parameters()) + 2 * first + 998 * (kind.width + 1)
    assert counted == PARAMETERS[backbone]


@pytest.mark.parametrize("side", [1, 3, 7, 10, 14])
def test_the_grid_is_adaptive_average_pooling(side: int) -> None:
    maps = torch.rand(2, 5, side, side + 2)
    pooled = _means(side, 7) @ maps @ _means(side + 2, 7).mT
    assert torch.allclose(pooled, functional.adaptive_avg_pool2d(maps, 7), atol=1e-6)


def test_only_a_resnet_may_stride_elsewhere() -> None:
    with pytest.raises(UsageError, match=r"unknown stride_at of a densenet161; expected 3x3, found 1x1"):
        Branch("densenet161", "1x1")
