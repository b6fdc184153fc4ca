"""Training of the segmenter on sections of volumes in all three planes, and on pictures (BUS-BRA, BUSI)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scanside.evaluation.segmentation import dice
from scanside.exam.planes import Plane
from scanside.models.unet import build_segmenter
from scanside.training.augment import brightness, corner_near, texture, window
from scanside.training.busbra import padded, resized, resized_mask
from scanside.training.cohort_data import PhantomData
from scanside.training.datasets import Picture, checked_pair
from scanside.training.errors import TrainingDataError
from scanside.training.recipe import SegmenterRecipe
from scanside.training.start import RANDOM, read_start, started


class Pictures(Protocol):
    """Pictures by use, see `scanside.training.sources.PictureSplit`."""

    @property
    def train(self) -> tuple[Picture, ...]: ...

    @property
    def validation(self) -> tuple[Picture, ...]: ...


EXACT_SCALE_SHARE = 0.5
"""Part of the phantom crops whose pixels are exactly the deployed ones: no interpolation softens their speckle."""
FALSE_ALARM_PIXELS = 20


class SegmenterTask:
    """See `scanside.training.loop.Task`.

    Parameters
    ----------
    phantoms, held_out : sequences of PhantomData
        Volumes to train on and to validate with; without any, only pictures are seen.
    pictures : optional
        Pictures of the same two uses.
    sources : mapping, optional
        What the record says of the data; with a `start`, at least its "data_sets".
    start : path, optional
        Weights of a trained segmenter, with their record, to start from; without, all weights are random.

    Raises
    ------
    TrainingDataError
        There is nothing to train on, or a picture's mask does not fit it or is empty.
    LeakError, UsageError, CheckpointError
        The start cannot be used; see `scanside.training.start.read_start`.
    """

    name = "segmenter"

    def __init__(
        self,
        recipe: SegmenterRecipe,
        phantoms: Sequence[PhantomData],
        held_out: Sequence[PhantomData],
        pictures: Pictures | None,
        sources: Mapping[str, Any] | None = None,
        *,
        start: str | Path | None = None,
    ) -> None:
        if not phantoms and pictures is None:
            raise TrainingDataError("there is nothing to train on")
        self.recipe = recipe
        self.sections = SectionPool(phantoms)
        self.sources = dict(sources or {})
        self.images = PicturePool(pictures.train, recipe.busbra_longer_side) if pictures is not None else None
        self.held_out_images = [checked_pair(v) for v in pictures.validation] if pictures is not None else []
        self.exams = _validation_sections(held_out, recipe.validation_sections)
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model: nn.Module = build_segmenter()
        self.start = None if start is None else read_start(start, self.name, self.sources["data_sets"])
        self.start_files: Mapping[str, str] = {}
        if self.start is not None:
            self.start.give(self.model)
            self.start_files = {self.name: self.start.sha256}

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW; norms and biases do not decay."""
        weights = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": weights, "weight_decay": self.recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.recipe.peak_lr, foreach=True)

    def batch(self, rng: np.random.Generator, fraction: float) -> dict[str, Tensor]:
        """uint8 `pixels` and `mask`, both [batch, 1, size, size]."""
        recipe, size = self.recipe, self.recipe.crop_size(fraction)
        fraction_real = recipe.busbra_fraction if self.sections.phantoms else 1.0
        real = round(recipe.batch * fraction_real) if self.images is not None else 0
        pixels = np.zeros((recipe.batch, 1, size, size), np.uint8)
        mask = np.zeros_like(pixels)
        for i in range(recipe.batch):
            if i < real:
                assert self.images is not None
                factor = size / recipe.crop_sizes[-1]
                cut = self.images.draw(rng, size, recipe.busbra_scale, factor)
            else:
                cut = self.sections.draw(rng, size, recipe)
            pixels[i, 0], mask[i, 0] = texture(brightness(cut[0], rng), rng), cut[1]
        return {"pixels": torch.from_numpy(pixels), "mask": torch.from_numpy(mask)}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Dice plus cross-entropy; see `segmentation_loss`."""
        x = model.normalise(batch["pixels"]).contiguous(memory_format=torch.channels_last)  # type: ignore[operator]
        return segmentation_loss(model(x).float(), batch["mask"].float(), self.recipe.hard_pixels)

    def train_mode(self, model: nn.Module) -> None:
        """Everything learns."""
        model.train()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mean Dice a plane over sections with a lesion, false alarms a section without, and Dice on BUS-BRA."""
        scores: dict[str, float] = {}
        alarms: list[float] = []
        for plane in Plane:
            dices = []
            for image, truth in self.exams.get(plane, []):
                found = section_probability(model, image) >= 0.5
                if truth.any():
                    dices.append(dice(found, truth))
                else:
                    alarms.append(float(found.sum() >= FALSE_ALARM_PIXELS))
            if dices:
                scores[f"dice_{plane}"] = float(np.mean(dices))
        if alarms:
            scores["false_alarms"] = float(np.mean(alarms))
        if self.held_out_images:
            rule = self.recipe.busbra_longer_side
            found_real = [
                dice(section_probability(model, resized(pixels, rule)) >= 0.5, resized_mask(mask, rule))
                for pixels, mask in self.held_out_images
            ]
            scores["dice_pictures"] = float(np.mean(found_real))
        return scores

    def record(self) -> dict[str, Any]:
        """The split, how the weights started, and how pictures without a pixel spacing are seen."""
        record = {**self.sources, "start": RANDOM}
        if self.start is not None:
            record |= {"start": "trained segmenter", **started({self.name: self.start})}
        if self.images is not None:
            rule = f"longer side {self.recipe.busbra_longer_side} pixels, aspect kept, zeros after"
            record["resize_rule"] = rule
        return record


