"""Users' networks against themselves: what was converted answers as the user's own network did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scanside.errors import CheckpointError, UsageError
from scanside.models import BACKBONES, FusionClassifier
from scanside.models.fusion import PLANES
from scanside.models.own_weights import Normalisation, load_classifier, load_segmenter

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ONE = Normalisation((0.5,), (0.25,))
SAME_MEAN = Normalisation((0.5,), (0.2, 0.25, 0.3))


def normalised(pixels: Tensor, how: Normalisation, channels: int) -> Tensor:
    """The user's own preprocessing: grey to `channels` equal channels, then mean and std."""
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (how.mean, how.std))
    return (pixels.float().expand(-1, channels, -1, -1) / 255 - mean) / std


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def with_statistics(model: nn.Module) -> nn.Module:
    """Batch norms as after training, not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.6)
    return model.eval()


# --- segmenters ---


@pytest.mark.parametrize(
    ("channels", "classes", "how"),
    [(1, 1, ONE), (3, 1, ONE), (3, 1, IMAGENET), (3, 2, SAME_MEAN), (1, 2, Normalisation((0.0,), (1.0,)))],
)
@torch.no_grad()
def test_an_smp_unet_answers_as_it_did(tmp_path: Path, channels: int, classes: int, how: Normalisation) -> None:
    torch.manual_seed(channels + 2 * classes)
    user = smp.Unet("efficientnet-b0", encoder_weights=None, in_channels=channels, classes=classes)
    with_statistics(user)
    save_file(user.state_dict(), tmp_path / "unet.safetensors")
    x = pixels(2, 1, 64, 96)
    logits = user(normalised(x, how, channels))
    expected = torch.sigmoid(logits) if classes == 1 else torch.softmax(logits, 1)[:, 1:]
    ours = load_segmenter(tmp_path / "unet.safetensors", how)
    found = torch.sigmoid(ours(ours.normalise(x)))
    assert expected.std() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5)  # also at the border


def test_another_encoder_is_refused_with_what_differs(tmp_path: Path) -> None:
    with torch.device("cpu"):
        user = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1)
    save_file(user.state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match=r"SMP Unet efficientnet-b0.*missing: encoder\._conv_stem.*unexpected"):
        load_segmenter(tmp_path / "unet.safetensors")


def test_three_segmentation_classes_are_refused(tmp_path: Path) -> None:
    user = smp.Unet("efficientnet-b0", encoder_weights=None, in_channels=1, classes=3)
    save_file(user.state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match=r"2 of another shape: segmentation_head\.0\.weight \[3, 16, 3, 3\]"):
        load_segmenter(tmp_path / "unet.safetensors")


# --- classifiers ---


@pytest.fixture(scope="session")
def torchvision_state(single: FusionClassifier) -> dict[str, Tensor]:
    """A user's plain torchvision state dict: three colour channels, two classes."""
    kind = BACKBONES[single.backbone]
    state = {}
    for theirs, ours in kind.head.items():
        state |= {f"{theirs}.{k}": v for k, v in single.get_submodule(ours).state_dict().items()}
    state |= single.branches["transverse"].state_dict()
    grey = state[f"{kind.first}.weight"]
    colours = torch.randn(grey.shape[0], 3, *grey.shape[2:], generator=torch.Generator().manual_seed(1))
    return state | {f"{kind.first}.weight": colours * grey.std()}


