from __future__ import annotations

import pytest

from scanside.errors import UsageError
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe, load_recipe, recipe_from, trained_by


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("segmenter", SegmenterRecipe),
        ("classifier", ClassifierRecipe),
        ("paper", ClassifierRecipe),
        ("tables", ClassifierRecipe),
    ],
)
def test_shipped_recipes_load(name, kind):
    recipe = load_recipe(name, kind, seed=7)
    assert recipe.seed == 7
    assert (recipe.steps is None) != (recipe.minutes is None)


def test_unknown_key_is_refused_and_named(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("steps = 3\nlerning_rate = 0.1\n")
    with pytest.raises(UsageError, match="lerning_rate") as caught:
        load_recipe(file, SegmenterRecipe)
    assert "peak_lr" in str(caught.value)


def test_a_new_budget_replaces_the_other():
    recipe = load_recipe("segmenter", SegmenterRecipe, steps=5)
    assert (recipe.steps, recipe.minutes) == (5, None)
    recipe = load_recipe("segmenter", SegmenterRecipe, minutes=0.5)
    assert (recipe.steps, recipe.minutes) == (None, 0.5)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"steps": 3, "minutes": 1.0},
        {"steps": 0},
        {"steps": "3"},
        {"steps": True},
        {"steps": 3, "busbra_scale": [0.5, "a"]},
        {"steps": 3, "crop_sizes": [96, 100], "crop_until": [0.5, 1.0]},
        {"steps": 3, "crop_sizes": [96, 128], "crop_until": [1.0]},
    ],
)
def test_bad_values_are_refused(values):
    with pytest.raises(UsageError):
        recipe_from(values, SegmenterRecipe, where="test")


def test_no_such_recipe_lists_the_known_ones():
    with pytest.raises(UsageError, match="classifier, paper, segmenter"):
        load_recipe("segmentor", SegmenterRecipe)


def test_no_toml(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("steps = = 3")
    with pytest.raises(UsageError, match="no TOML"):
        load_recipe(file, SegmenterRecipe)


def test_crop_sizes_follow_the_budget():
    recipe = recipe_from(
        {"steps": 10, "crop_sizes": [64, 96, 128], "crop_until": [0.2, 0.5, 1.0]}, SegmenterRecipe, where="test"
    )
    assert [recipe.crop_size(f) for f in (0.0, 0.19, 0.2, 0.49, 0.5, 1.0)] == [64, 64, 96, 96, 128, 128]


def test_the_paper_s_recipe_is_the_paper_s():
    """Methods: SGD with momentum, learning rate 0.001, batch size 64; one tenth to test, the rest 8 : 2."""
    recipe = load_recipe("paper", ClassifierRecipe)
    assert recipe.batch * recipe.accumulate == 64
    assert (recipe.peak_lr, recipe.warmup, recipe.final_lr) == (1e-3, 0.0, 1.0)
    assert (recipe.test_fraction, recipe.validation_fraction) == (0.1, 0.2)
    assert recipe.momentum > 0
    assert (recipe.backbone, recipe.variant) == ("resnet50", "fusion2")


def test_a_recipe_says_what_it_trains(tmp_path):
    assert trained_by("paper") == "classifier"
    assert trained_by("segmenter") == "segmenter"
    with pytest.raises(UsageError, match="trains something else"):
        load_recipe("segmenter", ClassifierRecipe)
    file = tmp_path / "mine.toml"
    file.write_text('trains = "oracle"\nsteps = 1\n')
    with pytest.raises(UsageError, match=r"segmenter \| classifier, found oracle"):
        trained_by(file)


@pytest.mark.parametrize("values", [{"accumulate": 0}, {"validation_fraction": 1.0}, {"test_fraction": -0.1}])
def test_bad_common_values_are_refused(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        recipe_from({"steps": 3, **values}, ClassifierRecipe, where="test")