class SectionPool:
    """Phantom sections to draw from: planes evenly, lesions evenly whatever their size."""

    def __init__(self, phantoms: Sequence[PhantomData]) -> None:
        self.phantoms = phantoms
        self.lesions: dict[Plane, list[tuple[int, int, NDArray[np.int32]]]] = {plane: [] for plane in Plane}
        self.empty: dict[Plane, list[tuple[int, int]]] = {plane: [] for plane in Plane}
        for p, phantom in enumerate(phantoms):
            for plane, stored in phantom.planes.items():
                self.empty[plane] += [(p, int(row)) for row in stored.empty]
                for lesion in np.unique(stored.lesions[:, 1]):
                    rows = stored.lesions[stored.lesions[:, 1] == lesion, 0]
                    self.lesions[plane].append((p, int(lesion), rows))

    def draw(self, rng: np.random.Generator, size: int, recipe: SegmenterRecipe) -> tuple[NDArray, NDArray]:
        """A crop and its mask, uint8 [size, size]."""
        plane = tuple(Plane)[int(rng.integers(3))]
        with_lesion = bool(self.lesions[plane]) and (rng.random() < recipe.lesion_fraction or not self.empty[plane])
        exact = rng.random() < EXACT_SCALE_SHARE
        scale = 1.0 if exact else float(rng.uniform(*recipe.phantom_scale))
        if with_lesion:
            p, lesion, rows = self.lesions[plane][int(rng.integers(len(self.lesions[plane])))]
            phantom, row = self.phantoms[p], int(rows[int(rng.integers(len(rows)))])
            centre_mm = phantom.boxes_mm[lesion].mean(0)
            centre = tuple(float(centre_mm[a]) / phantom.pitch_mm for a in (plane.rows, plane.columns))
        else:
            p, row = self.empty[plane][int(rng.integers(len(self.empty[plane])))]
            phantom = self.phantoms[p]
            centre = tuple(float(rng.uniform(0, n)) for n in phantom.planes[plane].images.shape[1:])
        stored = phantom.planes[plane]
        corner = corner_near(rng, centre, stored.images.shape[1:], size / scale)  # type: ignore[arg-type]
        flips = (plane is Plane.CORONAL and bool(rng.random() < 0.5), bool(rng.random() < 0.5))
        return window(stored.images[row], stored.mask(row), corner, scale, size, flips)


