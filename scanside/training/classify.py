"""Training of the three-plane classifier on triplets of lesion crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from scanside.errors import UsageError
from scanside.evaluation.roc import auc
from scanside.exam.planes import Plane
from scanside.models.backbones import Branch, StrideAt
from scanside.models.fusion import FusionClassifier
from scanside.models.keras_weights import load_keras_resnet50
from scanside.training.augment import brightness
from scanside.training.cohort_data import PhantomData
from scanside.training.cutting import STORED_MARGIN
from scanside.training.errors import TrainingDataError
from scanside.training.recipe import ClassifierRecipe, SgdRecipe
from scanside.training.start import (
    IMAGENET,
    RANDOM,
    SINGLE_PLANES,
    give_branch,
    read_classifier_start,
    started,
    two_starts,
)

PLANES = tuple(Plane)


class ClassifierTask:
    """See `scanside.training.loop.Task`.

    Parameters
    ----------
    phantoms, held_out : sequences of PhantomData
        Volumes (or lesions alone) to train on and to validate with.
    imagenet : path, optional
        Folder of ResNet50 weights for `scanside.models.keras_weights`.
    start : sequence of paths, optional
        Trained classifiers with their records: one of the recipe's backbone and variant, or for a fusion the network of
        each of its planes, whose branches it takes and whose head alone is new. Without either start all weights are
        random.
    sources : mapping, optional
        What the record says of the data; with a `start`, at least its "data_sets".

    Raises
    ------
    LeakError, UsageError, CheckpointError
        The start cannot be used; see `scanside.training.start.read_classifier_start`.
    """

    name = "classifier"

    def __init__(
        self,
        recipe: ClassifierRecipe,
        phantoms: Sequence[PhantomData],
        held_out: Sequence[PhantomData],
        imagenet: str | Path | None,
        sources: Mapping[str, Any] | None = None,
        *,
        start: Sequence[str | Path] = (),
    ) -> None:
        self.recipe = recipe
        self.sources = dict(sources or {})
        if start and imagenet is not None:
            raise two_starts()
        starts = read_classifier_start(start, recipe, self.sources["data_sets"]) if start else {}
        whole = starts.get(self.name)
        self.lesions = _lesions_by_class(phantoms)
        self.held_out = held_out
        self.phantoms = phantoms
        self.start = RANDOM if imagenet is None else IMAGENET
        if starts:
            self.start = SINGLE_PLANES if whole is None else "trained classifier"
        self.started = started(starts)
        self.start_files: Mapping[str, str] = self.started.get("start_files", {})
        strides = [own.stride_at for own in starts.values()]
        stride_at: StrideAt = strides[0] if strides else "1x1" if imagenet is not None else "3x3"
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model: nn.Module = FusionClassifier(recipe.backbone, recipe.variant, stride_at=stride_at)  # type: ignore[arg-type]
        self.fresh: set[str] = set()
        if whole is not None:
            whole.give(self.model)
        elif imagenet is not None:
            self.fresh = set(imagenet_start(self.model, Path(imagenet)))
        else:
            for plane, own in starts.items():
                give_branch(own, plane, _branches(self.model)[plane])
        self.frozen = self._frozen_parts() if self.start != RANDOM else ()

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes that the network looks at."""
        return cast(FusionClassifier, self.model).planes

    def _frozen_parts(self) -> tuple[str, ...]:
        parts = []
        for plane, branch in _branches(self.model).items():
            for name in self.recipe.frozen:
                if not isinstance(getattr(branch, name, None), nn.Module):
                    raise UsageError(
                        "no such part of a branch to freeze", found=name, expected="conv1, bn1, layer1 ..."
                    )
                getattr(branch, name).requires_grad_(False)
                parts.append(f"branches.{plane}.{name}")
        return tuple(parts)

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum; parts that start from random weights learn faster when the rest does not."""
        return sgd(self.model, self.recipe, self.fresh, started=self.start in (IMAGENET, SINGLE_PLANES))

    def batch(self, rng: np.random.Generator, fraction: float) -> dict[str, Tensor]:
        """uint8 crops [batch, 1, size, size] by plane, and `malignant` int64 [batch]; both classes evenly."""
        recipe = self.recipe
        crops = np.zeros((len(PLANES), recipe.batch, 1, recipe.size, recipe.size), np.uint8)
        labels = rng.permutation(np.arange(recipe.batch) % 2)
        for i, label in enumerate(labels):
            p, lesion = self.lesions[label][int(rng.integers(len(self.lesions[label])))]
            stored = self.phantoms[p].triplets[lesion]
            triplet = stored[int(rng.integers(stored.shape[0])), int(rng.integers(stored.shape[1]))]
            crops[:, i, 0] = augmented_triplet(triplet, rng, recipe)
        batch = {str(plane): torch.from_numpy(crops[p]) for p, plane in enumerate(PLANES)}
        return batch | {"malignant": torch.from_numpy(labels.astype(np.int64))}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy with smoothed labels."""
        logits = model(*_network_inputs(model, [batch[str(plane)] for plane in PLANES]))
        return functional.cross_entropy(logits.float(), batch["malignant"], label_smoothing=self.recipe.label_smoothing)

    def train_mode(self, model: nn.Module) -> None:
        """Everything learns but the frozen parts, whose statistics stay too."""
        model.train()
        for name in self.frozen:
            for module in model.get_submodule(name).modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """AUC and accuracy by lesion, around its true box and a jittered one: the mean of every second frame."""
        scores = {}
        for name, box in (("", 0), ("_jittered", -1)):
            probabilities, labels = [], []
            for phantom in self.held_out:
                for lesion, malignant in enumerate(phantom.malignant):
                    triplets = phantom.triplets[lesion, box, ::2]
                    probabilities.append(float(frame_probabilities(model, triplets, self.recipe).mean()))
                    labels.append(bool(malignant))
            if 0 < sum(labels) < len(labels):
                scores[f"auc{name}"] = auc(labels, probabilities)
                scores[f"accuracy{name}"] = float(np.mean((np.array(probabilities) > 0.5) == np.array(labels)))
        return scores

    def record(self) -> dict[str, Any]:
        """The split, and how the weights started."""
        return self.sources | {
            "lesions": {"benign": len(self.lesions[0]), "malignant": len(self.lesions[1])},
            "start": self.start,
            **self.started,
            "stride_at": cast(FusionClassifier, self.model).stride_at,
            "fresh": sorted(self.fresh),
            "frozen": list(self.frozen),
        }


