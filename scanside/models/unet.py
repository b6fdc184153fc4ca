"""The lesion segmenter: UNet with an EfficientNet-b0 encoder (paper, Deep Learning Algorithm)."""

from __future__ import annotations

import segmentation_models_pytorch as smp

from scanside.models.normalise import GREY_MEAN, GREY_STD, GreyNormalised

ENCODER = "efficientnet-b0"
SIZE_MULTIPLE = 32
"""Height and width must be multiples of this: the encoder halves five times."""


class Segmenter(smp.Unet, GreyNormalised):
    """`smp.Unet('efficientnet-b0', in_channels=1, classes=1)` that knows its input normalisation.

    `forward` takes normalised float [N, 1, H, W] (see `normalise`), H and W multiples of 32, and returns logits
    [N, 1, H, W]. State dicts of the plain SMP model load unchanged.
    """


def build_segmenter(mean: float = GREY_MEAN, std: float = GREY_STD) -> Segmenter:
    """A segmenter with random weights; `mean` and `std` are fractions of 255."""
    model = Segmenter(ENCODER, encoder_weights=None, in_channels=1, classes=1)
    model.set_normalisation(mean, std)
    return model
