"""What a training may start from: a segmenter, or the planes' networks of a fusion, by their records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from scanside.errors import CheckpointError, UsageError
from scanside.models.backbones import StrideAt
from scanside.models.fusion import PLANES_OF
from scanside.models.weights import put, read_tensors, weight_files, weights_sha256
from scanside.training.errors import LeakError
from scanside.training.recipe import ClassifierRecipe
from scanside.training.split import TRAIN

KEEP = "keep the two files that a training leaves together"
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
    parts = [record.get(key) if isinstance(record, dict) else None for key in ("recipe", "data", "validation")]
    if not all(isinstance(part, dict) for part in parts):
        raise CheckpointError(
            "the record is of no training of this package",
            where=file,
            expected="objects named recipe, data and validation",
            remedy=OTHERS,
        )
    return record  # type: ignore[no-any-return]


def require_start(weights: Path, starts: Sequence[str | Path]) -> None:
    """Raise unless the training that left `weights` started from `starts`, or from none where there are none.

    Raises
    ------
    UsageError
        It had another start.
    CheckpointError
        Its record is damaged.
    """
    found = training_record(weights)["data"].get("start_files") or {}
    if set(found.values()) != {weights_sha256(Path(start)) for start in starts}:
        raise another_start(weights, found)


def another_start(where: Path, found: Mapping[str, str]) -> UsageError:
    """The one error for a training that is continued from another start than it had."""
    return UsageError(
        "this training had another start",
        where=where,
        found=", ".join(f"{network} {sha256[:12]}" for network, sha256 in found.items()) or "no trained weights",
        remedy="use another --out, or the same start",
    )


def two_starts() -> UsageError:
    """The one error for a classifier that is given ImageNet weights and trained planes."""
    return UsageError("two starts", expected="ImageNet weights or trained planes", found="both")


def trained_stride(data: Mapping[str, Any]) -> StrideAt:
    """Where a network strides by its training's record; those of views did not state it at first."""
    started = "1x1" if data.get("start") in ("imagenet", "single view") else "3x3"
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
class SegmenterStart:
    """A trained segmenter to start from; `seen` are the patients that trained it or its own starts, by data set."""

    weights: Path
    sha256: str
    seen: Mapping[str, Sequence[str]]

    def give(self, model: nn.Module) -> None:
        """Put the weights into `model`.

        Raises
        ------
        CheckpointError
            They are damaged or another network's.
        """
        put(model, read_tensors(self.weights), where=self.weights, network="the segmenter", remedy=KEEP)


def read_segmenter_start(file: str | Path, data_sets: Mapping[str, Mapping[str, Sequence[str]]]) -> SegmenterStart:
    """The segmenter in `file`, for a training on `data_sets`: patients by part by data set.

    The record beside the weights is believed. Patients are the same when their data set's name and their own are.

    Raises
    ------
    LeakError
        A patient of a part that does not train here trained it.
    UsageError
        It is no segmenter.
    CheckpointError
        The weights or the record are absent, or the record is damaged.
    """
    weights = Path(file)
    seen = _seen(start_record(weights, "segmenter")["data"], weights.with_suffix(".json"))
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
    return SegmenterStart(weights, weights_sha256(weights), {name: sorted(who) for name, who in seen.items()})


def _seen(data: Mapping[str, Any], record: Path) -> dict[str, set[str]]:
    """Everybody who trained the weights of a record or their starts, by data set."""
    own: Any = data.get("data_sets")
    before: Any = data.get("start_seen", {})
    whole = isinstance(own, dict) and isinstance(before, dict) and all(map(_is_patients, [*own.values(), before]))
    if not whole or ("start_files" in data) != ("start_seen" in data):
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


@dataclass(frozen=True)
class Donor:
    """A trained single-plane network whose branch another starts from; `sha256` is that of its weights' file."""

    weights: Path
    plane: str
    stride_at: StrideAt
    sha256: str

    def give(self, branch: nn.Module) -> None:
        """Put this network's branch into `branch`.

        Raises
        ------
        CheckpointError
            The weights are damaged or another network's.
        """
        prefix = f"branches.{self.plane}."
        tensors = {
            name.removeprefix(prefix): t for name, t in read_tensors(self.weights).items() if name.startswith(prefix)
        }
        put(branch, tensors, where=self.weights, network=f"the {self.plane} branch", remedy=KEEP)


def read_donors(files: Sequence[str | Path], recipe: ClassifierRecipe, sources: Mapping[str, Any]) -> list[Donor]:
    """The single-plane networks in `files`, by the records beside them; none for no files.

    Raises
    ------
    UsageError
        The recipe's variant is no fusion; they are not one for each of its planes, of its backbone and all striding at
        one place; or they were trained on another split, whose cases may be among those kept out here.
    CheckpointError
        Weights or a record are absent, or a record is damaged.
    """
    if files and len(PLANES_OF[recipe.variant]) == 1:
        raise UsageError(
            "only a fusion starts from trained planes", expected="fusion1 or fusion2", found=recipe.variant
        )
    donors = []
    for file in map(Path, files):
        record = start_record(file, "classifier")
        data = record["data"]
        if record["recipe"].get("backbone") != recipe.backbone:
            expected, found = recipe.backbone, record["recipe"].get("backbone")
            raise UsageError("the start has another backbone", where=file, expected=expected, found=found)
        if data.get("data_sets") != sources.get("data_sets"):
            raise UsageError(
                "the start was trained on another split",
                where=file,
                expected="the same data sets, each case with the same use",
                remedy="train the planes on this split: of another, cases that are kept out here may have trained them",
            )
        donors.append(Donor(file, str(record["recipe"].get("variant")), trained_stride(data), weights_sha256(file)))
    wanted, found = sorted(PLANES_OF[recipe.variant]), sorted(donor.plane for donor in donors)
    if donors and (wanted != found or len({donor.stride_at for donor in donors}) > 1):
        strides = " and ".join(sorted({donor.stride_at for donor in donors}))
        raise UsageError(
            f"these networks do not make a {recipe.variant}",
            expected=f"one trained network for each of {', '.join(wanted)}, striding alike",
            found=f"{', '.join(found)}, striding at {strides}",
        )
    return donors
