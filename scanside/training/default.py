"""From nothing to a model pack with one seed: cohort -> segmenter -> classifier -> pack."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scanside.training.cohort import STANDARD_PHANTOM, MakePhantom, build_cohort
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe, load_recipe

NAME, VERSION, LICENCE = "scanside-default", "0.2.0", "Apache-2.0"


def train_default(
    out: str | Path,
    *,
    busbra: str | Path,
    imagenet: str | Path | None = None,
    seed: int = 0,
    phantom_seeds: Iterable[int] = range(1000, 1096),
    lesions: tuple[int, int] = (2, 9),
    workers: int = 2,
    segmenter: SegmenterRecipe | None = None,
    classifier: ClassifierRecipe | None = None,
    make: MakePhantom = STANDARD_PHANTOM,
) -> Path:
    """Everything in order; returns the pack's folder ``OUT/pack``. Each part continues where a killed run stopped.

    The operating point is the shipped pack's, which `python -m benchmarks operating-point` chose.

    Parameters
    ----------
    busbra, imagenet : path
        Folders of BUS-BRA and of the ResNet50 start weights.
    phantom_seeds : iterable of int
        Never give a seed here that an evaluation uses.
    segmenter, classifier : recipes, optional
        The package's recipes with `seed`, when not given.
    """
    from scanside.pack_from_training import pack_from_training
    from scanside.training.datasets import open_data
    from scanside.training.run import train_classifier, train_segmenter

    out = Path(out)
    cohort = out / "cohort"
    build_cohort(cohort, phantom_seeds, workers=workers, lesions=lesions, make=make)
    segmenter = segmenter or load_recipe("segmenter", SegmenterRecipe, seed=seed)
    classifier = classifier or load_recipe("classifier", ClassifierRecipe, seed=seed)
    phantoms = open_data(cohort, out)
    pictures = open_data(busbra, out, validation_images=segmenter.validation_images)
    train_segmenter(segmenter, [phantoms, pictures], out)
    train_classifier(classifier, [phantoms], out, imagenet=imagenet)
    return pack_from_training(out, out / "pack", name=NAME, version=VERSION, licence=LICENCE)
