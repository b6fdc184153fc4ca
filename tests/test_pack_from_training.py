"""`scanside export`: from what a training left to a pack, and what is refused on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from scanside import pack_from_training as module
from scanside.cli import app
from scanside.engine.predictor import Predictor
from scanside.models import FusionClassifier, Segmenter
from scanside.models.weights import save_half
from scanside.pack import Pack, golden_cases, info_rows, load_pack, write_pack
from scanside.pack_from_training import Training, find_trained, model_card, pack_from_training
from scanside.training.checkpoint import save_weights
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe, SgdRecipe, ViewsRecipe
from scanside.training.views import ViewedLesion, ViewsSplit, ViewsTask
from tests.calibration.test_calibrate import certify

SIZE = 48
SEGMENTER = SegmenterRecipe(steps=1)
# The first stages of the encoder alone: exporting takes a third of the time.
FEW_STAGES: dict[str, Any] = {"encoder_depth": 3, "decoder_channels": (32, 16, 8), "encoder_weights": None}


def small_segmenter() -> Segmenter:
    model = Segmenter("efficientnet-b0", in_channels=1, classes=1, **FEW_STAGES)
    model.set_normalisation(0.45, 0.226)
    return model


@pytest.fixture(scope="module", autouse=True)
def few_stages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "build_segmenter", small_segmenter)
        yield


def classifier_recipe(backbone: str, variant: str = "fusion2") -> ClassifierRecipe:
    return ClassifierRecipe(steps=1, backbone=backbone, variant=variant, size=SIZE, margin=1.6, frames=3)


def record_of(recipe: SegmenterRecipe | SgdRecipe, data: dict[str, Any], **scores: float) -> dict[str, Any]:
    """As `scanside.training.loop` writes it."""
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(recipe).items()}
    return {"task": "any", "recipe": plain, "steps": 1, "validation": scores, "data": data, "versions": {}}


PHANTOMS = {"data_sets": {"phantom": {"train": ["1000", "1001"], "validation": ["1002"]}, "BUS-BRA": {"test": ["7"]}}}


def trained_run(folder: Path, backbone: str, *networks: str) -> Path:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(3)
    if "segmenter" in networks:
        model = small_segmenter()
        save_weights(model, folder / "segmenter.safetensors", record_of(SEGMENTER, PHANTOMS, dice_coronal=0.5))
    if "classifier" in networks:
        data = {"data_sets": {"phantom": {"train": ["1000"]}}, "start": "random", "stride_at": "3x3"}
        recipe = classifier_recipe(backbone)
        save_weights(
            FusionClassifier(backbone), folder / "classifier.safetensors", record_of(recipe, data, auc_jittered=0.875)
        )
    return folder


@pytest.fixture(scope="module")
def run_folder(pebble: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("run") / "run", pebble, "segmenter", "classifier")


@pytest.fixture(scope="module")
def made(run_folder: Path, tiny_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Both networks through the verb, the tiny pack as base."""
    out = tmp_path_factory.mktemp("made") / "pack"
    result = run("export", run_folder, "--out", out, "--base", tiny_pack, "--name", "mine", "--licence", "CC0", "-q")
    assert result.exit_code == 0, result.output
    assert "mine" in result.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == ["pack"]
    return load_pack(out)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_record_says_what_the_network_is_and_the_base_the_rest(made: Pack, tiny_pack: Path) -> None:
    manifest, base = made.manifest, load_pack(tiny_pack).manifest
    assert (manifest.name, manifest.version) == ("mine", "1")
    classifier = manifest.classifier
    assert (classifier.backbone, classifier.variant, classifier.size) == ("pebble", "fusion2", SIZE)
    assert (classifier.margin, classifier.frames, classifier.batch) == (1.6, 3, base.classifier.batch)
    ours, theirs = asdict(manifest.segmenter), asdict(base.segmenter)
    network = {"graph", "architecture", "output", "input", "mean", "std", "size_multiple"}
    assert {k: v for k, v in ours.items() if k not in network} == {k: v for k, v in theirs.items() if k not in network}


