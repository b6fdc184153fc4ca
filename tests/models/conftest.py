"""Torchvision's own networks, to compare with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models


@pytest.fixture(scope="session")
def plain() -> Callable[..., nn.Module]:
    """Torchvision's own network of a backbone, without the cost of initialising it; load with `assign=True`."""

    def build(backbone: str, classes: int = 2) -> nn.Module:
        with torch.device("meta"):
            return getattr(torchvision_models, backbone)(weights=None, num_classes=classes).eval()

    return build