class PicturePool:
    """Training pictures in memory, a little larger than the network sees them."""

    def __init__(self, pictures: Sequence[Picture], longer_side: int) -> None:
        kept = round(longer_side * 1.2)
        self.longer_side = longer_side
        pairs = (checked_pair(picture) for picture in pictures)
        self.items = [(resized(pixels, kept), resized_mask(mask, kept)) for pixels, mask in pairs]

    def draw(
        self, rng: np.random.Generator, size: int, scales: tuple[float, float], factor: float
    ) -> tuple[NDArray, NDArray]:
        """A crop and its mask, uint8 [size, size], with the longer side at `longer_side * factor` times a scale."""
        image, mask = self.items[int(rng.integers(len(self.items)))]
        side = max(8, round(self.longer_side * factor * rng.uniform(*scales)))
        image, mask = resized(image, side), resized_mask(mask, side)
        if rng.random() < 0.5:  # before the cut, so that the zeros stay at the right as deployed
            image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
        inside = np.argwhere(mask)
        centre = inside.mean(0) if len(inside) else np.array(mask.shape) / 2
        corner = corner_near(rng, (float(centre[0]), float(centre[1])), mask.shape, size)
        return window(image, mask, corner, 1.0, size, (False, False))


def segmentation_loss(logits: Tensor, target: Tensor, hard_pixels: float) -> Tensor:
    """Soft Dice over images with a lesion, plus cross-entropy over all pixels and over the hardest ones.

    Parameters
    ----------
    logits, target : Tensor
        [N, 1, H, W]; target 0 or 1.
    hard_pixels : float
        Part of each image's pixels, those with the greatest loss, that count a second time: false alarms in an empty
        image weigh like a missed lesion.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    hardest = entropy.topk(max(1, int(hard_pixels * entropy.shape[1])), dim=1, sorted=False).values
    probability, target = torch.sigmoid(logits).flatten(1), target.flatten(1)
    overlap = 2 * (probability * target).sum(1) + 1
    dice_loss = 1 - overlap / (probability.sum(1) + target.sum(1) + 1)
    shown = (target.sum(1) > 0).float()
    return entropy.mean() + 0.5 * hardest.mean() + (dice_loss * shown).sum() / shown.sum().clamp(min=1)


def section_probability(model: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """P(lesion) of one uint8 image (rows, columns) padded as deployed; the same shape."""
    device = next(model.parameters()).device
    batch = torch.from_numpy(padded(image))[None, None].to(device)
    logits = model(model.normalise(batch).contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
    return torch.sigmoid(logits)[0, 0, : image.shape[0], : image.shape[1]].float().cpu().numpy()


def _validation_sections(phantoms: Sequence[PhantomData], count: int) -> dict[Plane, list[tuple[NDArray, NDArray]]]:
    """A fixed choice of whole sections, `count` in all: two thirds with a lesion."""
    rng = np.random.default_rng(2)
    chosen: dict[Plane, list[tuple[NDArray, NDArray]]] = {}
    each = max(1, round(count / (len(Plane) * max(1, len(phantoms)))))
    for plane in Plane:
        for phantom in phantoms:
            stored = phantom.planes[plane]
            shown = np.unique(stored.lesions[:, 0])
            lesions = min(len(shown), max(1, round(each * 2 / 3)))
            rows = [*rng.choice(shown, lesions, replace=False)] if lesions else []
            empties = min(len(stored.empty), max(1, each - lesions))
            rows += [*rng.choice(stored.empty, empties, replace=False)] if empties else []
            chosen.setdefault(plane, []).extend((stored.images[r], stored.mask(int(r))) for r in rows)
    return chosen