def test_the_manifest_and_the_card_say_how_they_were_trained(made: Pack, run_folder: Path) -> None:
    provenance = made.manifest.provenance
    for network in ("segmenter", "classifier"):
        assert provenance[network] == json.loads((run_folder / f"{network}.json").read_text())
        assert len(provenance["files"][network]["sha256"]) == 64
    assert provenance["base"]["networks"] == []
    assert [licence.licence for licence in made.manifest.licences] == ["CC0", "MIT-style, with citation"]
    card = made.card() or ""
    assert "Segmenter, patients or volumes by use: BUS-BRA (1 test); phantom (2 train, 1 validation)." in card
    assert "Classifier: fusion2 on torchvision pebble, one branch a plane, started from random weights." in card
    assert "auc jittered 0.875" in card
    assert "No patient's ABVS volume was seen in training." in card
    assert "- Weights: CC0.\n- BUS-BRA (training images)" in card


def test_every_graph_was_compared_and_the_pack_proves_itself(made: Pack) -> None:
    compared = {(c.network, c.compared): c for c in made.manifest.checks if c.against == "PyTorch"}
    for network in ("segmenter", "classifier"):
        assert compared[network, "FP32 graph"].mean_error < 1e-4
        assert compared[network, "FP16 graph"].mean_error < 0.02
    with Predictor(made, "cpu", "fp32", 1) as predictor:
        assert [result.passed for result in predictor.self_check()] == [True] * 4


