"""The segmenter is the plain SMP model plus its normalisation."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from scanside.models import build_segmenter


def test_segmenter_is_the_paper_s_unet() -> None:
    assert sum(p.numel() for p in build_segmenter().parameters()) == 6_250_893


def test_plain_smp_weights_load_and_give_the_same_logits() -> None:
    torch.manual_seed(0)
    plain = smp.Unet("efficientnet-b0", encoder_weights=None, in_channels=1, classes=1).eval()
    model = build_segmenter().eval()
    model.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, 32, 64)
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(logits, plain(x))
    assert logits.shape == (1, 1, 32, 64)


def test_normalise_follows_its_constants() -> None:
    model = build_segmenter(mean=0.2, std=0.5)
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert model.normalise(pixels).tolist() == pytest.approx([-0.4, 0.0, 1.6])
    assert model.normalise(pixels).dtype == torch.float32


def test_normalisation_is_not_in_the_state_dict_and_follows_the_dtype() -> None:
    model = build_segmenter()
    assert not {"mean", "std"} & set(model.state_dict())
    assert model.to(torch.float64).normalise(torch.zeros(1, dtype=torch.uint8)).dtype == torch.float64
