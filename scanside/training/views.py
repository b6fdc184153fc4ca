"""Classification of BUS-BRA's lesions: one network for any single view, or `fusion1` of two orthogonal views.

Of BUS-BRA's 1,064 lesions 811 have two views (``-l`` and ``-r``, the halves of one screen): a real two-plane data set.
A single-view network learns from every image by itself; a lesion's probability is the mean over its views (`late` when
there are two). `fusion1` takes both views at once, its branches starting from the single-view network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scanside.evaluation.roc import auc
from scanside.exam.write import atomic_file
from scanside.models.backbones import StrideAt
from scanside.models.fusion import MALIGNANT, FusionClassifier
from scanside.models.weights import weights_sha256
from scanside.training.augment import brightness
from scanside.training.busbra import BusbraImage, check_cases, read_busbra, split_busbra
from scanside.training.checkpoint import load_weights
from scanside.training.classify import imagenet_start, sgd
from scanside.training.errors import TrainingDataError
from scanside.training.loop import Arithmetic, best_arithmetic, train
from scanside.training.recipe import ViewsRecipe
from scanside.training.start import IMAGENET, RANDOM, trained_stride, training_record

STORED_SIZE = 288
STORED_MARGIN = 1.8
"""Crops are kept this much wider than the lesion, so that every shift, turn and scale stays inside."""


@dataclass(frozen=True)
class ViewedLesion:
    """A lesion of BUS-BRA and its views in the order of their ids; `crops` is uint8 [views, stored, stored]."""

    case: str
    malignant: bool
    images: tuple[str, ...]
    crops: NDArray[np.uint8]


@dataclass(frozen=True)
class ViewsSplit:
    """Lesions by use; no case is in two of them."""

    train: tuple[ViewedLesion, ...]
    validation: tuple[ViewedLesion, ...]
    test: tuple[ViewedLesion, ...]

    def two_views(self) -> ViewsSplit:
        """Only the lesions with two views."""
        parts = (tuple(v for v in part if len(v.images) == 2) for part in (self.train, self.validation, self.test))
        return ViewsSplit(*parts)


def split_views(busbra: str | Path, *, test_fold: int, validation_images: int) -> ViewsSplit:
    """The lesions of BUS-BRA with `test_fold` held out, cut to their crops.

    Raises
    ------
    TrainingDataError
        BUS-BRA is incomplete, the fold is none, or a lesion's mask is empty.
    """
    images = read_busbra(busbra, test_fold=test_fold)
    split = split_busbra(images, test_fold=test_fold, validation_images=validation_images)
    if not split.test:
        raise TrainingDataError("the fold holds no image", where=busbra, expected="1 to 5", found=test_fold)
    check_cases(split.train, split.validation, split.test)
    return ViewsSplit(*(_lesions(part) for part in (split.train, split.validation, split.test)))


def stored_crop(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square of 1.8 times the mask's longer side around its box, `STORED_SIZE` pixels; zero outside the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise TrainingDataError("the lesion's mask is empty", expected="at least one pixel of lesion")
    low = np.array([rows[0], columns[0]], float)
    high = np.array([rows[-1] + 1, columns[-1] + 1], float)
    side = float((high - low).max()) * STORED_MARGIN
    corner = np.round((low + high - side) / 2).astype(int)
    side_pixels = max(1, round(side))
    cut = np.zeros((side_pixels, side_pixels), np.uint8)
    first, last = np.maximum(corner, 0), np.minimum(corner + side_pixels, image.shape)
    cut[first[0] - corner[0] : last[0] - corner[0], first[1] - corner[1] : last[1] - corner[1]] = image[
        first[0] : last[0], first[1] : last[1]
    ]
    way = cv2.INTER_AREA if side_pixels > STORED_SIZE else cv2.INTER_LINEAR
    return cv2.resize(cut, (STORED_SIZE, STORED_SIZE), interpolation=way)  # type: ignore[return-value]


def seen_crop(
    stored: NDArray[np.uint8],
    size: int,
    margin: float,
    *,
    turn_degrees: float = 0.0,
    shift: Sequence[float] = (0.0, 0.0),
    mirrored: bool = False,
) -> NDArray[np.uint8]:
    """What the network sees of a stored crop: `margin` times the lesion as `size` pixels.

    `shift` (rows, columns) is in parts of the window's side; `mirrored` turns left and right (never up and down:
    shadow and enhancement lie behind a lesion).
    """
    scale = size / (STORED_SIZE * margin / STORED_MARGIN)
    angle = np.deg2rad(turn_degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        linear[0] = -linear[0]
    middle = (STORED_SIZE - 1) / 2
    target = (size - 1) / 2 + size * np.array([shift[1], shift[0]])
    matrix = np.column_stack([linear, target - linear @ [middle, middle]])
    return cv2.warpAffine(stored, matrix, (size, size), flags=cv2.INTER_LINEAR)  # type: ignore[return-value]


class ViewsTask:
    """See `scanside.training.loop.Task`. `variant` of the recipe: "transverse" is any single view, or "fusion1".

    Parameters
    ----------
    imagenet : path, optional
        Folder of ResNet50 weights in the Keras layout, to start a single-view ResNet from; the further blocks of a
        deeper one start as the identity.
    single : path, optional
        Weights of a single-view network with their record, to start both branches and the head of `fusion1` from.
    """

    def __init__(
        self,
        recipe: ViewsRecipe,
        split: ViewsSplit,
        *,
        name: str,
        imagenet: str | Path | None = None,
        single: str | Path | None = None,
    ) -> None:
        self.recipe, self.name = recipe, name
        self.split = split if recipe.variant != "fusion1" else split.two_views()
        self.images = [(lesion, view) for lesion in self.split.train for view in range(len(lesion.images))]
        self.start_files: Mapping[str, str] = {} if single is None else {"single": weights_sha256(Path(single))}
        self.start = "single view" if single else IMAGENET if imagenet else RANDOM
        stride_at: StrideAt = stride_of(single) if single else "1x1" if imagenet else "3x3"
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model: nn.Module = FusionClassifier(recipe.backbone, recipe.variant, stride_at=stride_at)  # type: ignore[arg-type]
            self.fresh = set(imagenet_start(self.model, Path(imagenet))) if imagenet and not single else set()
            if single is not None:
                self._start_from(Path(single))

    def _start_from(self, weights: Path) -> None:
        model = cast(FusionClassifier, self.model)
        donor = FusionClassifier(self.recipe.backbone, "transverse", stride_at=model.stride_at)
        load_weights(donor, weights)
        for branch in model.branches.values():
            branch.load_state_dict(donor.branches["transverse"].state_dict())
        model.tail.load_state_dict(donor.tail.state_dict())
        model.classify.load_state_dict(donor.classify.state_dict())

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum; parts that start from random weights learn faster when the rest does not."""
        return sgd(self.model, self.recipe, self.fresh, started=self.start != RANDOM)

    def batch(self, rng: np.random.Generator, fraction: float) -> dict[str, Tensor]:
        """uint8 crops [batch, 1, size, size] a view, and `malignant` int64 [batch]."""
        recipe = self.recipe
        views = len(cast(FusionClassifier, self.model).planes)
        crops = np.zeros((views, recipe.batch, 1, recipe.size, recipe.size), np.uint8)
        labels = np.zeros(recipe.batch, np.int64)
        for i in range(recipe.batch):
            if views == 1:
                lesion, view = self.images[int(rng.integers(len(self.images)))]
                shown: Sequence[int] = (view,)
            else:
                lesion = self.split.train[int(rng.integers(len(self.split.train)))]
                shown = rng.permutation(2).tolist()  # which half of the screen is which plane is not stated
            labels[i] = lesion.malignant
            for v, view in enumerate(shown):
                crops[v, i, 0] = self._augmented(lesion.crops[view], rng)
        return {f"view{v}": torch.from_numpy(crops[v]) for v in range(views)} | {"malignant": torch.from_numpy(labels)}

    def _augmented(self, stored: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        recipe = self.recipe
        cut = seen_crop(
            stored,
            recipe.size,
            float(rng.uniform(*recipe.margins)),
            turn_degrees=float(rng.uniform(-recipe.turn_degrees, recipe.turn_degrees)),
            shift=rng.uniform(-recipe.shift, recipe.shift, 2).tolist(),
            mirrored=bool(rng.random() < 0.5),
        )
        return brightness(cut, rng)

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy with smoothed labels."""
        views = [batch[f"view{v}"] for v in range(len(batch) - 1)]
        return functional.cross_entropy(
            _logits(model, views).float(), batch["malignant"], label_smoothing=self.recipe.label_smoothing
        )

    def train_mode(self, model: nn.Module) -> None:
        """Everything learns."""
        model.train()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """AUC by lesion over the validation cases."""
        lesions = self.split.validation
        labels = np.array([v.malignant for v in lesions])
        if not 0 < labels.sum() < len(labels):
            return {}
        probabilities = lesion_probabilities(model, lesions, self.recipe)
        return {"auc": auc(labels, [p.mean() for p in probabilities])}

    def record(self) -> dict[str, Any]:
        """The split by case, and how the weights started."""
        cases = {name: [v.case for v in getattr(self.split, name)] for name in ("train", "validation", "test")}
        stride_at = cast(FusionClassifier, self.model).stride_at
        record = {"busbra": cases, "start": self.start, "stride_at": stride_at, "fresh": sorted(self.fresh)}
        return record | ({"start_files": dict(self.start_files)} if self.start_files else {})


def lesion_probabilities(
    model: nn.Module, lesions: Sequence[ViewedLesion], recipe: ViewsRecipe
) -> list[NDArray[np.float64]]:
    """P(malignant) of each lesion: one a view for a single-view network, one in all for `fusion1`."""
    single = len(cast(FusionClassifier, model).planes) == 1
    device = next(model.parameters()).device
    answers = []
    for lesion in lesions:
        crops = np.stack([seen_crop(stored, recipe.size, recipe.margin) for stored in lesion.crops])[:, None]
        pixels = torch.from_numpy(crops).to(device)
        views = [pixels] if single else [pixels[:1], pixels[1:]]
        logits = _logits(model, views)
        answers.append(torch.softmax(logits.double(), 1)[:, MALIGNANT].cpu().numpy())
    return answers


def train_views(
    recipe: ViewsRecipe,
    split: ViewsSplit,
    out: str | Path,
    *,
    name: str,
    imagenet: str | Path | None = None,
    single: str | Path | None = None,
    arithmetic: Arithmetic | None = None,
) -> Path:
    """Train (or continue) one network on `split`; returns ``OUT/<name>.safetensors``. See `loop.train`."""
    return train(
        ViewsTask(recipe, split, name=name, imagenet=imagenet, single=single), recipe, out, arithmetic=arithmetic
    )


def stride_of(weights: str | Path) -> StrideAt:
    """Where the network in `weights` strides, by the record beside them."""
    return trained_stride(training_record(Path(weights))["data"])


def predict_views(
    weights: str | Path, recipe: ViewsRecipe, lesions: Sequence[ViewedLesion]
) -> list[NDArray[np.float64]]:
    """`lesion_probabilities` of the network in `weights`, in this machine's best arithmetic."""
    arithmetic = best_arithmetic()
    model = FusionClassifier(recipe.backbone, recipe.variant, stride_at=stride_of(weights))
    load_weights(model, weights)
    model = model.to(arithmetic.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    with torch.inference_mode():
        return lesion_probabilities(model, lesions, recipe)


def write_predictions(
    path: str | Path, fold: int, lesions: Sequence[ViewedLesion], probabilities: Sequence[NDArray[np.float64]]
) -> None:
    """``case,label,probability,cohort,views`` a lesion, and each view's own probability; replaced atomically."""
    lines = [("case", "label", "probability", "cohort", "views", "first_view", "second_view")]
    for lesion, p in zip(lesions, probabilities, strict=True):
        own = [f"{v:.6f}" for v in p] if len(p) == len(lesion.images) else []
        own += [""] * (2 - len(own))
        row = (lesion.case, int(lesion.malignant), f"{p.mean():.6f}", f"fold{fold}", len(lesion.images))
        lines.append((*map(str, row), *own))  # type: ignore[arg-type]
    with atomic_file(Path(path)) as file:
        file.write("".join(",".join(line) + "\n" for line in lines).encode())


def _lesions(images: Sequence[BusbraImage]) -> tuple[ViewedLesion, ...]:
    by_case: dict[str, list[BusbraImage]] = {}
    for image in images:
        by_case.setdefault(image.case, []).append(image)
    lesions = []
    for case, views in by_case.items():
        views.sort(key=lambda v: v.id)
        if len({v.malignant for v in views}) > 1:
            raise TrainingDataError("the views of a lesion differ in pathology", where=f"case {case}")
        crops = np.stack([_crop_of(v) for v in views])
        lesions.append(ViewedLesion(case, views[0].malignant, tuple(v.id for v in views), crops))
    return tuple(lesions)


def _crop_of(image: BusbraImage) -> NDArray[np.uint8]:
    try:
        return stored_crop(image.pixels(), image.mask())
    except TrainingDataError as error:
        if error.where is not None:
            raise
        raise TrainingDataError(error.what, where=image.mask_file, expected=error.expected) from None


def _logits(model: nn.Module, views: Sequence[Tensor]) -> Tensor:
    normalise = model.normalise  # type: ignore[attr-defined]
    return model(*(normalise(v).contiguous(memory_format=torch.channels_last) for v in views))  # type: ignore[operator]