def imagenet_start(model: nn.Module, folder: Path) -> list[str]:
    """Start every branch from ImageNet; the names of the convolutions and norms that were not loaded."""
    fresh = []
    for plane, branch in _branches(model).items():
        for layer in load_keras_resnet50(branch, folder):
            fresh += [f"branches.{plane}.{name}" for name in module_names(layer)]
    return fresh


def sgd(model: nn.Module, recipe: SgdRecipe, fresh: set[str], *, started: bool) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; norms and biases do not decay.

    When the branches `started` from trained weights, the head and the modules named in `fresh` learn
    `recipe.fresh_lr_scale` times as fast.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            new = not name.startswith("branches.") or name.rpartition(".")[0] in fresh
            groups.setdefault((started and new, parameter.ndim > 1), []).append(parameter)
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "scale": recipe.fresh_lr_scale if new else 1.0,
                "weight_decay": recipe.weight_decay if decays else 0.0,
            }
            for (new, decays), parameters in groups.items()
        ],
        lr=recipe.peak_lr,
        momentum=recipe.momentum,
        nesterov=True,
        foreach=True,
    )


def augmented_triplet(
    triplet: NDArray[np.uint8], rng: np.random.Generator, recipe: ClassifierRecipe
) -> NDArray[np.uint8]:
    """A stored triplet [3, stored, stored] as [3, size, size]: one margin, one shift and one brightness a plane.

    Flips are the lesion's, not the picture's: mirroring the lateral axis turns the columns of the transverse and the
    coronal crop, mirroring the sweep turns the columns of the sagittal and the rows of the coronal one. Depth is never
    mirrored (shadow and enhancement lie behind a lesion).
    """
    flipped = {axis: bool(rng.random() < 0.5) for axis in (0, 2)}
    margin = rng.uniform(*recipe.margins)
    out = np.empty((len(triplet), recipe.size, recipe.size), np.uint8)
    for p, plane in enumerate(PLANES):
        image = cut_margin(triplet[p], margin, recipe.size, rng.uniform(-recipe.shift, recipe.shift, 2))
        if flipped.get(plane.rows, False):
            image = image[::-1]
        if flipped.get(plane.columns, False):
            image = image[:, ::-1]
        out[p] = brightness(np.ascontiguousarray(image), rng)
    return out


