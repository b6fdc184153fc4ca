from __future__ import annotations

import numpy as np
import pytest
import torch

from scanside.errors import UsageError
from scanside.exam.planes import Plane
from scanside.training import classify
from scanside.training.classify import (
    ClassifierTask,
    augmented_triplet,
    cut_margin,
    frame_probabilities,
    module_names,
)
from scanside.training.cohort_data import cohort_files, read_phantom
from scanside.training.errors import TrainingDataError
from scanside.training.recipe import ClassifierRecipe

RECIPE = ClassifierRecipe(steps=2, batch=4, size=32, variant="transverse", frozen=("conv1", "bn1", "layer1"))
STILL = ClassifierRecipe(steps=2, size=48, margins=(1.8, 1.8), shift=0.0)


@pytest.fixture(scope="module")
def phantoms(stub_cohort):
    return [read_phantom(file, sections=()) for file in cohort_files(stub_cohort).values()]


@pytest.fixture(scope="module")
def task(phantoms):
    """A task whose ImageNet folder is replaced by one layer that stays random."""
    loader, classify.load_keras_resnet50 = classify.load_keras_resnet50, lambda branch, folder: ["conv5_block1_2"]
    try:
        return ClassifierTask(RECIPE, phantoms[:-1], phantoms[-1:], "weights")
    finally:
        classify.load_keras_resnet50 = loader


def test_batches_depend_on_the_generator_alone(task):
    first, again, other = (task.batch(np.random.default_rng(s), 0.5) for s in (1, 1, 2))
    assert set(first) == {"transverse", "sagittal", "coronal", "malignant"}
    for plane in Plane:
        assert first[plane].shape == (4, 1, 32, 32)
        assert torch.equal(first[plane], again[plane])
    assert not torch.equal(first["coronal"], other["coronal"])
    assert sorted(first["malignant"].tolist()) == [0, 0, 1, 1]


def test_frozen_parts_keep_weights_and_statistics_and_the_rest_learns(task):
    assert task.model.stride_at == "1x1"
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    optimizer = task.optimizer()
    scales = sorted({g["scale"] for g in optimizer.param_groups})
    assert scales == [1.0, RECIPE.fresh_lr_scale]
    task.train_mode(task.model)
    task.loss(task.model, task.batch(np.random.default_rng(0), 0.5)).backward()
    optimizer.step()
    after = task.model.state_dict()
    for name, value in before.items():
        frozen = any(name.startswith(f"branches.transverse.{part}.") for part in RECIPE.frozen)
        if frozen:
            assert torch.equal(value, after[name]), name
    for name in ("branches.transverse.layer2.0.conv1.weight", "branches.transverse.layer2.0.bn1.running_mean"):
        assert not torch.equal(before[name], after[name])
    assert not torch.equal(before["classify.weight"], after["classify.weight"])


def test_fresh_layers_and_the_head_learn_faster(task):
    names = {id(p): n for n, p in task.model.named_parameters()}
    fast = {names[id(p)] for g in task.optimizer().param_groups if g["scale"] > 1 for p in g["params"]}
    prefix = "branches.transverse.layer4.0"
    assert {"classify.weight", "classify.bias", f"{prefix}.conv2.weight", f"{prefix}.bn2.bias"} <= fast
    assert f"{prefix}.conv1.weight" not in fast


def test_validation_scores(task):
    with torch.inference_mode():
        scores = task.validate(task.model.eval())
    assert {"auc", "auc_jittered", "accuracy", "accuracy_jittered"} == set(scores)
    assert all(0 <= v <= 1 for v in scores.values())


def test_unknown_part_to_freeze(phantoms, monkeypatch):
    monkeypatch.setattr(classify, "load_keras_resnet50", lambda branch, folder: [])
    recipe = ClassifierRecipe(steps=1, variant="transverse", frozen=("layer9",))
    with pytest.raises(UsageError, match="layer9"):
        ClassifierTask(recipe, phantoms, [], "weights")


def test_without_imagenet_nothing_is_frozen(phantoms):
    task = ClassifierTask(RECIPE, phantoms, [], None)
    assert task.model.stride_at == "3x3"
    assert all(p.requires_grad for p in task.model.parameters())
    assert {g["scale"] for g in task.optimizer().param_groups} == {1.0}


