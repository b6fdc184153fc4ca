"""What a training may start from: the same network of an earlier training, or a fusion's planes, by their records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn

from scanside.errors import CheckpointError, UsageError
from scanside.models.backbones import StrideAt
from scanside.models.fusion import PLANES_OF
from scanside.models.weights import put, read_tensors, weight_files, weights_sha256
from scanside.training.errors import LeakError
from scanside.training.recipe import ClassifierRecipe
from scanside.training.split import TRAIN

KEEP = "keep the two files that a training leaves together"
RANDOM, IMAGENET, SINGLE_PLANES = "random", "imagenet", "single planes"
"""Starts in a record: no weights, ImageNet's, and for a fusion its planes' networks."""
OTHERS = "`scanside pack create` takes weights of other trainings"


def training_record(weights: Path) -> dict[str, Any]:
    """The record that a training left beside `weights`.

    Raises
    ------
    CheckpointError
        There is none, it is damaged, or it is of no training of this package.
    """
    file = weights.with_suffix(".json")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            "no record beside the weights",
            where=weights,
            expected=file.name,
            found="none",
            remedy=f"{KEEP}. {OTHERS}",
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError("the record cannot be read", where=file, found=str(error).splitlines()[0]) from None
    if not is_training_record(record):
        raise CheckpointError(
            "the record is of no training of this package",
            where=file,
            expected="objects named recipe, data and validation",
            remedy=OTHERS,
        )
    return record


def is_training_record(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether parsed JSON has the parts of a training's record."""
    return isinstance(content, dict) and all(isinstance(content.get(k), dict) for k in ("recipe", "data", "validation"))


def require_start(weights: Path, starts: Sequence[str | Path], *, imagenet: bool = False) -> None:
    """Raise unless the training that left `weights` started from `starts`, from ImageNet weights, or from neither.

    Raises
    ------
    UsageError
        It had another start.
    CheckpointError
        Its record is damaged.
    """
    data = training_record(weights)["data"]
    start = data.get("start", IMAGENET if imagenet else RANDOM)
    files = set((data.get("start_files") or {}).values())
    if files != {weights_sha256(Path(start)) for start in starts} or imagenet != (start == IMAGENET):
        raise another_start(weights, data)


def another_start(where: Path, data: Mapping[str, Any]) -> UsageError:
    """The one error for a training that is continued from another start than it had, by its record's `data`."""
    files = data.get("start_files") or {}
    found = ", ".join(f"{network} {sha256[:12]}" for network, sha256 in files.items())
    return UsageError(
        "this training had another start",
        where=where,
        found=found or f"{data.get('start', RANDOM)} weights",
        remedy="use another --out, or the same start",
    )


def two_starts() -> UsageError:
    """The one error for a classifier that is given ImageNet weights and trained planes."""
    return UsageError("two starts", expected="ImageNet weights or trained planes", found="both")


def trained_stride(data: Mapping[str, Any]) -> StrideAt:
    """Where a network strides by its training's record; those of views did not state it at first."""
    started = "1x1" if data.get("start") in (IMAGENET, "single view") else "3x3"
    return data.get("stride_at") or started  # type: ignore[return-value]


def start_record(weights: Path, task: str) -> dict[str, Any]:
    """The record of trained weights that a training of `task`, "segmenter" or "classifier", starts from.

    Raises
    ------
    CheckpointError
        The weights or the record are absent, or the record is damaged.
    UsageError
        They are another network's.
    """
    if not weight_files(weights):
        found = "a folder" if weights.is_dir() else "nothing"
        raise CheckpointError("no weights to start from", where=weights, expected=f"a {task}.safetensors", found=found)
    record = training_record(weights)
    if record.get("task") != task:
        raise UsageError("the start is another network", where=weights, expected=task, found=record.get("task"))
    return record


@dataclass(frozen=True)
class TrainedStart:
    """A trained network to start from; `seen` are the patients that trained it or its own starts, by data set."""

    weights: Path
    sha256: str
    record: Mapping[str, Any]
    seen: Mapping[str, Sequence[str]]

    @property
    def stride_at(self) -> StrideAt:
        """Where a classifier strides."""
        return trained_stride(self.record["data"])

    def give(self, model: nn.Module) -> None:
        """Put the weights into `model`.

        Raises
        ------
        CheckpointError
            They are damaged or another network's.
        """
        network = f"the {self.record['task']}"
        put(model, read_tensors(self.weights), where=self.weights, network=network, remedy=KEEP)


