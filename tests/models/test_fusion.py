"""The fusion classifier against the paper's equations, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scanside.errors import UsageError
from scanside.models import VARIANTS, FusionClassifier
from scanside.models.fusion import PLANES, PLANES_OF

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def fusion2(shallow: str) -> FusionClassifier:
    torch.manual_seed(1)
    return FusionClassifier(shallow).eval()


@pytest.fixture(scope="module")
def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=generator) for _ in PLANES]


def test_fusion2_has_three_resnet50s_and_a_halving_layer() -> None:
    with torch.device("meta"):
        model = FusionClassifier()
    assert sum(p.numel() for p in model.parameters()) == 78_900_034
    assert model.branches["coronal"].conv1.weight.shape == (64, 1, 7, 7)


@torch.no_grad()
def test_fusing_maps_by_a_convolution_gives_what_fusing_pooled_vectors_gives(
    fusion2: FusionClassifier, crops: list[Tensor]
) -> None:
    inputs = [fusion2.normalise(torch.nn.functional.interpolate(x.float(), 64)) for x in crops]
    maps = [branch(x) for branch, x in zip(fusion2.branches.values(), inputs, strict=True)]
    assert maps[0].shape == (2, 2048, 2, 2)
    fused = torch.cat(((maps[0] + maps[1]) / 2, maps[2]), 1)
    halve = fusion2.halve[0]
    convolved = torch.nn.functional.conv2d(fused, halve.weight[:, :, None, None], halve.bias)
    expected = fusion2.classify(torch.relu(convolved.mean((2, 3))))
    assert torch.allclose(fusion2(*inputs), expected, atol=1e-5)


@torch.no_grad()
def test_every_plane_counts_and_coronal_is_not_transverse(fusion2: FusionClassifier, crops: list[Tensor]) -> None:
    t, s, c = crops
    answers = [fusion2.probability(*x) for x in ((t, s, c), (s, s, c), (t, t, c), (t, s, t), (c, s, t))]
    assert answers[0].shape == (2,)
    for other in answers[1:]:
        assert not torch.equal(answers[0], other)


@torch.no_grad()
def test_probability_is_the_softmax_of_the_malignant_class(fusion2: FusionClassifier, crops: list[Tensor]) -> None:
    logits = fusion2(*(fusion2.normalise(x) for x in crops))
    expected = 1 / (1 + torch.exp(logits[:, 0] - logits[:, 1]))
    assert torch.allclose(fusion2.probability(*crops), expected, atol=1e-6)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "fusion2"])
@torch.no_grad()
def test_smaller_variants_use_their_planes_only(variant: str, crops: list[Tensor]) -> None:
    torch.manual_seed(3)
    model = FusionClassifier("shallow", variant).eval()
    own = [crops[PLANES.index(plane)] for plane in model.planes]
    expected = {"fusion1": ("transverse", "sagittal"), "late": PLANES}.get(variant, (variant,))
    assert model.planes == PLANES_OF[variant] == expected == tuple(model.branches)
    all_three = model.probability(*crops)
    assert torch.equal(all_three, model.probability(*own))
    blank = [x if plane in model.planes else torch.zeros_like(x) for plane, x in zip(PLANES, crops, strict=True)]
    assert torch.equal(all_three, model.probability(*blank))


@torch.no_grad()
def test_fusion1_classifies_half_the_sum_of_the_pooled_maps(crops: list[Tensor]) -> None:
    torch.manual_seed(4)
    model = FusionClassifier("shallow", "fusion1").eval()
    t, s = (branch(model.normalise(x)).mean((2, 3)) for branch, x in zip(model.branches.values(), crops, strict=False))
    assert torch.allclose(model(*map(model.normalise, crops)), model.classify((t + s) / 2), atol=1e-6)


@torch.no_grad()
def test_late_averages_the_probabilities_of_three_single_planes(crops: list[Tensor]) -> None:
    torch.manual_seed(5)
    late = FusionClassifier("shallow", "late").eval()
    alone = []
    for plane, x in zip(PLANES, crops, strict=True):
        single = FusionClassifier("shallow", plane).eval()
        single.branches[plane].load_state_dict(late.branches[plane].state_dict())
        single.classify.load_state_dict(late.classify[plane].state_dict())
        alone.append(single.probability(x))
    assert torch.allclose(late.probability(*crops), torch.stack(alone).mean(0), atol=1e-6)
    assert (torch.stack(alone).std(0) > 1e-4).all()


def test_late_learns_through_every_plane(crops: list[Tensor]) -> None:
    late = FusionClassifier("shallow", "late")
    loss = torch.nn.functional.cross_entropy(late(*map(late.normalise, crops)), torch.tensor([0, 1]))
    loss.backward()
    assert all(late.classify[plane].weight.grad.abs().sum() > 0 for plane in PLANES)
    assert all(late.branches[plane].conv1.weight.grad.abs().sum() > 0 for plane in PLANES)


def test_stride_may_sit_on_the_first_convolution() -> None:
    with torch.device("meta"):
        blocks = {
            stride: FusionClassifier("shallow", "coronal", stride_at=stride).branches["coronal"].layer3[0]
            for stride in ("3x3", "1x1")
        }
    assert (blocks["3x3"].conv1.stride, blocks["3x3"].conv2.stride) == ((1, 1), (2, 2))
    assert (blocks["1x1"].conv1.stride, blocks["1x1"].conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [({"variant": "fusion3"}, "fusion3"), ({"backbone": "resnet5"}, "resnet5"), ({"stride_at": "7x7"}, "7x7")],
)
def test_an_unknown_choice_is_named(arguments: dict, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        FusionClassifier(**arguments)


def test_a_missing_crop_is_an_error(fusion2: FusionClassifier, crops: list[Tensor]) -> None:
    with pytest.raises(UsageError, match="wrong number of crops"):
        fusion2(*(fusion2.normalise(x) for x in crops[:2]))