def test_both_classes_are_needed(phantoms):
    benign = [p for p in phantoms if not p.malignant[:1].any()]
    from dataclasses import replace

    only = [replace(p, malignant=p.malignant[:1], triplets=p.triplets[:1]) for p in benign]
    with pytest.raises(TrainingDataError, match="0 malignant"):
        ClassifierTask(RECIPE, only, [], None)


def test_flips_agree_between_the_planes():
    """A lesion marked at one end of the sweep and of the lateral axis keeps its marks on matching sides."""
    triplet = np.full((3, 48, 48), 60, np.uint8)
    triplet[0, :, :6] = triplet[2, :, :6] = 240  # low lateral: columns of transverse and of coronal
    triplet[1, :, :6] = 120  # low sweep: columns of the sagittal, rows of the coronal
    triplet[2, :6] = 240
    seen = set()
    for seed in range(40):
        t, s, c = augmented_triplet(triplet, np.random.default_rng(seed), STILL).astype(int)
        lateral = bool(t[24, 0] < t[24, -1])
        sweep = bool(s[24, 0] < s[24, -1])
        assert bool(c[24, 0] < c[24, -1]) == lateral
        assert bool(c[0, 24] < c[-1, 24]) == sweep
        seen.add((lateral, sweep))
    assert len(seen) == 4


def test_depth_is_never_mirrored():
    triplet = np.full((3, 48, 48), 40, np.uint8)
    triplet[:2, 36:] = 200
    for seed in range(40):
        t, s, _ = augmented_triplet(triplet, np.random.default_rng(seed), STILL).astype(int)
        assert t[-1].mean() > t[0].mean()
        assert s[-1].mean() > s[0].mean()


def test_cut_margin_is_centred_and_scaled():
    image = np.zeros((180, 180), np.uint8)
    image[40:140, 40:140] = 255  # the lesion: 100 of 180 pixels, so 1.8 of it are stored
    np.testing.assert_array_equal(cut_margin(image, 1.8, 180), image)
    np.testing.assert_array_equal(cut_margin(image, 1.0, 100), np.full((100, 100), 255, np.uint8))
    half = cut_margin(image, 1.35, 135)
    assert half.shape == (135, 135)
    assert (half > 0).mean() == pytest.approx((1 / 1.35) ** 2, rel=0.03)
    moved = cut_margin(image, 1.35, 135, (0.1, 0.0))
    rows = np.flatnonzero(moved.max(1))
    assert rows[0] == pytest.approx(np.flatnonzero(half.max(1))[0] - 13.5, abs=1)
    assert cut_margin(image, 1.8, 64, (0.5, -0.5)).shape == (64, 64)


def test_frame_probabilities_take_the_planes_in_order():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def normalise(self, x):
            return x.float() / 255

        def forward(self, t, s, c):
            total = t.mean((1, 2, 3)) + 10 * s.mean((1, 2, 3)) + 100 * c.mean((1, 2, 3))
            return torch.stack([torch.zeros_like(total), self.weight * total - 12], 1)

    triplets = np.zeros((2, 3, 48, 48), np.uint8)
    triplets[0, 1], triplets[1, 1], triplets[1, 0] = 255, 255, 255
    with torch.inference_mode():
        found = frame_probabilities(Sum(), triplets, STILL)
    np.testing.assert_allclose(found, 1 / (1 + np.exp([2.0, 1.0])), rtol=1e-5)


def test_module_names():
    assert module_names("conv1") == ("conv1", "bn1")
    assert module_names("conv5_block1_2") == ("layer4.0.conv2", "layer4.0.bn2")
    assert module_names("conv3_block1_0") == ("layer2.0.downsample.0", "layer2.0.downsample.1")
    with torch.device("meta"):
        from scanside.models.backbones import Branch

        branch = Branch("resnet50", "1x1")
    for layer in ("conv1", "conv5_block3_3", "conv2_block1_0"):
        conv, norm = (branch.get_submodule(name) for name in module_names(layer))
        assert isinstance(conv, torch.nn.Conv2d)
        assert isinstance(norm, torch.nn.BatchNorm2d)
