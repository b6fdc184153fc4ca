"""How grey pixels become what a network sees: one place for training, reference and exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GREY_MEAN = 114.8 / 255
"""Mean of the three ImageNet channel means (103.939, 116.779, 123.68), as a fraction of 255."""
GREY_STD = 0.226


class GreyNormalised(nn.Module):
    """Mixin: the constants of `(x / 255 - mean) / std` as buffers `mean` and `std`, outside the state dict.

    They stay out of the state dict so that plain SMP and torchvision weights load as they are.
    """

    mean: Tensor
    std: Tensor

    def set_normalisation(self, mean: float, std: float) -> None:
        """Set the constants; both are fractions of full scale (255)."""
        self.register_buffer("mean", torch.tensor(float(mean)), persistent=False)
        self.register_buffer("std", torch.tensor(float(std)), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Float input of `forward` from uint8 (or float 0 to 255) pixels of any shape."""
        return (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std
