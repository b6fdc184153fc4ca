"""From a user's own weight files to a pack that `analyze` runs, and what is refused on the way."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import scanside
from scanside.cli import app
from scanside.errors import OutputError
from scanside.export import export_classifier
from scanside.export import pack as pack_module
from scanside.export.onnx import HEATMAPS
from scanside.export.pack import PackParameters
from scanside.models import FusionClassifier, Segmenter, own_weights
from scanside.models.fusion import PLANES
from scanside.models.own_weights import Normalisation
from scanside.pack import file_records, golden_cases, load_pack, write_pack
from scanside.pack_from_weights import OwnWeights, golden_phantoms, golden_sections, golden_triplets, pack_from_weights

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZE = 64


# The first three stages of the encoder: export takes a third of the time.
FEW_STAGES = {"encoder_weights": None, "encoder_depth": 3, "decoder_channels": (32, 16, 8), "classes": 1}


@pytest.fixture(scope="module", autouse=True)
def few_stages() -> Iterator[None]:
    def build(mean: float, std: float) -> Segmenter:
        model = Segmenter("efficientnet-b0", in_channels=1, **FEW_STAGES)
        model.set_normalisation(mean, std)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_weights, "build_segmenter", build)
        yield


@pytest.fixture(scope="module")
def files(pebble: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain SMP Unet of three channels, and a torchvision-like network of three channels and one logit."""
    torch.manual_seed(6)
    folder = tmp_path_factory.mktemp("own")
    unet = smp.Unet("efficientnet-b0", in_channels=3, **FEW_STAGES)
    save_file(unet.state_dict(), folder / "unet.safetensors")
    plane = FusionClassifier(pebble, "sagittal")
    state = dict(plane.branches["sagittal"].state_dict())
    state["conv1.weight"] = torch.randn(8, 3, 5, 5) * 0.1
    state |= {"fc.weight": torch.randn(1, 16), "fc.bias": torch.tensor([0.1])}
    torch.save(state, folder / "plane.pt")
    return {"segmenter": folder / "unet.safetensors", "classifier": folder / "plane.pt"}


@pytest.fixture(scope="module")
def weights(files: dict[str, Path], pebble: str) -> OwnWeights:
    return OwnWeights(
        files["segmenter"],
        files["classifier"],
        IMAGENET,
        Normalisation((0.5,), (0.25,)),
        backbone=pebble,
        variant="sagittal",
    )


