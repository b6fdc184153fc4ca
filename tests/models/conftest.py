"""One plane's network of each backbone, built once: DenseNet161 and VGG19 are slow to build."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from scanside.models import BACKBONES, FusionClassifier
from scanside.models.backbones import resnet

NAMES = ("resnet50", "resnet101", "densenet161", "vgg19")


@pytest.fixture(scope="session", params=NAMES)
def single(request: pytest.FixtureRequest) -> FusionClassifier:
    """The transverse classifier of one backbone, with weights that give crops different answers."""
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


@pytest.fixture(scope="session")
def plain() -> Callable[..., nn.Module]:
    """Torchvision's own network of a backbone, without the cost of initialising it; load with `assign=True`."""

    def build(backbone: str, classes: int = 2) -> nn.Module:
        with torch.device("meta"):
            return getattr(torchvision_models, backbone)(weights=None, num_classes=classes).eval()

    return build


@pytest.fixture(scope="module")
def shallow() -> Iterator[str]:
    """A backbone of one block a stage, so that building and running cost little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "shallow", resnet([1, 1, 1, 1]))
        yield "shallow"