def cut_margin(
    image: NDArray[np.uint8], margin: float, size: int, shift: Sequence[float] | NDArray = (0.0, 0.0)
) -> NDArray[np.uint8]:
    """The part of a stored crop (1.8 times the lesion) that spans `margin` times the lesion, as `size` pixels.

    `shift` moves the window by parts of its own side (rows, columns), as far as the stored crop reaches.
    """
    stored = image.shape[0]
    side = min(stored, max(2, round(stored * margin / STORED_MARGIN)))
    corner = [int(np.clip(round((stored - side) / 2 + s * side), 0, stored - side)) for s in shift]
    cut = image[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    way = cv2.INTER_AREA if size <= side else cv2.INTER_LINEAR
    return cv2.resize(cut, (size, size), interpolation=way)  # type: ignore[return-value]


def frame_probabilities(model: nn.Module, triplets: NDArray[np.uint8], recipe: ClassifierRecipe) -> NDArray[np.float64]:
    """P(malignant) of each stored triplet [frames, 3, stored, stored] at the deployed margin."""
    crops = np.stack(
        [[cut_margin(image, recipe.margin, recipe.size) for image in triplet] for triplet in triplets]
    ).transpose(1, 0, 2, 3)
    device = next(model.parameters()).device
    pixels = [torch.from_numpy(np.ascontiguousarray(plane))[:, None].to(device) for plane in crops]
    logits = model(*_network_inputs(model, pixels))
    return torch.softmax(logits.double(), 1)[:, 1].cpu().numpy()


def module_names(keras_layer: str) -> tuple[str, str]:
    """Convolution and norm of a branch that a Keras layer names: "conv5_block1_2" is layer4.0.conv2 and .bn2."""
    if keras_layer == "conv1":
        return "conv1", "bn1"
    stage, block, part = keras_layer.removeprefix("conv").replace("block", "").split("_")
    prefix = f"layer{int(stage) - 1}.{int(block) - 1}"
    if part == "0":
        return f"{prefix}.downsample.0", f"{prefix}.downsample.1"
    return f"{prefix}.conv{part}", f"{prefix}.bn{part}"


def _network_inputs(model: nn.Module, pixels: Sequence[Tensor]) -> list[Tensor]:
    normalise = model.normalise  # type: ignore[attr-defined]
    return [normalise(x).contiguous(memory_format=torch.channels_last) for x in pixels]  # type: ignore[operator]


def _branches(model: nn.Module) -> dict[str, Branch]:
    return dict(cast(Any, model).branches.items())


def _lesions_by_class(phantoms: Sequence[PhantomData]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    classes: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for p, phantom in enumerate(phantoms):
        for lesion, malignant in enumerate(phantom.malignant):
            classes[int(malignant)].append((p, lesion))
    if not classes[0] or not classes[1]:
        raise TrainingDataError(
            "the training phantoms lack a class",
            expected="benign and malignant lesions",
            found=f"{len(classes[0])} benign, {len(classes[1])} malignant",
        )
    return classes
