"""Networks of BUS-BRA's views: how they start, and that their record says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scanside.errors import UsageError
from scanside.models.backbones import BACKBONES, resnet
from scanside.models.fusion import FusionClassifier
from scanside.training.checkpoint import load_weights, save_weights
from scanside.training.loop import Arithmetic
from scanside.training.recipe import ViewsRecipe
from scanside.training.start import training_record
from scanside.training.views import (
    ViewedLesion,
    ViewsSplit,
    ViewsTask,
    predict_views,
    stride_of,
    train_views,
)

FP32 = Arithmetic(torch.device("cpu"), None)


@pytest.fixture
def with_tail(monkeypatch: pytest.MonkeyPatch) -> str:
    """A shallow ResNet with a layer between its features and the last one, as VGG has."""
    tail = {"tail": lambda: nn.Sequential(nn.Linear(2048, 8), nn.ReLU()), "width": 8}
    monkeypatch.setitem(BACKBONES, "tailed", replace(resnet([1, 1, 1, 1]), **tail))
    return "tailed"


@pytest.fixture
def split() -> ViewsSplit:
    """Two lesions of two views in each part."""
    crops = np.random.default_rng(0).integers(0, 255, (2, 288, 288), dtype=np.uint8)
    return ViewsSplit(*(tuple(ViewedLesion(f"{p}{i}", bool(i), ("l", "r"), crops) for i in (0, 1)) for p in "abc"))


def write_first_layer(folder: Path) -> Path:
    """Of ImageNet's ResNet50 the first convolution alone."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    rng.normal(0, 0.01, 64 * 3 * 49 + 64).astype("<f4").tofile(folder / "conv1_conv.bin")
    rng.uniform(0.5, 1.5, 4 * 64).astype("<f4").tofile(folder / "conv1_bn.bin")
    return folder


def test_the_record_says_what_started_from_imagenet(shallow: str, split: ViewsSplit, tmp_path: Path) -> None:
    recipe = ViewsRecipe(steps=1, backbone=shallow, variant="transverse")
    data = ViewsTask(recipe, split, name="view", imagenet=write_first_layer(tmp_path / "imagenet")).record()
    assert (data["start"], data["stride_at"]) == ("imagenet", "1x1")
    assert len(data["fresh"]) == 2 * 16  # each of the other convolutions and its norm
    data = ViewsTask(recipe, split, name="view").record()
    assert (data["start"], data["stride_at"], data["fresh"]) == ("random", "3x3", [])


def test_fusion1_starts_where_the_single_view_ended(with_tail: str, split: ViewsSplit, tmp_path: Path) -> None:
    recipe = ViewsRecipe(steps=1, batch=2, backbone=with_tail, variant="transverse", size=32, recalibration_batches=1)
    single = train_views(recipe, split, tmp_path, name="view", arithmetic=FP32)
    assert stride_of(single) == "3x3"
    both = replace(recipe, variant="fusion1")
    task = ViewsTask(both, split, name="two_views", single=single)
    assert task.record()["stride_at"] == "3x3"
    donor = FusionClassifier(with_tail, "transverse")
    load_weights(donor, single)
    model = task.model
    assert isinstance(model, FusionClassifier)
    crop = torch.from_numpy(split.test[0].crops[:1, None, :32, :32].copy())
    with torch.no_grad():
        x = donor.normalise(crop)
        assert torch.allclose(model.eval()(x, x), donor.eval()(x), atol=1e-5)  # half the sum of equal features
    weights = train_views(both, split, tmp_path, name="two_views", single=single, arithmetic=FP32)
    assert training_record(weights)["data"]["start"] == "single view"
    save_weights(FusionClassifier(with_tail, "transverse"), tmp_path / "other.safetensors", training_record(single))
    with pytest.raises(UsageError, match="this training had another start; found single"):
        train_views(both, split, tmp_path, name="two_views", single=tmp_path / "other.safetensors", arithmetic=FP32)
    assert train_views(both, split, tmp_path, name="two_views", single=single, arithmetic=FP32) == weights
    assert [p.shape for p in predict_views(weights, both, split.test)] == [(1,), (1,)]
    assert [p.shape for p in predict_views(single, recipe, split.test)] == [(2,), (2,)]
