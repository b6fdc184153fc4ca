"""Heatmaps in closed form against Grad-CAM by hooks and automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scanside.models import VARIANTS, FusionClassifier, probability_and_heatmaps
from scanside.models.fusion import PLANES, merged


def gradcam(model: FusionClassifier, *pixels: Tensor) -> Tensor:
    """Grad-CAM as published: hooked feature maps, the gradient of the predicted class's logit from autograd."""
    maps: dict[str, Tensor] = {}
    hooks = [
        branch.register_forward_hook(lambda module, inputs, output, plane=plane: maps.update({plane: output}))
        for plane, branch in model.branches.items()
    ]
    with torch.enable_grad():
        predicted = model(*(model.normalise(x) for x in pixels)).argmax(1)
        for hook in hooks:
            hook.remove()
        pooled = [model.branches[plane].pool(maps[plane]) for plane in model.planes]
        logits = [head.logits(x) for head, x in zip(model.heads(), model.fused(pooled), strict=True)]
        score = sum(each.gather(1, predicted[:, None]).sum() for each in logits)
        gradients = torch.autograd.grad(score, list(maps.values()))
    weighted = [(g.mean((2, 3), keepdim=True) * x).sum(1) for g, x in zip(gradients, maps.values(), strict=True)]
    return torch.relu(torch.stack(weighted, 1)).detach()


def crops(count: int, size: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8, generator=generator) for _ in range(count)]


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.max() > 0
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("size", [96, 64])
def test_every_backbone(single: FusionClassifier, size: int) -> None:
    (pixels,) = crops(1, size, 1)
    with torch.no_grad():
        probability, heatmaps = probability_and_heatmaps(single, pixels)
        assert torch.allclose(probability, single.probability(pixels), atol=1e-6)
    assert heatmaps.shape == (3, 1, size // 32, size // 32)
    assert_same(heatmaps, gradcam(single, pixels))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(shallow: str, variant: str) -> None:
    torch.manual_seed(7)
    model = FusionClassifier(shallow, variant).eval()
    for head in model.heads():
        head.classify.bias.data[:] = 0
        head.classify.weight.data[0] = -head.classify.weight.data[1]
    pixels = crops(len(model.planes), 64, 2)
    pixels[0][1] //= 4
    with torch.no_grad():
        probability, heatmaps = probability_and_heatmaps(model, *pixels)
        assert torch.allclose(probability, model.probability(*pixels), atol=1e-6)
    assert heatmaps.shape == (3, len(model.planes), 2, 2)
    assert_same(heatmaps, gradcam(model, *pixels))


def test_the_map_is_of_the_class_that_was_predicted(shallow: str) -> None:
    """The same maps, once called malignant and once benign, answer with the weights of that class."""
    torch.manual_seed(8)
    model = FusionClassifier(shallow, "coronal").eval()
    (pixels,) = crops(1, 64, 3)
    found = {}
    for name, bias in (("benign", (9.0, 0.0)), ("malignant", (0.0, 9.0))):
        model.classify.bias.data[:] = torch.tensor(bias)
        with torch.no_grad():
            probability, found[name] = probability_and_heatmaps(model, pixels)
        assert ((probability > 0.5) == (name == "malignant")).all()
        assert_same(found[name], gradcam(model, pixels))
    assert not torch.allclose(found["benign"], found["malignant"])


@torch.no_grad()
def test_a_bright_spot_that_raises_the_logit_is_where_the_map_is_hot(shallow: str) -> None:
    """A network whose answer grows with brightness points at the bright corner."""
    torch.manual_seed(9)
    model = FusionClassifier(shallow, "transverse").eval()
    pixels = torch.full((1, 1, 128, 128), 20, dtype=torch.uint8)
    pixels[..., :40, 88:] = 250
    quiet = model.maps(model.normalise(torch.full_like(pixels, 20)))[0].mean((0, 2, 3))
    bright = model.maps(model.normalise(torch.full_like(pixels, 250)))[0].mean((0, 2, 3))
    model.classify.weight[1], model.classify.weight[0] = bright - quiet, quiet - bright
    model.classify.bias[:] = torch.tensor((-1e6, 0.0))
    _, heatmaps = probability_and_heatmaps(model, pixels)
    row, column = divmod(int(heatmaps[0, 0].argmax()), heatmaps.shape[-1])
    assert (row, column) in {(0, 3), (0, 2), (1, 3)}


@torch.no_grad()
def test_merging_one_head_changes_nothing_and_many_average() -> None:
    logits = [torch.randn(4, 2) for _ in PLANES]
    assert merged(logits[:1]) is logits[0]
    mean = torch.stack([torch.softmax(x, 1) for x in logits]).mean(0)
    assert torch.allclose(torch.softmax(merged(logits), 1), mean, atol=1e-6)
