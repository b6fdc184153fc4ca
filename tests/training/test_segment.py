from __future__ import annotations

import numpy as np
import pytest
import torch

from scanside.exam.planes import Plane
from scanside.training.busbra import read_busbra, split_busbra
from scanside.training.cohort_data import cohort_files, read_phantom
from scanside.training.cutting import Origin
from scanside.training.errors import TrainingDataError
from scanside.training.recipe import SegmenterRecipe
from scanside.training.segment import SectionPool, SegmenterTask, section_probability, segmentation_loss

RECIPE = SegmenterRecipe(
    steps=2, batch=4, crop_sizes=(32, 64), crop_until=(0.5, 1.0), busbra_fraction=0.5, busbra_longer_side=64
)


@pytest.fixture(scope="module")
def phantoms(stub_cohort):
    return [read_phantom(file, triplets=False) for file in cohort_files(stub_cohort).values()]


@pytest.fixture(scope="module")
def task(phantoms, tiny_busbra):
    split = split_busbra(read_busbra(tiny_busbra), validation_images=2)
    return SegmenterTask(RECIPE, phantoms[:-1], phantoms[-1:], split)


def test_batches_depend_on_the_generator_alone(task):
    first, again, other = (task.batch(np.random.default_rng(s), 0.9) for s in (1, 1, 2))
    assert first["pixels"].shape == first["mask"].shape == (4, 1, 64, 64)
    assert first["pixels"].dtype == torch.uint8
    assert torch.equal(first["pixels"], again["pixels"])
    assert torch.equal(first["mask"], again["mask"])
    assert not torch.equal(first["pixels"], other["pixels"])
    assert set(first["mask"].unique().tolist()) == {0, 1}


def test_crops_grow_with_the_budget(task):
    assert task.batch(np.random.default_rng(1), 0.1)["pixels"].shape[-1] == 32


def test_masks_lie_on_the_lesions(task):
    for seed in range(6):
        batch = task.batch(np.random.default_rng(seed), 0.9)
        pixels, mask = batch["pixels"].float(), batch["mask"].bool()
        for i in range(4):
            if 20 < mask[i].sum() < 3500:
                lit = pixels[i] > 0
                contrast = pixels[i][mask[i]].mean() - pixels[i][lit & ~mask[i]].mean()
                # BUS-BRA stubs (first half) have bright lesions, phantom stubs dark ones
                assert (contrast > 20) if i < 2 else (contrast < -20)


def test_lesions_are_drawn_about_as_often_as_asked(phantoms):
    pool = SectionPool(phantoms)
    rng = np.random.default_rng(0)
    shown = [pool.draw(rng, 64, RECIPE)[1].any() for _ in range(300)]
    assert np.mean(shown) == pytest.approx(RECIPE.lesion_fraction, abs=0.12)


def test_depth_is_mirrored_in_no_plane_but_the_coronal():
    """A column that is bright above and dark below stays so in transverse and sagittal sections."""
    from scanside.training.cohort_data import PhantomData, PlaneSections

    ramp = np.repeat(np.linspace(250, 5, 60).astype(np.uint8)[:, None], 80, 1)
    stored = PlaneSections(
        ramp[None], np.zeros((1, 60, 10), np.uint8), np.zeros(1, np.int32), np.zeros((0, 2), np.int32), np.array([0])
    )
    empty = np.zeros((0, 2, 3), np.float32)
    flipped, origin = {}, Origin("stub", "1", "1")
    for plane in Plane:
        data = PhantomData(
            1, 0.66, {plane: stored}, empty, np.zeros(0, bool), empty, np.zeros((0, 3), np.float32), origin
        )
        pool = SectionPool([data])
        for other in Plane:  # all draws come from the one plane that holds something
            pool.empty[other] = pool.empty[plane]
        pool.phantoms[0].planes.update(dict.fromkeys(Plane, stored))
        flipped[plane] = _seen_upside_down(pool, plane)
    assert flipped == {Plane.TRANSVERSE: False, Plane.SAGITTAL: False, Plane.CORONAL: True}


def _seen_upside_down(pool, plane):
    class OnePlane(np.random.Generator):
        def integers(self, low, *args, **kwargs):
            value = super().integers(low, *args, **kwargs)
            return list(Plane).index(plane) if low == 3 else value

    rng = OnePlane(np.random.PCG64(0))
    crops = [pool.draw(rng, 32, RECIPE)[0] for _ in range(40)]
    return any(float(c[-1].mean()) > float(c[0].mean()) for c in crops)


def test_one_step_and_validation(task):
    model = task.model
    task.train_mode(model)
    optimizer = task.optimizer()
    before = [p.detach().clone() for p in model.parameters()]
    loss = task.loss(model, task.batch(np.random.default_rng(0), 0.1))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) > 0.9 * len(before)
    with torch.inference_mode():
        scores = task.validate(model.eval())
    expected = {"dice_transverse", "dice_sagittal", "dice_coronal", "false_alarms", "dice_pictures"}
    assert set(scores) == expected
    assert all(0 <= v <= 1 for v in scores.values())


def test_record_says_how_pictures_are_seen(task):
    assert task.record() == {"start": "random", "resize_rule": "longer side 64 pixels, aspect kept, zeros after"}


def test_without_busbra_all_crops_are_phantoms(phantoms):
    task = SegmenterTask(RECIPE, phantoms[:-1], phantoms[-1:], None)
    assert task.batch(np.random.default_rng(0), 0.1)["pixels"].shape == (4, 1, 32, 32)
    assert task.record() == {"start": "random"}


def test_loss_is_small_only_for_the_truth():
    target = torch.zeros(2, 1, 16, 16)
    target[0, 0, 4:9, 4:9] = 1
    right, wrong = (2 * target - 1) * 12, (1 - 2 * target) * 12
    assert segmentation_loss(right, target, 0.1) < 0.01
    assert segmentation_loss(wrong, target, 0.1) > 10
    missed = segmentation_loss(torch.full_like(target, -12), target, 0.1)
    alarm = right.clone()
    alarm[1, 0, 4:9, 4:9] = 12
    false_alarm = segmentation_loss(alarm, target, 0.1)
    assert missed > 1
    assert false_alarm > 1


def test_loss_of_empty_images_is_finite():
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros(2, 1, 8, 8), 0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_section_probability_keeps_the_shape(task):
    with torch.inference_mode():
        found = section_probability(task.model.eval(), np.zeros((33, 70), np.uint8))
    assert found.shape == (33, 70)
    assert 0 <= found.min() <= found.max() <= 1


def test_without_volumes_all_crops_are_pictures(tiny_busbra):
    split = split_busbra(read_busbra(tiny_busbra), validation_images=2)
    task = SegmenterTask(RECIPE, [], [], split)
    batch = task.batch(np.random.default_rng(0), 0.9)
    for pixels, mask in zip(batch["pixels"].float(), batch["mask"].bool(), strict=True):
        assert pixels[mask].mean() > pixels[~mask].mean() + 50  # bright lesions: BUS-BRA stubs
    with torch.inference_mode():
        assert set(task.validate(task.model.eval())) == {"dice_pictures"}


def test_without_anything_there_is_nothing_to_train_on():
    with pytest.raises(TrainingDataError, match="nothing to train on"):
        SegmenterTask(RECIPE, [], [], None)
