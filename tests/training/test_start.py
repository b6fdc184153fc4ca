"""What a training starts from: a fusion from its planes' networks, a segmenter from another, or from nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scanside.errors import CheckpointError, UsageError
from scanside.models.unet import build_segmenter
from scanside.models.weights import read_tensors
from scanside.training.classify import ClassifierTask
from scanside.training.datasets import open_data
from scanside.training.datasets.open import open_busbra
from scanside.training.errors import LeakError
from scanside.training.loop import _Run
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe
from scanside.training.run import train_classifier, train_recipe, train_segmenter
from scanside.training.start import read_start

RECIPE = ClassifierRecipe(
    steps=1, batch=2, size=32, recalibration_batches=0, validation_phantoms=1, frames=2, frozen=("conv1",)
)
SEGMENTER = SegmenterRecipe(
    steps=1, batch=2, crop_sizes=(32,), busbra_longer_side=32, recalibration_batches=0, validation_phantoms=1
)
PLANES = ("transverse", "sagittal", "coronal")


@pytest.fixture(scope="module")
def planes(stub_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained network for each plane."""
    runs = tmp_path_factory.mktemp("planes")
    sets = [open_data(stub_cohort, runs)]
    return {plane: train_classifier(replace(RECIPE, variant=plane), sets, runs / plane) for plane in PLANES}


def test_a_fusion_starts_from_its_planes_and_its_head_is_new(
    planes: dict[str, Path], stub_cohort: Path, tmp_path: Path
) -> None:
    record = json.loads(planes["transverse"].with_suffix(".json").read_text())
    sources = {"data_sets": record["data"]["data_sets"]}
    phantoms = _phantoms(stub_cohort)
    task = ClassifierTask(RECIPE, phantoms, [], None, sources, start=list(planes.values()))
    started = task.model.state_dict()
    for plane, weights in planes.items():
        own = {k: v for k, v in read_tensors(weights).items() if k.startswith("branches.")}
        assert own
        assert all(torch.equal(started[name], tensor) for name, tensor in own.items())
        assert task.record()["start_files"][plane] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert task.record()["start"] == "single planes"
    assert task.frozen == tuple(f"branches.{plane}.conv1" for plane in PLANES)
    names = {id(p): n for n, p in task.model.named_parameters()}
    fast = {names[id(p)] for g in task.optimizer().param_groups if g["scale"] > 1 for p in g["params"]}
    assert {name.partition(".")[0] for name in fast} == {"halve", "classify"}
    weights = train_classifier(
        replace(RECIPE, variant="fusion1"),
        [open_data(stub_cohort, tmp_path)],
        tmp_path / "run",
        start=[planes["sagittal"], planes["transverse"]],
    )
    assert json.loads(weights.with_suffix(".json").read_text())["data"]["start"] == "single planes"


@pytest.mark.parametrize("variant", ["fusion2", "sagittal"])
def test_a_classifier_starts_from_another_and_nothing_of_it_is_new(
    variant: str, planes: dict[str, Path], stub_cohort: Path, tmp_path: Path
) -> None:
    recipe, sets = replace(RECIPE, variant=variant, peak_lr=1e-30), [open_data(stub_cohort, tmp_path)]
    first = planes["sagittal"]
    if variant == "fusion2":
        first = train_classifier(recipe, sets, tmp_path / "first", start=list(planes.values()))
    weights = train_classifier(recipe, sets, tmp_path / "run", start=[first])
    before, after = read_tensors(first), read_tensors(weights)
    parameters = [name for name in after if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-20) for name in parameters)
    data = _data_of(weights)
    assert data["start"] == "trained classifier"
    assert data["start_files"] == {"classifier": hashlib.sha256(first.read_bytes()).hexdigest()}
    assert data["start_seen"] == {"phantom": sorted(_data_of(first)["data_sets"]["phantom"]["train"])}
    assert data["first_start"] == "random"
    task = ClassifierTask(recipe, _phantoms(stub_cohort), [], None, data, start=[first])
    assert {group["scale"] for group in task.optimizer().param_groups} == {1.0}