def test_weights_in_parts_are_found_as_one_file(run_folder: Path, tmp_path: Path) -> None:
    whole = load_file(run_folder / "classifier.safetensors")
    largest = max(2 * tensor.numel() for tensor in whole.values())
    parts = save_half(whole, tmp_path / "classifier.safetensors", part_bytes=max(largest, 64))
    assert len(parts) > 1
    (tmp_path / "classifier.json").write_bytes((run_folder / "classifier.json").read_bytes())
    (from_folder,) = find_trained(tmp_path)
    (from_file,) = find_trained(tmp_path / "classifier.safetensors")
    assert from_folder == from_file
    for name, tensor in from_file.model().state_dict().items():
        assert torch.allclose(tensor, whole[name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize(("trained", "taken"), [("classifier", "segmenter"), ("segmenter", "classifier")])
def test_what_was_not_trained_is_the_base_pack_s_byte_for_byte(
    run_folder: Path, tiny_pack: Path, tmp_path: Path, trained: str, taken: str
) -> None:
    made = load_pack(pack_from_training(run_folder / f"{trained}.safetensors", tmp_path / "pack", base=tiny_pack))
    base = load_pack(tiny_pack)
    assert made.graph_bytes(taken) == base.network_graph(taken, "fp32")
    ours, theirs = getattr(made.manifest, taken), getattr(base.manifest, taken)
    assert replace(ours, graph=theirs.graph) == theirs
    (golden,) = (case for case in golden_cases(made) if case.network == taken)
    (before,) = (case for case in golden_cases(base) if case.network == taken)
    assert all(np.array_equal(golden.inputs[name], before.inputs[name]) for name in before.inputs)
    assert made.manifest.provenance["base"] | {"sha256": ""} == {
        "name": base.manifest.name,
        "version": base.manifest.version,
        "sha256": "",
        "networks": [taken],
    }
    assert trained in made.manifest.provenance
    assert f"{taken.capitalize()}: as in the pack {base.manifest.name}" in (made.card() or "")
    assert "No patient's" not in (made.card() or "")
    assert any(licence.covers.endswith("of the base pack") for licence in made.manifest.licences)


@pytest.mark.parametrize(("start", "recorded"), [("imagenet", False), ("single view", False), ("random", True)])
def test_views_export_and_stride_where_they_were_trained(
    shallow: str, tiny_pack: Path, tmp_path: Path, start: str, recorded: bool
) -> None:
    """Both kinds of view network; those that started from ImageNet stride at the 1 x 1, recorded or not."""
    torch.manual_seed(8)
    variant, stride_at = ("fusion1" if start == "single view" else "transverse"), "3x3" if recorded else "1x1"
    crops = np.zeros((2, 64, 64), np.uint8)
    split = ViewsSplit(*((ViewedLesion(str(i), bool(i % 2), ("l", "r"), crops),) for i in range(3)))
    recipe = ViewsRecipe(steps=1, backbone=shallow, variant=variant, size=64, margin=1.5)
    data = ViewsTask(recipe, split, name="view").record() | {"start": start}
    assert data["stride_at"] == "3x3"
    if not recorded:
        del data["stride_at"]
    model = FusionClassifier(shallow, variant, stride_at=stride_at).eval()  # type: ignore[arg-type]
    save_weights(model, tmp_path / "view.safetensors", record_of(recipe, data, auc=0.9))
    made = load_pack(pack_from_training(tmp_path / "view.safetensors", tmp_path / "pack", base=tiny_pack))
    manifest = made.manifest
    assert set(manifest.classifier.inputs) == set(model.planes)
    assert manifest.segmenter.planes == ("transverse", "sagittal", "coronal")
    assert (manifest.classifier.size, manifest.classifier.margin, manifest.classifier.frames) == (64, 1.5, 4)
    (golden,) = (case for case in golden_cases(made) if case.network == "classifier")
    other = FusionClassifier(shallow, variant, stride_at="1x1" if recorded else "3x3").eval()
    other.load_state_dict(model.state_dict())
    crops_of = [torch.from_numpy(golden.inputs[plane]) for plane in model.planes]
    with torch.no_grad():
        expected, elsewhere = (network.probability(*crops_of).numpy() for network in (model, other))
    assert np.abs(golden.outputs["probability"] - expected).max() < 0.1 * np.abs(elsewhere - expected).max()
    assert any(licence.covers.startswith("BUS-BRA") for licence in manifest.licences)
    assert "BUS-BRA (1 train, 1 validation, 1 test)" in (made.card() or "")


# --- with calibration ---


def test_weights_become_a_calibrated_pack_in_one_command(run_folder: Path, tiny_pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    words = ("export", run_folder, "--out", out, "--base", tiny_pack, "--calibrate", "phantom:3:4:64x96x128", "-q")
    result = run(*words)
    assert result.exit_code == 0, result.output
    manifest = load_pack(out).manifest
    assert manifest.version == "1+int8"
    assert set(manifest.precisions) == {"fp32", "bf16", "fp16", "int8"}
    assert {"segmenter", "classifier", "calibration"} <= set(manifest.provenance)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ("phantom:5000:5001", 3, "a test case must not be calibrated on"),
        ("phantom:9:3", 2, "no range of phantoms"),
        ("nowhere.dcm", 3, "nowhere.dcm"),
    ],
)
def test_unusable_calibration_data_are_refused_before_anything_is_made(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, code: int, words: str
) -> None:
    monkeypatch.setattr(module, "pack_from_training", lambda *given, **options: pytest.fail("a pack was made"))
    (tmp_path / "here").mkdir()
    result = run("export", run_folder, "--out", tmp_path / "here" / "pack", "--calibrate", data, "-q")
    refused(result, code, words, tmp_path / "here")


def test_a_calibration_that_fails_leaves_no_pack(tiny_pack: Path, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    words = ("--base", tiny_pack, "--calibrate", "phantom:3:4:64x96x128", "-q")  # the tiny pack's nodes have no names
    result = run("export", run_folder / "classifier.safetensors", "--out", tmp_path / "here" / "pack", *words)
    assert result.exit_code == 4
    assert "nodes need names of their own" in result.stderr
    assert not (tmp_path / "here" / "pack").exists()


# --- what is refused: one message, its exit code, nothing left ---


def refused(result: Result, code: int, words: str, here: Path) -> None:
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    assert not any(here.iterdir())


Damage = Callable[[Path], None]


def truncated(folder: Path) -> None:
    file = folder / "classifier.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "classifier.safetensors")
    tensors["classify.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "classifier.safetensors")


def without_record(folder: Path) -> None:
    (folder / "classifier.json").unlink()


def record(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "classifier.json"
        content = json.loads(file.read_text())
        content["recipe"] |= changes
        file.write_text(json.dumps(content))

    return damage


def text(content: str) -> Damage:
    return lambda folder: (folder / "classifier.json").write_text(content) and None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, "classifier.safetensors: the weights cannot be read"),
        (not_finite, "classify.weight: a weight is not finite"),
        (without_record, "no record beside the weights; expected classifier.json"),
        (record(backbone="shallow"), "the weights are another model's; expected the"),
        (record(variant="fusion1"), "Classifier.json is to be the record that the training of these weights left"),
        (record(backbone="resnet18"), "classifier.json: unknown backbone"),
        (record(variant="fusion9"), "classifier.json: unknown variant"),
        (record(lerning_rate=1), "classifier.json: unknown key in a recipe"),
        (record(size="large"), "classifier.json: size of the recipe has the wrong kind"),
        (text("{"), "classifier.json: the record cannot be read"),
        (text("[]"), "classifier.json: the record is of no training of this package"),
        (text('{"recipe": {}}'), "expected objects named recipe, data and validation"),
    ],
)
def test_weights_and_records_that_cannot_be_used(
    run_folder: Path, shallow: str, tiny_pack: Path, tmp_path: Path, damage: Damage, words: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in run_folder.glob("classifier.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    (tmp_path / "here").mkdir()
    result = run("export", folder, "--out", tmp_path / "here" / "pack", "--base", tiny_pack, "-q")
    refused(result, 4, words, tmp_path / "here")


@pytest.mark.parametrize(
    ("files", "named", "words"),
    [
        ((), "", "no trained network here; expected segmenter.safetensors or classifier.safetensors, found neither"),
        (("segmenter.checkpoint.pt",), "", "the training has not ended"),
        (("view.safetensors",), "", "found view.safetensors. Name the file itself"),
        (("view.pt",), "view.pt", "expected a run's folder or a .safetensors file"),
        ((), "absent.safetensors", "no trained network here; expected a run's folder"),
    ],
)
def test_where_no_trained_network_is(tmp_path: Path, files: tuple[str, ...], named: str, words: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "here").mkdir()
    for name in files:
        (tmp_path / "run" / name).write_bytes(b"")
    result = run("export", tmp_path / "run" / named, "--out", tmp_path / "here" / "pack", "-q")
    refused(result, 4, words, tmp_path / "here")


def test_the_card_tells_of_what_was_taken_as_the_base_pack_did(run_folder: Path, made: Pack, tmp_path: Path) -> None:
    again = load_pack(pack_from_training(run_folder / "classifier.safetensors", tmp_path / "pack", base=made.path))
    before, card = made.card() or "", again.card() or ""
    (network,) = (line for line in before.splitlines() if line.startswith("- Segmenter: UNet"))
    assert f"{network[:-1]}, as in the pack mine 1 ({made.sha256[:12]})." in card
    told = [line for line in before.splitlines() if line.startswith("- Segmenter") and line != network]
    assert len(told) == 2  # data and validation
    assert all(line in card for line in told)
    assert "No patient's ABVS volume was seen in training." in card


def test_a_network_of_a_calibrated_base_keeps_its_8_bits_and_certificates(run_folder: Path, tmp_path: Path) -> None:
    """The way the shipped pack went: one network new, the other with the ranges that it had."""
    base, made, out, ranges = (tmp_path / name for name in ("base", "made", "out", "ranges"))
    phantom = ("--data", "phantom:3:4:64x96x128", "-q")
    pack_from_training(run_folder, made, base=None)
    assert run("calibrate", made, "--out", base, *phantom).exit_code == 0
    certificates = certify(base)
    pack_from_training(run_folder / "classifier.safetensors", made, base=base)
    kept = tuple(c for c in certificates if c.network == "segmenter")
    assert load_pack(made).manifest.certificates == kept
    assert not any("int8" in label for label, _ in info_rows(load_pack(made)))  # not before it is calibrated again
    ranges.mkdir()
    shutil.copy(base / "segmenter.ranges.json", ranges)
    result = run("calibrate", made, "--out", out, "--ranges", ranges, "--data", "phantom:4:5:64x96x128", "-q")
    assert "certificates kept: segmenter fp16, segmenter bf16, segmenter int8" in result.output
    manifest = load_pack(out).manifest
    assert manifest.certificates == kept
    assert {c.precision for c in kept} == {"bf16", "fp16", "int8"}
    assert manifest.provenance["calibration"]["method"] == {"segmenter": "ranges given", "classifier": "entropy"}
    assert manifest.provenance["golden"].keys() == {"classifier"}


def test_what_a_base_pack_says_of_its_base_is_not_said_twice(run_folder: Path, tiny_pack: Path, tmp_path: Path) -> None:
    licences = set()
    for base in (tiny_pack, tmp_path / "pack"):
        made = pack_from_training(run_folder / "classifier.safetensors", tmp_path / "pack", base=base, licence="CC0")
        licences.add(tuple(load_pack(made).manifest.licences))
    assert len(licences) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"data": {"data_sets": ["phantom"]}},
        {"data": {"busbra": 3}},
        {"validation": {"dice": None}},
        {"recipe": {"seed": 0, "strange": 1}},
        {"recipe": {"variant": "fusion2"}},
    ],
)
def test_a_base_may_say_anything(run_folder: Path, made: Pack, tmp_path: Path, said: dict[str, Any]) -> None:
    record = made.manifest.provenance["segmenter"] | said
    base = tmp_path / "base"
    contents = {name: made.file_bytes(name) for name in made.manifest.files}
    write_pack(base, contents, replace(made.manifest, provenance={"segmenter": record}))
    again = load_pack(pack_from_training(run_folder / "classifier.safetensors", tmp_path / "pack", base=base))
    assert f"- Segmenter: as in the pack mine 1 ({load_pack(base).sha256[:12]})." in (again.card() or "")


