"""Grad-CAM (Selvaraju et al. 2017) of the predicted class for each plane, in closed form.

Grad-CAM weighs each feature map by the mean over its pixels of the gradient of a class's logit, adds them up and keeps
what is positive. Behind average pooling that mean is the gradient at the pooled features, summed over the grid and
divided by the number of pixels; the head's gradient is a few products (`Head.logits_and_gradient`). So no backward
pass is needed, the cost is one head more, and the exported graph carries it as one more output.

The maps are the last ones before pooling: behind the ReLU of a ResNet's last block, of DenseNet's last norm, and
behind VGG's last max pooling. With `late` each plane's own head answers for the class of the merged probability.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scanside.models.fusion import FusionClassifier, malignancy, merged


def probability_and_heatmaps(model: FusionClassifier, *pixels: Tensor) -> tuple[Tensor, Tensor]:
    """P(malignant) [N] and heatmaps [N, planes, h, w] from uint8 crops [N, 1, S, S], for a model in evaluation.

    A heatmap is zero or more, in logits per pixel of the feature maps: how much a place raises the logit of the class
    that was predicted (malignant when the probability is above 0.5). All planes have one scale and can be compared.
    """
    maps = model.maps(*(model.normalise(x) for x in pixels))
    pooled = [branch.pool(x) for branch, x in zip(model.branches.values(), maps, strict=True)]  # type: ignore[operator]
    answers = [head.logits_and_gradient(x) for head, x in zip(model.heads(), model.fused(pooled), strict=True)]
    probability = malignancy(merged([logits for logits, _ in answers]))
    malignant = (probability > 0.5).to(probability.dtype)
    predicted = torch.stack((1 - malignant, malignant), 1)
    gradients = model.parted([gradient(predicted) for _, gradient in answers])
    return probability, torch.stack([_heatmap(g, x) for g, x in zip(gradients, maps, strict=True)], 1)


def _heatmap(gradient: Tensor, maps: Tensor) -> Tensor:
    """[N, h, w] from the gradient at the pooled features and the maps [N, C, h, w]."""
    channels, height, width = maps.shape[1:]
    weights = gradient.flatten(2).sum(2) if gradient.ndim > 2 else gradient
    added = (weights / (height * width)).reshape(-1, 1, channels) @ maps.flatten(2)
    return torch.relu(added).reshape(-1, height, width)