@pytest.fixture(scope="module")
def made(weights: OwnWeights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "pack"
    parameters = PackParameters(crop_size=SIZE, pitch_mm=0.8, threshold=0.4, margin=1.5, frames=3)
    return pack_from_weights(out, weights, name="mine", version="2", licence="CC0-1.0", parameters=parameters)


def test_the_manifest_says_what_went_in(made: Path, weights: OwnWeights, files: dict[str, Path]) -> None:
    manifest = load_pack(made).manifest
    assert (manifest.name, manifest.version) == ("mine", "2")
    assert manifest.segmenter.planes == ("sagittal",)
    assert (manifest.segmenter.pitch_mm, manifest.segmenter.threshold) == (0.8, 0.4)
    classifier = manifest.classifier
    assert (classifier.backbone, classifier.variant, classifier.inputs) == (
        weights.backbone,
        "sagittal",
        {"sagittal": "sagittal"},
    )
    assert (classifier.size, classifier.margin, classifier.frames, classifier.heatmaps) == (SIZE, 1.5, 3, "heatmaps")
    recorded = manifest.provenance["files"]
    for network, path in files.items():
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert recorded[network] == {"name": path.name, "sha256": sha256}
    assert manifest.provenance["segmenter_input"]["mean"] == list(IMAGENET.mean)
    assert str(files["segmenter"].parent) not in (made / "manifest.json").read_text()
    assert [licence.licence for licence in manifest.licences] == ["CC0-1.0"]


@torch.no_grad()
def test_the_golden_answers_are_the_user_s_own(made: Path, files: dict[str, Path]) -> None:
    """The user's network, run by hand with the user's preprocessing, on the golden inputs."""
    unet = smp.Unet("efficientnet-b0", in_channels=3, **FEW_STAGES).eval()
    unet.load_state_dict(load_file(files["segmenter"]))
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    (case, *_) = golden_cases(load_pack(made))
    grey = torch.from_numpy(case.inputs["pixels"]).float().expand(-1, 3, -1, -1) / 255
    expected = torch.sigmoid(unet((grey - mean) / std)) * 255
    assert np.abs(case.outputs["probability"] - expected.numpy()).max() <= 0.51


def test_it_loads_proves_itself_and_analyses_with_its_one_plane(made: Path, blob_volume: BlobVolume) -> None:
    with scanside.load(made, device="cpu", precision="fp32", threads=2, explain="gradcam") as predictor:
        assert [result.network for result in predictor.self_check()] == ["segmenter", "classifier"]
        report = predictor.analyze(blob_volume.volume())
    assert report.pack.name == "mine"


@pytest.mark.parametrize("variant", ["coronal", "fusion1", "late"])
def test_a_variant_sees_its_planes_only(
    variant: str, pebble: str, tiny_pack: Path, blob_volume: BlobVolume, tmp_path: Path
) -> None:
    """Its graph beside a segmenter that finds both blobs, each looking at the variant's planes alone."""
    torch.manual_seed(len(variant))
    model = FusionClassifier(pebble, variant).eval()
    tiny = load_pack(tiny_pack)
    contents = {tiny.manifest.segmenter.graph: tiny.graph_bytes("segmenter")}
    contents["classifier.onnx"] = export_classifier(model, tmp_path / "graph.onnx", 32).read_bytes()
    classifier = replace(
        tiny.manifest.classifier, variant=variant, inputs={p: p for p in model.planes}, size=32, heatmaps=HEATMAPS
    )
    manifest = replace(
        tiny.manifest,
        segmenter=replace(tiny.manifest.segmenter, planes=model.planes),
        classifier=classifier,
        golden=(),
        card=None,
        files=file_records(contents),
    )
    pack = write_pack(tmp_path / "pack", contents, manifest)
    with scanside.load(pack, device="cpu", precision="fp32", threads=2, explain="gradcam") as predictor:
        report = predictor.analyze(blob_volume.volume())
    assert len(report.lesions) == 2
    for lesion in report.lesions:
        assert set(lesion.planes_seen) <= set(model.planes)
        assert lesion.heatmap is not None
        assert tuple(lesion.heatmap.planes) == model.planes
        crops = [torch.from_numpy(lesion.heatmap.planes[p].crop)[None, None] for p in model.planes]
        with torch.no_grad():
            expected = float(model.probability(*crops))
        assert lesion.frame_probabilities[lesion.heatmap.frame] == pytest.approx(expected, abs=1e-4)


def test_golden_inputs_hold_lesions_in_every_plane() -> None:
    phantoms, parameters = golden_phantoms(), PackParameters(crop_size=48)
    lesions = [lesion for phantom in phantoms for lesion in phantom.truth]
    assert len(lesions) >= 8
    assert {lesion.malignant for lesion in lesions} == {False, True}
    triplets = golden_triplets(phantoms, parameters)
    assert {plane: x.shape for plane, x in triplets.items()} == {p: (len(lesions), 1, 48, 48) for p in PLANES}
    for section, plane in zip(golden_sections(phantoms[0], parameters), PLANES, strict=True):
        assert section.dtype == np.uint8
        assert all(n % 32 == 0 for n in section.shape[2:])
        assert section.std() > 10
        assert triplets[plane].std() > 10


# --- what is refused, through the verb: one message, its exit code, nothing left ---

Run = Callable[..., Result]


@pytest.fixture
def create(tmp_path: Path, files: dict[str, Path]) -> Run:
    """`scanside pack create` with good options, some of them changed (None leaves one out)."""

    def run(**changes: object) -> Result:
        options: dict[str, object] = {
            "out": tmp_path / "out" / "pack",
            "segmenter": files["segmenter"],
            "segmenter_mean": "0.485,0.456,0.406",
            "segmenter_std": "0.229,0.224,0.225",
            "classifier": files["classifier"],
            "classifier_mean": "0.5",
            "classifier_std": "0.25",
            "size": SIZE,
            "variant": "sagittal",
        }
        words = ["pack", "create", "--quiet"]
        for name, value in (options | changes).items():
            if value is not None:
                words.append(f"--{name.replace('_', '-')}={value}")
        return CliRunner().invoke(app, words)

    (tmp_path / "out").mkdir()
    return run


def assert_refused(result: Result, code: int, words: str, tmp_path: Path) -> None:
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"segmenter": "absent.pt"}, 4, "absent.pt: no weights here"),
        ({"segmenter_mean": "123.7"}, 2, "the mean of the input makes no sense"),
        ({"segmenter_std": "0"}, 2, "the std of the input makes no sense"),
        ({"classifier_mean": "grey"}, 2, "--classifier-mean makes no sense"),
        ({"classifier_std": "0.2,0.2"}, 2, "expected 1 or 3 fractions"),
        ({"size": 16}, 2, "size"),
        ({"threshold": 1.5}, 2, "threshold"),
        ({"backbone": "resnet18"}, 2, "backbone"),
        ({"classifier": None}, 2, "no classifier; expected --classifier FILE, or one file a plane"),
        ({"classifier_coronal": "c.pt"}, 2, "two classifiers"),
        ({"classifier": None, "classifier_coronal": "c.pt"}, 2, "one file a plane makes another variant"),
        ({"variant": "fusion2"}, 4, "the weights are another model's"),
    ],
)
def test_options_that_make_no_sense(
    create: Run, tmp_path: Path, changes: dict[str, Any], code: int, words: str
) -> None:
    assert_refused(create(**changes), code, words, tmp_path)