def test_no_claim_of_what_is_not_recorded(tiny_pack: Path) -> None:
    both = {network: Training(record_of(SEGMENTER, {}), SEGMENTER) for network in ("segmenter", "classifier")}
    card = model_card("mine", "1", both, load_pack(tiny_pack), [], [])
    assert "volumes by use: not recorded." in card
    assert "No patient's" not in card


def test_what_is_no_pack_is_not_replaced_and_a_pack_is(run_folder: Path, made: Pack, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = run("export", run_folder, "--out", tmp_path, "-q")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "refusing to replace what is no pack" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    again = pack_from_training(run_folder, made.path, base=made.path, name="mine", licence="CC0")
    assert load_pack(again).graph_bytes("segmenter") == made.graph_bytes("segmenter")


def test_a_base_that_is_no_pack(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    result = run("export", run_folder, "--out", tmp_path / "here" / "pack", "--base", tmp_path / "none", "-q")
    refused(result, 4, "no model pack here", tmp_path / "here")


def test_without_the_workshop_s_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "scanside.pack_from_training")
    monkeypatch.delitem(sys.modules, "scanside.models.fusion")
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("export", tmp_path, "--out", tmp_path / "pack")
    assert result.exit_code == 4
    assert 'ip install "scanside[train]"' in result.stderr


def test_a_training_of_this_package_is_found(run_folder: Path) -> None:
    assert [one.network for one in find_trained(run_folder)] == ["segmenter", "classifier"]


@pytest.mark.parametrize("words", [(), ("--calibrate", "phantom:3:4:64x96x128")])
@pytest.mark.parametrize("place", ["pathlib.Path.write_bytes", "os.mkdir"])
def test_a_full_disk_leaves_nothing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, words: tuple[str, ...]
) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, full)
        result = run("export", run_folder / "classifier.safetensors", "--out", tmp_path / "here" / "pack", *words, "-q")
    refused(result, 4, "No space left on device", tmp_path / "here")


def test_the_card_counts_who_trained_a_start(tiny_pack: Path) -> None:
    data = {"data_sets": {"phantom": {"train": ["1"]}}, "start": "trained segmenter", "first_start": "imagenet"}
    data |= {"start_files": {"segmenter": "0"}, "start_seen": {"BUS-BRA": ["7", "8"], "TDSC": ["1"]}}
    training = Training(record_of(SEGMENTER, data, dice_coronal=0.5), SEGMENTER)
    both = {"segmenter": training, "classifier": training}
    card = model_card("mine", "1", both, load_pack(tiny_pack), [], [])
    assert "one grey channel, started from another training's weights, which began from ImageNet ones." in card
    assert "BUS-BRA (2 train of the start alone); TDSC (1 train of the start alone); phantom (1 train)." in card
    assert "No patient's" not in card