def test_a_classifier_that_saw_who_is_kept_out_is_no_start(
    planes: dict[str, Path], stub_cohort: Path, tmp_path: Path
) -> None:
    sets = [open_data(stub_cohort, tmp_path)]
    known = _data_of(planes["sagittal"])["data_sets"]["phantom"]["validation"]

    def saw(record: dict[str, Any]) -> None:
        record["data"] |= {"start_files": {"classifier": "0"}, "start_seen": {"phantom": known}}

    leaked = _changed(planes["sagittal"], tmp_path, saw)
    for variant, start in (
        ("sagittal", [leaked]),
        ("fusion2", [planes["transverse"], leaked, planes["coronal"]]),
    ):
        with pytest.raises(LeakError, match="kept out here; expected none, found 1 of phantom"):
            train_classifier(replace(RECIPE, variant=variant), sets, tmp_path / "leak", start=start)
    assert not (tmp_path / "leak").exists()


@contextmanager
def _broken_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training inside ends with its first checkpoint."""
    save, saved = _Run.save, []

    def dies(run: _Run) -> None:
        save(run)
        saved.append(run)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            yield
    assert len(saved) == 1


def test_a_training_goes_on_from_the_start_it_had(
    planes: dict[str, Path], stub_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, sets = replace(RECIPE, variant="fusion1", steps=2, checkpoint_s=0.0), [open_data(stub_cohort, tmp_path)]
    two = [planes["transverse"], planes["sagittal"]]
    with _broken_off(monkeypatch):
        train_classifier(recipe, sets, tmp_path / "run", start=two)
    with pytest.raises(UsageError, match=r"checkpoint\.pt: this training had another start; found transverse"):
        train_classifier(recipe, sets, tmp_path / "run")
    train_classifier(recipe, sets, tmp_path / "run", start=two)
    with pytest.raises(UsageError, match=r"classifier\.safetensors: this training had another start; found trans"):
        train_classifier(recipe, sets, tmp_path / "run")


def test_a_training_from_random_weights_does_not_go_on_as_one_from_imagenet(
    stub_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plane's training, broken off and then finished."""
    recipe, sets = replace(RECIPE, steps=2, checkpoint_s=0.0), [open_data(stub_cohort, tmp_path)]
    monkeypatch.setattr("scanside.training.classify.imagenet_start", lambda model, folder: [])
    with _broken_off(monkeypatch):
        train_classifier(recipe, sets, tmp_path / "run")
    refused = "this training had another start; found random weights"
    with pytest.raises(UsageError, match=rf"checkpoint\.pt: {refused}"):
        train_classifier(recipe, sets, tmp_path / "run", imagenet=tmp_path)
    train_classifier(recipe, sets, tmp_path / "run")
    with pytest.raises(UsageError, match=rf"classifier\.safetensors: {refused}"):
        train_classifier(recipe, sets, tmp_path / "run", imagenet=tmp_path)


def test_two_starts_at_once_are_refused(planes: dict[str, Path], stub_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two starts"):
        ClassifierTask(RECIPE, _phantoms(stub_cohort), [], tmp_path, start=list(planes.values()))


def _phantoms(stub_cohort: Path) -> list[Any]:
    from scanside.training.cohort_data import cohort_files, read_phantom

    return [read_phantom(file, sections=()) for file in cohort_files(stub_cohort).values()]


def other_split(record: dict[str, Any]) -> None:
    parts = record["data"]["data_sets"]["phantom"]
    parts["test"] = [parts["train"].pop()]


def other_backbone(record: dict[str, Any]) -> None:
    record["recipe"]["backbone"] = "resnet101"


def other_stride(record: dict[str, Any]) -> None:
    record["data"]["stride_at"] = "1x1"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (other_split, UsageError, "the start was trained on another split"),
        (other_backbone, UsageError, "another backbone; expected resnet50, found resnet101"),
        (
            other_stride,
            UsageError,
            "do not make a fusion2; expected a fusion2, or one network for each of cor",
        ),
        (lambda record: record.pop("data"), CheckpointError, "the record is of no training of this package"),
    ],
)
def test_a_start_that_cannot_be_used(
    planes: dict[str, Path],
    stub_cohort: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    error: type[Exception],
    words: str,
) -> None:
    record = json.loads(planes["sagittal"].with_suffix(".json").read_text())
    sources = {"data_sets": json.loads(json.dumps(record["data"]["data_sets"]))}
    change(record)
    changed = tmp_path / "classifier.safetensors"
    changed.write_bytes(planes["sagittal"].read_bytes())
    changed.with_suffix(".json").write_text(json.dumps(record))
    files = [planes["transverse"], changed, planes["coronal"]]
    with pytest.raises(error, match=words):
        ClassifierTask(RECIPE, _phantoms(stub_cohort), [], None, sources, start=files)


