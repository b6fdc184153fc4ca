"""Recipes: every choice of a training run that is not its data, as small TOML files beside this module."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from scanside.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """What every run states.

    Exactly one of `steps` and `minutes` is the budget; the learning-rate cycle is stretched over it and ends at
    `final_lr` times `peak_lr` (1 with no `warmup` is a constant rate). `minutes` counts training time, across
    interruptions. A step takes the mean gradient of `accumulate` batches of `batch` items. `checkpoint_s` is the
    longest time between two checkpoints; `validate_at` are fractions of the budget.

    A data set that assigns its cases to parts is split so. Of any other, `test_fraction` of the patients is the test
    part, whatever the seed, and `validation_fraction` of the rest validates; of whole phantoms the last
    `validation_phantoms` by seed validate instead, unless that is 0. See `scanside.training.split`.
    """

    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    accumulate: int = 1
    peak_lr: float = 1e-3
    warmup: float = 0.1
    final_lr: float = 1e-2
    weight_decay: float = 0.0
    ema_decay: float = 0.99
    recalibration_batches: int = 32
    checkpoint_s: float = 120.0
    validate_at: tuple[float, ...] = (0.5, 1.0)
    validation_phantoms: int = 4
    validation_fraction: float = 0.1
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError(
                "a recipe needs one budget",
                expected="either steps or minutes",
                found=f"steps={self.steps}, minutes={self.minutes}",
            )
        for name in ("steps", "minutes", "batch", "accumulate", "peak_lr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} of a recipe must be positive", found=value)
        for name in ("validation_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} of a recipe is no part", expected="0 to 1", found=getattr(self, name))


@dataclass(frozen=True)
class SegmenterRecipe(Recipe):
    """Recipe of the segmenter.

    Crops are squares of `crop_sizes[i]` pixels until the fraction `crop_until[i]` of the budget. `busbra_fraction` of
    a batch are BUS-BRA images, the rest phantom sections, of which `lesion_fraction` show a lesion. Phantom sections
    are seen at their pitch times a factor in `phantom_scale`, BUS-BRA images with their longer side at
    `busbra_longer_side` pixels times a factor in `busbra_scale`.
    """

    crop_sizes: tuple[int, ...] = (128,)
    crop_until: tuple[float, ...] = (1.0,)
    busbra_fraction: float = 0.375
    lesion_fraction: float = 0.65
    phantom_scale: tuple[float, float] = (0.85, 1.2)
    busbra_longer_side: int = 160
    busbra_scale: tuple[float, float] = (0.65, 1.15)
    hard_pixels: float = 0.1
    validation_images: int = 48
    validation_sections: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.crop_sizes) != len(self.crop_until) or self.crop_until[-1] != 1.0:
            raise UsageError(
                "crop_sizes and crop_until do not match",
                expected="one fraction a size, the last 1.0",
                found=f"{list(self.crop_sizes)}, {list(self.crop_until)}",
            )
        if any(size % 32 for size in self.crop_sizes):
            raise UsageError("crop_sizes must be multiples of 32", found=list(self.crop_sizes))

    def crop_size(self, fraction: float) -> int:
        """Side of the crops in pixels when `fraction` of the budget is spent."""
        for size, until in zip(self.crop_sizes, self.crop_until, strict=True):
            if fraction < until:
                return size
        return self.crop_sizes[-1]


@dataclass(frozen=True)
class SgdRecipe(Recipe):
    """What the classifiers share.

    `size` is the network's crop in pixels; a crop's side is the lesion's longer side times a margin drawn from
    `margins` (deployed: `margin`), moved by up to `shift` of itself. `fresh_lr_scale` multiplies the learning rate of
    the parts that start from random weights.
    """

    backbone: str = "resnet50"
    variant: str = "fusion2"
    size: int = 112
    margin: float = 1.35
    margins: tuple[float, float] = (1.2, 1.5)
    shift: float = 0.08
    label_smoothing: float = 0.05
    momentum: float = 0.9
    fresh_lr_scale: float = 3.0


@dataclass(frozen=True)
class ClassifierRecipe(SgdRecipe):
    """Recipe of the three-plane classifier.

    `frozen` names the parts of each branch that keep the weights and statistics they start from (ignored where those
    are random); `frames` is the number of triplets a lesion.
    """

    frozen: tuple[str, ...] = ()
    frames: int = 8


@dataclass(frozen=True)
class ViewsRecipe(SgdRecipe):
    """Recipe of the classifiers of BUS-BRA's views: also turned by up to `turn_degrees` either way."""

    turn_degrees: float = 10.0
    validation_images: int = 48


RECIPES: dict[str, type[Recipe]] = {"segmenter": SegmenterRecipe, "classifier": ClassifierRecipe}
"""What a recipe's `trains` may name."""

R = TypeVar("R", bound=Recipe)


def trained_by(name: str | Path) -> str:
    """What the recipe `name` trains, "segmenter" or "classifier": its key `trains`.

    Raises
    ------
    UsageError
        No such recipe, no TOML, or it does not say.
    """
    found = _values(name).get("trains")
    if found not in RECIPES:
        raise UsageError(
            "the recipe does not say what it trains",
            where=name,
            expected=f"trains = {' | '.join(RECIPES)}",
            found=found,
        )
    return str(found)


def load_recipe(name: str | Path, kind: type[R], **overrides: Any) -> R:
    """The recipe `name`: one of the package's ("segmenter", "classifier", "paper", "tables"), or a path to a TOML file.

    `overrides` replace keys of the file; None leaves the file's value. A new `steps` also replaces the file's
    `minutes`, and the other way round.

    Raises
    ------
    UsageError
        No such recipe, no TOML, an unknown key, a value of the wrong kind, two budgets, or a recipe that trains
        something else than `kind`.
    """
    values = _values(name)
    trains = values.pop("trains", None)
    if trains is not None and RECIPES.get(trains) is not kind:
        raise UsageError("the recipe trains something else", where=name, expected=kind.__name__, found=trains)
    given = {key: value for key, value in overrides.items() if value is not None}
    if "steps" in given:
        values.pop("minutes", None)
    if "minutes" in given:
        values.pop("steps", None)
    return recipe_from(values | given, kind, where=str(name))


def _values(name: str | Path) -> dict[str, Any]:
    folder = resources.files("scanside.training") / "recipes"
    path = Path(name)
    file = path if path.suffix == ".toml" else folder / f"{name}.toml"
    if not file.is_file():
        known = ", ".join(sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml")))
        raise UsageError("no such recipe", where=name, expected=f"{known}, or the path of a .toml file")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("the recipe is no TOML", where=name, found=error) from None
    return values


def recipe_from(values: dict[str, Any], kind: type[R], *, where: str) -> R:
    """A recipe from plain values; unknown keys and wrong types are refused (`UsageError`)."""
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError("unknown key in a recipe", where=where, expected=", ".join(known), found=", ".join(unknown))
    checked = {key: _checked(value, str(known[key].type), key, where) for key, value in values.items()}
    return kind(**checked)


def _checked(value: Any, annotation: str, key: str, where: str) -> Any:
    if value is None and "None" in annotation:
        return None
    if annotation.startswith("tuple"):
        item = annotation.removeprefix("tuple[").split(",")[0].rstrip("]")
        if isinstance(value, list | tuple):
            return tuple(_checked(v, item, key, where) for v in value)
    elif annotation.startswith("int"):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif annotation.startswith("float"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif annotation == "str" and isinstance(value, str):
        return value
    raise UsageError(f"{key} of the recipe has the wrong kind", where=where, expected=annotation, found=repr(value))
