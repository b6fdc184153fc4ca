"""A recipe, data and a folder: everything between the command line and a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scanside.errors import UsageError
from scanside.exam.planes import Plane
from scanside.training.checkpoint import load_weights
from scanside.training.classify import ClassifierTask
from scanside.training.datasets import DataSet, open_data
from scanside.training.datasets.open import VALIDATION_IMAGES
from scanside.training.loop import Arithmetic, OnProgress, Progress, finished_weights, train
from scanside.training.predictions import lesion_predictions, write_predictions
from scanside.training.recipe import ClassifierRecipe, Recipe, SegmenterRecipe, load_recipe, trained_by
from scanside.training.segment import SegmenterTask
from scanside.training.sources import PictureSplit, SplitData
from scanside.training.split import TRAIN, VALIDATION
from scanside.training.start import require_start, start_record, two_starts


def train_recipe(
    name: str | Path,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    imagenet: str | Path | None = None,
    start: Sequence[str | Path] = (),
    workers: int = 2,
    progress: OnProgress | None = None,
    **overrides: Any,
) -> Path:
    """Train (or continue) what the recipe `name` trains on the data sets `data`; returns the weights' path.

    ``OUT/<network>.split.csv`` lists who trains, validates and is kept out; a classifier also leaves
    ``OUT/classifier.predictions.csv`` for all but the training part.

    Parameters
    ----------
    data : paths
        Folders of data sets, see `scanside.training.datasets.open_data`; volumes are cut below ``OUT/volumes``.
    imagenet : path, optional
        Folder of ResNet50 weights for the classifier's start.
    start : paths, optional
        Trained weights to start from, each with the record that its training left beside it: the same network, or for
        a fusion the network of each of its planes.
    workers : int
        Processes that cut volumes.
    overrides
        Keys of the recipe: `seed`, `steps`, `minutes`.

    Raises
    ------
    UsageError
        The recipe, or another recipe's run in `out`.
    TrainingDataError, CheckpointError
        The data, a checkpoint in `out`, or a start's weights or record are unusable.
    LeakError
        A start was trained on patients that are kept out here.
    """
    kind = trained_by(name)
    for file in start:
        start_record(Path(file), kind)
    if kind == "segmenter":
        if imagenet is not None:
            raise UsageError("the segmenter starts from no ImageNet weights", found=imagenet)
        if len(start) > 1:
            raise UsageError("several starts", expected="one trained segmenter", found=", ".join(map(str, start)))
        recipe = load_recipe(name, SegmenterRecipe, **overrides)
        sets = _opened(data, Path(out), recipe.validation_images, workers, progress)
        return train_segmenter(recipe, sets, out, start=start[0] if start else None, progress=progress)
    if imagenet is not None and start:
        raise two_starts()
    classifier = load_recipe(name, ClassifierRecipe, **overrides)
    sets = _opened(data, Path(out), VALIDATION_IMAGES, workers, progress)
    return train_classifier(classifier, sets, out, imagenet=imagenet, start=start, progress=progress)


def train_segmenter(
    recipe: SegmenterRecipe,
    sets: Sequence[DataSet],
    out: str | Path,
    *,
    start: str | Path | None = None,
    arithmetic: Arithmetic | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Train (or continue) the segmenter; returns ``OUT/segmenter.safetensors``. See `scanside.training.loop.train`.

    `start` is a trained segmenter to start from; see `SegmenterTask`.
    """
    split_file = Path(out) / f"{SegmenterTask.name}.split.csv"
    split = _split(recipe, sets, split_file)
    finished = finished_weights(SegmenterTask.name, recipe, Path(out))
    if finished is not None:
        require_start(finished, [] if start is None else [start])
        return finished
    phantoms, held_out = (split.volumes(p, sections=tuple(Plane), triplets=False) for p in (TRAIN, VALIDATION))
    pictures = PictureSplit(split.pictures(TRAIN), split.pictures(VALIDATION))
    task = SegmenterTask(recipe, phantoms, held_out, pictures if pictures.train else None, split.record(), start=start)
    split.write(split_file)
    return train(task, recipe, out, arithmetic=arithmetic, progress=progress)


def train_classifier(
    recipe: ClassifierRecipe,
    sets: Sequence[DataSet],
    out: str | Path,
    *,
    imagenet: str | Path | None = None,
    start: Sequence[str | Path] = (),
    arithmetic: Arithmetic | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Train (or continue) the classifier; returns ``OUT/classifier.safetensors``. See `scanside.training.loop.train`.

    `start` is a trained classifier to start from, or a fusion's planes'; see `ClassifierTask`.

    Raises
    ------
    UsageError
        Pictures have one view, and the recipe's variant looks at several planes.
    """
    out = Path(out)
    split_file = out / f"{ClassifierTask.name}.split.csv"
    split = _split(recipe, sets, split_file)
    predictions = out / f"{ClassifierTask.name}.predictions.csv"
    finished = finished_weights(ClassifierTask.name, recipe, out)
    if finished is not None:
        require_start(finished, start, imagenet=imagenet is not None)
    if finished is not None and predictions.is_file():
        return finished
    lesions, held_out = (list(split.lesions(part)) for part in (TRAIN, VALIDATION))
    task = ClassifierTask(recipe, lesions, held_out, imagenet, split.record(), start=start)
    if any(s.pictures for s in sets) and len(task.planes) > 1:
        raise UsageError(
            "these pictures show one view of a lesion",
            where=", ".join(s.name for s in sets if s.pictures),
            expected='a recipe with variant = "transverse"',
            found=recipe.variant,
        )
    split.write(split_file)
    weights = train(task, recipe, out, arithmetic=arithmetic, progress=progress)
    if split.kept_out:
        load_weights(task.model, weights)
        write_predictions(predictions, predict_parts(task.model.eval(), split, recipe))
    return weights


def predict_parts(model: torch.nn.Module, split: SplitData, recipe: ClassifierRecipe) -> list[dict[str, Any]]:
    """The predictions for every part that nothing was trained on, the part as `cohort`."""
    return [row for part in split.kept_out for row in lesion_predictions(model, split.lesions(part), recipe, part)]


def _opened(
    data: Sequence[str | Path],
    out: Path,
    validation_images: int,
    workers: int,
    progress: OnProgress | None,
) -> list[DataSet]:
    sets = []
    for folder in map(Path, data):

        def cut(done: int, total: int, stage: str = f"cut {folder.name}") -> None:
            if progress is not None:
                progress(Progress(stage, done, total))

        sets.append(
            open_data(folder, out / "volumes", validation_images=validation_images, workers=workers, progress=cut)
        )
    return sets


def _split(recipe: Recipe, sets: Sequence[DataSet], file: Path) -> SplitData:
    """The split, refused where `file` holds another; it is written only when nothing can be refused any more."""
    if not sets:
        raise UsageError("no data", expected="at least one --data DIR")
    split = SplitData.of(sets, recipe)
    split.require_same(file)
    return split