def test_a_plane_is_missing_or_there_twice(planes: dict[str, Path], stub_cohort: Path) -> None:
    record = json.loads(planes["sagittal"].with_suffix(".json").read_text())
    sources = {"data_sets": record["data"]["data_sets"]}
    for names in (("transverse", "sagittal"), ("transverse", "sagittal", "sagittal"), PLANES * 2):
        with pytest.raises(UsageError, match="these networks do not make a fusion2"):
            ClassifierTask(RECIPE, _phantoms(stub_cohort), [], None, sources, start=[planes[name] for name in names])


@pytest.fixture(scope="module")
def segmenter_start(stub_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter trained on phantoms."""
    run = tmp_path_factory.mktemp("segmenter")
    return train_segmenter(SEGMENTER, [open_data(stub_cohort, run)], run)


def test_a_segmenter_starts_from_another(segmenter_start: Path, tiny_busbra: Path, tmp_path: Path) -> None:
    sets = [open_data(tiny_busbra, tmp_path, validation_images=2)]
    weights = train_segmenter(replace(SEGMENTER, peak_lr=1e-30), sets, tmp_path / "run", start=segmenter_start)
    parameters = dict(build_segmenter().named_parameters())
    before, after = read_tensors(segmenter_start), read_tensors(weights)
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-20) for name in parameters)
    data = json.loads(weights.with_suffix(".json").read_text())["data"]
    assert data["start"] == "trained segmenter"
    assert data["start_files"] == {"segmenter": hashlib.sha256(segmenter_start.read_bytes()).hexdigest()}
    assert data["start_seen"] == {"phantom": sorted(_data_of(segmenter_start)["data_sets"]["phantom"]["train"])}
    assert _data_of(segmenter_start)["start"] == "random"
    with pytest.raises(UsageError, match="this training had another start; found segmenter"):
        train_segmenter(replace(SEGMENTER, peak_lr=1e-30), sets, tmp_path / "run")


def test_everybody_who_trained_a_start_or_its_starts_is_remembered(
    segmenter_start: Path, tiny_busbra: Path, busi: Path, tmp_path: Path
) -> None:
    second = train_segmenter(SEGMENTER, [open_data(busi, tmp_path)], tmp_path / "second", start=segmenter_start)
    third = train_segmenter(SEGMENTER, [open_data(tiny_busbra, tmp_path)], tmp_path / "third", start=second)
    fourth = train_segmenter(SEGMENTER, [open_data(tiny_busbra, tmp_path)], tmp_path / "fourth", start=third)
    assert _data_of(fourth)["first_start"] == "random"
    seen = _data_of(fourth)["start_seen"]
    trained = {"phantom": segmenter_start, "BUSI": second, "BUS-BRA": third}
    assert seen == {name: sorted(_data_of(file)["data_sets"][name]["train"]) for name, file in trained.items()}


@pytest.mark.parametrize("kept_out", ["validation", "test"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_start_that_saw_who_is_kept_out_is_refused(
    kept_out: str, earlier: bool, segmenter_start: Path, tiny_busbra: Path, tmp_path: Path
) -> None:
    sets = [open_busbra(tiny_busbra, test_fold=1, validation_images=2)]
    fair = train_segmenter(SEGMENTER, sets, tmp_path / "fair", start=segmenter_start)
    known = _data_of(fair)["data_sets"]["BUS-BRA"][kept_out][:1]

    def saw(record: dict[str, Any]) -> None:
        if earlier:  # not its own training, that of its start
            record["data"] |= {"start_files": {"segmenter": "0"}, "start_seen": {"BUS-BRA": known}}
        else:
            record["data"]["data_sets"]["BUS-BRA"] = {"train": known}

    start = _changed(segmenter_start, tmp_path, saw)
    with pytest.raises(LeakError, match="kept out here; expected none, found 1 of BUS-BRA") as caught:
        train_segmenter(SEGMENTER, sets, tmp_path / "leak", start=start)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "leak").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("data_sets"),
        lambda data: data.update(data_sets=["phantom"]),
        lambda data: data.update(data_sets={"phantom": ["1"]}),
        lambda data: data["data_sets"]["phantom"].update(train=None),
        lambda data: data["data_sets"]["phantom"].update(train=[1, "2"]),
        lambda data: data.update(start_seen=None, start_files={}),
        lambda data: data.update(start_files={"segmenter": "0"}),
    ],
)
def test_a_record_that_does_not_say_who_trained_is_refused(
    change: Callable[[dict[str, Any]], object], segmenter_start: Path, tmp_path: Path
) -> None:
    start = _changed(segmenter_start, tmp_path, lambda record: change(record["data"]))
    with pytest.raises(CheckpointError, match=r"segmenter\.json: the record does not say who trained the weights"):
        read_start(start, "segmenter", {})


def test_what_is_no_start_is_refused_before_anything_is_made(
    planes: dict[str, Path], segmenter_start: Path, stub_cohort: Path, tmp_path: Path
) -> None:
    out, bare, other = tmp_path / "run", tmp_path / "bare.safetensors", tmp_path / "other.safetensors"
    shutil.copyfile(segmenter_start, bare)
    shutil.copyfile(planes["coronal"], other)
    shutil.copyfile(segmenter_start.with_suffix(".json"), other.with_suffix(".json"))
    for recipe, starts, words in (
        ("segmenter", [planes["coronal"]], "another network; expected segmenter, found classifier"),
        ("classifier", [segmenter_start], "another network; expected classifier, found segmenter"),
        ("segmenter", [segmenter_start] * 2, "several starts; expected one trained segmenter"),
        ("segmenter", [tmp_path / "none.safetensors"], "no weights to start from; .*found nothing"),
        ("segmenter", [segmenter_start.parent], "no weights to start from; .*found a folder"),
        ("segmenter", [bare], "no record beside the weights"),
    ):
        with pytest.raises((UsageError, CheckpointError), match=words):
            train_recipe(recipe, [stub_cohort], out, start=starts)
        assert not out.exists()
    with pytest.raises(UsageError, match="two starts"):
        train_recipe("classifier", [stub_cohort], out, start=list(planes.values()), imagenet=tmp_path)
    assert not out.exists()
    sets = [open_data(stub_cohort, tmp_path)]
    with pytest.raises(
        CheckpointError, match=r"another model's; expected the .* tensors of the segmenter.*Keep the two"
    ):
        train_segmenter(SEGMENTER, sets, out, start=other)
    with pytest.raises(
        UsageError, match="a coronal network starts from one of its own kind; expected one coronal, found sagittal"
    ):
        train_classifier(replace(RECIPE, variant="coronal"), sets, tmp_path / "plane", start=[planes["sagittal"]])


def test_the_shipped_segmenter_is_a_start() -> None:
    shipped = read_start(Path(__file__).parents[2] / "weights" / "segmenter.safetensors", "segmenter", {})
    shipped.give(build_segmenter())
    assert {name: len(patients) for name, patients in shipped.seen.items()} == {"phantom": 92, "BUS-BRA": 826}


def _changed(weights: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of `weights` in `folder` with a changed record."""
    copy = folder / weights.name
    shutil.copyfile(weights, copy)
    record = json.loads(weights.with_suffix(".json").read_text())
    change(record)
    copy.with_suffix(".json").write_text(json.dumps(record))
    return copy


def _data_of(weights: Path) -> dict[str, Any]:
    return json.loads(weights.with_suffix(".json").read_text())["data"]  # type: ignore[no-any-return]