def read_start(file: str | Path, task: str, data_sets: Mapping[str, Mapping[str, Sequence[str]]]) -> TrainedStart:
    """The network in `file`, for a training of `task` on `data_sets`: patients by part by data set.

    The record beside the weights is believed. Patients are the same when their data set's name and their own are.

    Raises
    ------
    LeakError
        A patient of a part that does not train here trained it.
    UsageError
        It is another network than `task`, "segmenter" or "classifier".
    CheckpointError
        The weights or the record are absent, or the record is damaged.
    """
    weights = Path(file)
    record = start_record(weights, task)
    seen = _seen(record["data"], weights.with_suffix(".json"))
    for name, parts in data_sets.items():
        kept_out = {patient for part, patients in parts.items() if part != TRAIN for patient in patients}
        if known := len(kept_out & seen.get(name, set())):
            raise LeakError(
                "the start was trained on patients that are kept out here",
                where=weights,
                expected="none",
                found=f"{known} of {name}",
                remedy="start from weights that never saw them",
            )
    return TrainedStart(weights, weights_sha256(weights), record, {name: sorted(who) for name, who in seen.items()})


def _seen(data: Mapping[str, Any], record: Path) -> dict[str, set[str]]:
    """Everybody who trained the weights of a record or their starts, by data set."""
    own: Any = data.get("data_sets")
    before: Any = data.get("start_seen", {})
    whole = isinstance(own, dict) and isinstance(before, dict) and all(map(_is_patients, [*own.values(), before]))
    same_split = data.get("start") == SINGLE_PLANES  # their records said no more at first
    if not whole or (("start_files" in data) != ("start_seen" in data) and not same_split):
        raise CheckpointError(
            "the record does not say who trained the weights",
            where=record,
            expected="data_sets, and start_seen where there was a start: lists of patients",
            remedy=KEEP,
        )
    seen = {name: set(patients) for name, patients in before.items()}
    for name, parts in own.items():
        seen.setdefault(name, set()).update(parts.get(TRAIN, ()))
    return {name: patients for name, patients in seen.items() if patients}


def _is_patients(value: object) -> bool:
    """Whether this is lists of patients by name."""
    return isinstance(value, dict) and all(
        isinstance(patients, list) and all(isinstance(patient, str) for patient in patients)
        for patients in value.values()
    )


def started(starts: Mapping[str, TrainedStart]) -> dict[str, Any]:
    """What a record says of the networks that a training started from, by name; nothing where it had none.

    Their files, everybody who trained any of them, and, where their own records say it alike, what the first weights
    of all were.
    """
    if not starts:
        return {}
    names = dict.fromkeys(name for start in starts.values() for name in start.seen)
    seen = {name: sorted({who for start in starts.values() for who in start.seen.get(name, ())}) for name in names}
    data = [start.record["data"] for start in starts.values()]
    first = {own.get("first_start", own.get("start", RANDOM)) for own in data}
    return {
        "start_files": {name: start.sha256 for name, start in starts.items()},
        "start_seen": seen,
        **({"first_start": first.pop()} if first in ({RANDOM}, {IMAGENET}) else {}),
    }


def read_classifier_start(
    files: Sequence[str | Path], recipe: ClassifierRecipe, data_sets: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, TrainedStart]:
    """The trained classifiers in `files`: one of the recipe's variant as "classifier", or each plane's by its name.

    Raises
    ------
    UsageError
        They are neither one of the recipe's variant nor one for each plane of its fusion; they have another backbone,
        or do not stride at one place; or planes were trained on another split.
    LeakError
        A patient of a part that does not train here trained one.
    CheckpointError
        Weights or a record are absent, or a record is damaged.
    """
    starts = [read_start(file, "classifier", data_sets) for file in files]
    for start in starts:
        found = start.record["recipe"].get("backbone")
        if found != recipe.backbone:
            raise UsageError(
                "the start has another backbone", where=start.weights, expected=recipe.backbone, found=found
            )
    variants = [str(start.record["recipe"].get("variant")) for start in starts]
    if variants == [recipe.variant]:
        return {"classifier": starts[0]}
    planes = PLANES_OF[recipe.variant]
    if len(planes) == 1:
        raise UsageError(
            f"a {recipe.variant} network starts from one of its own kind",
            expected=f"one {recipe.variant}",
            found=", ".join(variants),
        )
    for start in starts:
        if start.record["data"].get("data_sets") != data_sets:
            raise UsageError(
                "the start was trained on another split",
                where=start.weights,
                expected="the same data sets, each case with the same use",
                remedy="train the planes on this split",
            )
    if sorted(planes) != sorted(variants) or len({start.stride_at for start in starts}) > 1:
        strides = " and ".join(sorted({start.stride_at for start in starts}))
        raise UsageError(
            f"these networks do not make a {recipe.variant}",
            expected=f"a {recipe.variant}, or one network for each of {', '.join(sorted(planes))}, striding alike",
            found=f"{', '.join(sorted(variants))}, striding at {strides}",
        )
    return dict(zip(variants, starts, strict=True))


def give_branch(start: TrainedStart, plane: str, branch: nn.Module) -> None:
    """Put the branch of a single-plane network into `branch`.

    Raises
    ------
    CheckpointError
        The weights are damaged or another network's.
    """
    prefix = f"branches.{plane}."
    tensors = {
        name.removeprefix(prefix): t for name, t in read_tensors(start.weights).items() if name.startswith(prefix)
    }
    put(branch, tensors, where=start.weights, network=f"the {plane} branch", remedy=KEEP)