@torch.no_grad()
def test_a_torchvision_network_answers_as_it_did(
    single: FusionClassifier,
    plain: Callable[..., nn.Module],
    torchvision_state: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    user = plain(single.backbone)
    user.load_state_dict(torchvision_state, assign=True)
    torch.save(torchvision_state, tmp_path / "user.pt")
    x = pixels(2, 1, 96, 96)
    x[1] //= 3
    expected = torch.softmax(user(normalised(x, IMAGENET, 3)), 1)[:, 1]
    ours = load_classifier(tmp_path / "user.pt", backbone=single.backbone, variant="coronal", normalisation=IMAGENET)
    assert ours.planes == ("coronal",)
    assert torch.allclose(ours.probability(x), expected, atol=2e-5)
    assert (expected[0] - expected[1]).abs() > 1e-3


@pytest.fixture
def states(pebble: str) -> dict[str, dict[str, Tensor]]:
    """A torchvision-like state dict for each plane, of a small network with three colour channels."""
    states = {}
    for seed, plane in enumerate(PLANES):
        torch.manual_seed(seed)
        model = with_statistics(FusionClassifier(pebble, plane))
        state = {f"fc.{k}": v for k, v in model.classify.state_dict().items()} | model.branches[plane].state_dict()
        state["conv1.weight"] = torch.randn(8, 3, 5, 5) * 0.1
        states[plane] = state
    return states


def saved(folder: Path, states: dict[str, dict[str, Tensor]]) -> dict[str, Path]:
    paths = {plane: folder / f"{plane}.safetensors" for plane in states}
    for plane, path in paths.items():
        save_file({k: v.contiguous() for k, v in states[plane].items()}, path)
    return paths


@torch.no_grad()
def test_one_file_a_plane_makes_the_mean_of_their_probabilities(
    pebble: str, states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    paths = saved(tmp_path, states)
    late = load_classifier(paths, backbone=pebble, normalisation=IMAGENET)
    crops = [pixels(2, 1, 64, 64) // n for n in (1, 2, 3)]
    alone = [
        load_classifier({plane: paths[plane]}, backbone=pebble, normalisation=IMAGENET).probability(x)
        for plane, x in zip(PLANES, crops, strict=True)
    ]
    assert late.variant == "late"
    assert torch.allclose(late.probability(*crops), torch.stack(alone).mean(0), atol=1e-6)


@torch.no_grad()
def test_three_planes_trained_here_are_merged_too(pebble: str, tmp_path: Path) -> None:
    """Files with Scanside's own names; two planes' files swapped are refused."""
    paths, alone, x = {}, [], pixels(2, 1, 64, 64)
    for seed, plane in enumerate(PLANES):
        torch.manual_seed(seed)
        model = with_statistics(FusionClassifier(pebble, plane, mean=0.5, std=0.25))
        save_file(model.state_dict(), paths.setdefault(plane, tmp_path / f"{plane}.safetensors"))
        alone.append(model.probability(x))
    late = load_classifier(paths, backbone=pebble, normalisation=ONE)
    assert torch.allclose(late.probability(x, x, x), torch.stack(alone).mean(0), atol=1e-6)
    swapped = paths | {"coronal": paths["sagittal"]}
    with pytest.raises(CheckpointError, match=r"missing: branches\.coronal\.conv1\.weight"):
        load_classifier(swapped, backbone=pebble, normalisation=ONE)


@torch.no_grad()
def test_one_logit_is_a_sigmoid(pebble: str, states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    weight, bias = torch.randn(1, 16), torch.tensor([0.3])
    state = states["sagittal"] | {"fc.weight": weight, "fc.bias": bias}
    save_file(state, tmp_path / "w.safetensors")
    ours = load_classifier(tmp_path / "w.safetensors", backbone=pebble, variant="sagittal", normalisation=ONE)
    x = pixels(3, 1, 64, 64)
    (maps,) = ours.maps(ours.normalise(x))
    expected = torch.sigmoid(maps.mean((2, 3)) @ weight.T + bias)[:, 0]
    assert torch.allclose(ours.probability(x), expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["fusion2", "late"])
def test_a_whole_fusion_in_one_file(pebble: str, tmp_path: Path, variant: str) -> None:
    """Trained here (one grey channel), and the same with three colour channels."""
    torch.manual_seed(11)
    model = with_statistics(FusionClassifier(pebble, variant, mean=0.5, std=0.25))
    crops = [pixels(2, 1, 64, 64) // n for n in (1, 2, 3)]
    expected = model.probability(*crops)
    state: dict[str, Any] = dict(model.state_dict())
    torch.save(state, tmp_path / "grey.pth")
    for plane in PLANES:
        name = f"branches.{plane}.conv1.weight"
        state[name] = state[name].repeat(1, 3, 1, 1) / 3
    save_file(state, tmp_path / "colour.safetensors")
    for name in ("grey.pth", "colour.safetensors"):
        ours = load_classifier(tmp_path / name, backbone=pebble, variant=variant, normalisation=ONE)
        assert torch.allclose(ours.probability(*crops), expected, atol=1e-5)


def test_a_thousand_classes_are_refused(pebble: str, states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    state = states["coronal"] | {"fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"expected 2 classes \(benign, malignant\) or 1 logit.*1000 classes"):
        load_classifier(tmp_path / "w.safetensors", backbone=pebble, variant="coronal")


def test_another_backbone_is_recognised(tmp_path: Path, plain: Callable[..., nn.Module]) -> None:
    state = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in plain("densenet161").state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="look like the weights of a densenet161: say so") as refused:
        load_classifier(tmp_path / "w.pt", backbone="resnet50", variant="transverse")
    assert "missing" in str(refused.value)


def test_one_plane_s_file_is_no_fusion(pebble: str, states: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    save_file(states["coronal"], tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"Give --variant transverse, sagittal or coronal, or one file a plane"):
        load_classifier(tmp_path / "w.safetensors", backbone=pebble)


@pytest.mark.parametrize(
    ("files", "variant", "message"),
    [
        ({}, None, "these files make no classifier"),
        ({"transverse": "a", "coronal": "b"}, None, "these files make no classifier"),
        ({"axial": "a"}, None, "these files make no classifier"),
        ({"transverse": "a"}, "fusion2", "makes another variant; expected transverse, found fusion2"),
        ("a", "fusion3", "unknown variant"),
    ],
)
def test_files_that_make_no_variant(files: Any, variant: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_classifier(files, variant=variant)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((123.7,), (58.4,)),
        ((0.5, 0.5), (0.2, 0.2)),
        ((-0.1,), (0.2,)),
        ((0.5,), (0.0,)),
        ((), (0.2,)),
        ((float("nan"),), (1,)),
    ],
)
def test_a_normalisation_that_makes_no_sense(mean: tuple, std: tuple) -> None:
    with pytest.raises(UsageError, match=r"of the input makes no sense.*divided by 255"):
        Normalisation(mean, std)


def test_colour_means_for_a_grey_network(pebble: str, tmp_path: Path) -> None:
    torch.save(FusionClassifier(pebble, "fusion1").state_dict(), tmp_path / "w.pt")
    with pytest.raises(UsageError, match="the network takes grey; expected 1 value, found 3 values"):
        load_classifier(tmp_path / "w.pt", backbone=pebble, variant="fusion1", normalisation=IMAGENET)
