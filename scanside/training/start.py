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
from scanside.models.weights import put, read_tensors, weights_sha256
from scanside.training.errors import LeakError
from scanside.training.recipe import ClassifierRecipe
from scanside.training.split import TRAIN

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
            remedy=f"keep the two files that a training leaves together. {OTHERS}",
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
    found = training_record(weights)["data"].get("start_files", {})
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


def trained_stride(data: Mapping[str, Any]) -> StrideAt:
    """Where a network strides by its training's record; those of views did not state it at first."""
    started = "1x1" if data.get("start") in ("imagenet", "single view") else "3x3"
    return data.get("stride_at") or started  # type: ignore[return-value]


@dataclass(frozen=True)
class SegmenterStart:
    """A trained segmenter to start from; `seen` are the patients that trained it, by data set, its own start's too."""

    weights: Path
    sha256: str
    seen: Mapping[str, Sequence[str]]


def read_segmenter_start(file: str | Path, sources: Mapping[str, Any]) -> SegmenterStart:
    """The segmenter in `file`, by the record beside it, for a training on `sources` (`SplitData.record`).

    Raises
    ------
    LeakError
        It was trained on a patient that is kept out here.
    UsageError
        It is no segmenter.
    CheckpointError
        The record is absent or damaged.
    """
    weights = Path(file)
    record = training_record(weights)
    if record.get("task") != "segmenter":
        raise UsageError("the start is another network", where=weights, expected="segmenter", found=record.get("task"))
    data = record["data"]
    parts_of = data.get("data_sets")
    if not isinstance(parts_of, dict):
        raise CheckpointError("the record does not say who trained the weights", where=weights.with_suffix(".json"))
    seen = {
        name: [*parts.get(TRAIN, ()), *data.get("start_seen", {}).get(name, ())] for name, parts in parts_of.items()
    }
    seen = {name: sorted(patients) for name, patients in ({**data.get("start_seen", {}), **seen}).items()}
    for name, parts in sources.get("data_sets", {}).items():
        kept_out = {patient for part, patients in parts.items() if part != TRAIN for patient in patients}
        if known := sorted(kept_out & set(seen.get(name, ()))):
            raise LeakError(
                "the start was trained on patients that are kept out here",
                where=weights,
                found=f"{len(known)} of {name}, among them {known[0]}",
                remedy="start from weights that never saw them",
            )
    return SegmenterStart(weights, weights_sha256(weights), seen)


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
        put(branch, tensors, where=self.weights, network=f"the {self.plane} branch")


def read_donors(files: Sequence[str | Path], recipe: ClassifierRecipe, sources: Mapping[str, Any]) -> list[Donor]:
    """The single-plane networks in `files`, by the records beside them; none for no files.

    Raises
    ------
    UsageError
        They are not one for each plane of the recipe's variant, of its backbone and all striding at one place, or they
        were trained on another split, whose cases may be among those kept out here.
    CheckpointError
        A record is absent or damaged.
    """
    donors = []
    for file in map(Path, files):
        record = training_record(file)
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