def test_files_that_cannot_be_used(create: Run, tmp_path: Path, files: dict[str, Path]) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(files["segmenter"].read_bytes()[:-100])
    assert_refused(create(segmenter=cut), 4, "cut.safetensors: the weights cannot be read", tmp_path)
    whole = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), whole)
    assert_refused(create(segmenter=whole), 4, "model.pt: the file holds more than weights", tmp_path)
    swapped = create(segmenter=files["classifier"])
    assert_refused(swapped, 4, "the weights are another model's; expected the", tmp_path)
    assert "unexpected: conv1.weight" in swapped.stderr


def test_another_network_is_no_resnet50(create: Run, tmp_path: Path) -> None:
    result = create()
    assert_refused(result, 4, "of a resnet50 sagittal", tmp_path)
    assert "missing: branches.sagittal." in result.stderr


@pytest.fixture
def without_exporting(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export writes the graphs of the pack at hand, which takes no time."""

    def written(network: str) -> Callable:
        def export(model: Any, path: Path, *size: int) -> Path:
            path.write_bytes(load_pack(made).graph_bytes(network))
            return path

        return export

    monkeypatch.setattr(pack_module, "export_segmenter", written("segmenter"))
    monkeypatch.setattr(pack_module, "export_classifier", written("classifier"))
    monkeypatch.setattr(pack_module, "MAX_EXPORT_ERROR", {"segmenter": 0.2, "classifier": 0.2})
    monkeypatch.setattr(pack_module, "MAX_HEATMAP_ERROR", 10.0)


@pytest.mark.usefixtures("without_exporting")
def test_an_interrupted_run_leaves_nothing(
    weights: OwnWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    (tmp_path / "here").mkdir()
    with pytest.raises(KeyboardInterrupt):
        pack_from_weights(tmp_path / "here" / "pack", weights, name="n", parameters=PackParameters(crop_size=SIZE))
    assert not any((tmp_path / "here").iterdir())


def test_what_is_no_pack_is_not_replaced(weights: OwnWeights, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="refusing to replace what is no pack"):
        pack_from_weights(tmp_path, weights, name="n", parameters=PackParameters(crop_size=SIZE))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_verb_hands_its_options_on(
    create: Run, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def instead(out: Path, weights: OwnWeights, **options: Any) -> Path:
        given.update(options, out=out, weights=weights)
        return made

    monkeypatch.setattr("scanside.pack_from_weights.pack_from_weights", instead)
    result = create(
        classifier=None,
        variant=None,
        classifier_transverse="t.pt",
        classifier_sagittal="s.pt",
        classifier_coronal="c.pt",
        backbone="vgg19",
        pitch=0.5,
        margin=1.2,
        frames=5,
        min_score=0.3,
        name="mine",
    )
    assert result.exit_code == 0, result.stderr
    assert "mine 2" in result.stdout  # the pack's own description
    weights = given["weights"]
    assert (weights.backbone, weights.stride_at, weights.variant) == ("vgg19", "3x3", None)
    assert weights.classifier == {p: Path(f"{p[0]}.pt") for p in PLANES}
    assert (weights.segmenter_input, weights.classifier_input) == (IMAGENET, Normalisation((0.5,), (0.25,)))
    parameters = given["parameters"]
    assert (parameters.pitch_mm, parameters.margin, parameters.frames) == (0.5, 1.2, 5)
    assert (parameters.crop_size, parameters.min_detection_score) == (SIZE, 0.3)
    assert given["planes"] is None


def test_without_the_workshop_s_packages_the_remedy_is_named(tmp_path: Path) -> None:
    words = ["pack", "create", "--out", "o", "--segmenter", "s.pt", "--classifier", "c.pt", "--size", "64"]
    words += [f"--{n}-{v}=0.5" for n in ("segmenter", "classifier") for v in ("mean", "std")]
    code = f"import sys; sys.modules['torch'] = None; sys.argv = ['scanside', *{words}]\n"
    code += "from scanside.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "needs the workshop's packages" in done.stderr
    assert 'Pip install "scanside[train]"' in done.stderr
    assert "Traceback" not in done.stderr
