"""Users' own weights as they are: plain SMP and torchvision state dicts become the networks of a pack.

What is converted is converted exactly, so that the network answers as the user's own did:

* a first convolution of three colour channels, which all saw the same grey, becomes one of one grey channel with the
  user's normalisation. Where the three means differ, zero padding is another grey in each channel; a second, constant
  input channel carries that (`GreyStem`), so that pixels at the border come out the same too;
* a head of one logit becomes two: softmax of (-z / 2, z / 2) is the sigmoid of z;
* two segmentation classes (background, lesion) become one logit, their difference.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scanside.errors import CheckpointError, UsageError
from scanside.models.backbones import Backbone, StrideAt, known_backbone
from scanside.models.fusion import CLASSES, PLANES, VARIANTS, FusionClassifier
from scanside.models.normalise import GREY_MEAN, GREY_STD
from scanside.models.unet import ENCODER, Segmenter, build_segmenter
from scanside.models.weights import put, read_tensors, recognised

COLOURS = 3


@dataclass(frozen=True)
class Normalisation:
    """What a network's input was in training: ``(x / 255 - mean) / std`` of grey pixels x, 0 to 255.

    Parameters
    ----------
    mean, std : tuple of float
        Fractions of full scale: one value, or one for each of three colour channels.

    Raises
    ------
    UsageError
        Other counts, a mean outside 0 to 1, or a deviation outside (0, 1].
    """

    mean: tuple[float, ...] = (GREY_MEAN,)
    std: tuple[float, ...] = (GREY_STD,)

    def __post_init__(self) -> None:
        for what, values, good in (
            ("mean", self.mean, all(0 <= v <= 1 for v in self.mean)),
            ("std", self.std, all(0 < v <= 1 for v in self.std)),
        ):
            if len(values) not in (1, COLOURS) or not good:
                raise UsageError(
                    f"the {what} of the input makes no sense",
                    expected=f"1 or {COLOURS} fractions of full scale, 0 to 1"
                    + (" without 0" if what == "std" else ""),
                    found=", ".join(f"{v:g}" for v in values) or "none",
                    remedy="values for pixels of 0 to 255 are to be divided by 255",
                )

    @property
    def grey(self) -> tuple[float, float]:
        """One mean and one deviation: those of the network's single grey channel."""
        return sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)

    @property
    def channels(self) -> int:
        """How many colour channels the values were given for."""
        return max(len(self.mean), len(self.std))


class GreyStem(nn.Module):
    """A first convolution that sees the grey picture and a constant picture of ones beside it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat((x, x * 0 + 1), 1))


def load_segmenter(path: str | Path, normalisation: Normalisation | None = None) -> Segmenter:
    """The segmenter in `path`: a state dict of ``smp.Unet("efficientnet-b0")``.

    Accepted are one or three input channels, and one class (a logit) or two (background, lesion; softmax).

    Parameters
    ----------
    normalisation : Normalisation, optional
        How the network's input was normalised in training; Scanside's own if None.

    Raises
    ------
    CheckpointError
        The file is absent, damaged, would run code, or holds another network.
    UsageError
        Three means for a network of one channel.
    """
    normalisation = normalisation or Normalisation()
    tensors = read_tensors(path)
    model = build_segmenter(*normalisation.grey)
    for name in ("segmentation_head.0.weight", "segmentation_head.0.bias"):
        if name in tensors and len(tensors[name]) == CLASSES:
            background, lesion = tensors[name]
            tensors[name] = (lesion - background)[None]
    _take_grey(model, tensors, "encoder._conv_stem", normalisation, path)
    put(model, tensors, where=path, network=f"an SMP Unet {ENCODER}, 1 or 3 channels, 1 or 2 classes")
    return model.eval()


def load_classifier(
    files: str | Path | Mapping[str, str | Path],
    *,
    backbone: str = "resnet50",
    variant: str | None = None,
    normalisation: Normalisation | None = None,
    stride_at: StrideAt = "3x3",
) -> FusionClassifier:
    """The classifier in one file, or in one file a plane.

    Accepted are plain torchvision state dicts of one plane's network, whose head has two classes (benign, malignant)
    or one logit (malignant), with one or three input channels; and files with Scanside's own names
    (``branches.<plane>.<torchvision's name>``, ``halve.0``, ``classify``; for `late` ``classify.<plane>``), which hold
    a whole fusion.

    Parameters
    ----------
    files : path, or mapping of plane to path
        A file a plane makes the variant `late`, or that plane's own when there is only one.
    backbone, stride_at : str
        See `FusionClassifier`.
    variant : str, optional
        What one file holds; "fusion2" if None.

    Raises
    ------
    CheckpointError
        A file is absent, damaged, would run code, holds another network, or a head of other classes.
    UsageError
        An unknown name, or files that make no variant.
    """
    normalisation = normalisation or Normalisation()
    variant, by_plane = _sources(files, variant)
    mean, std = normalisation.grey
    kind = known_backbone(backbone)
    tensors: dict[str, Tensor] = {}
    for plane, path in by_plane.items():
        read = read_tensors(path)
        if not any(name.startswith("branches.") for name in read):
            read = _renamed(read, kind, f"a {backbone} {variant}", plane or variant, path)
        if variant == "late" and plane is not None:
            read = {_of_plane(name, plane): tensor for name, tensor in read.items()}
        tensors |= read
    where = ", ".join(str(path) for path in dict.fromkeys(by_plane.values()))
    for name in [name for name in tensors if name.startswith("classify.") and name.endswith((".weight", ".bias"))]:
        tensors[name] = _two_classes(tensors[name], where)
    model = FusionClassifier(backbone, variant, stride_at=stride_at, mean=mean, std=std)
    for plane in model.planes:
        _take_grey(model, tensors, f"branches.{plane}.{kind.first}", normalisation, where)
    put(model, tensors, where=where, network=f"a {backbone} {variant}")
    return model.eval()


def _sources(
    files: str | Path | Mapping[str, str | Path], variant: str | None
) -> tuple[str, dict[str | None, str | Path]]:
    """The variant, and the file of each plane (None: of all)."""
    if variant not in (None, *VARIANTS):
        raise UsageError("unknown variant", expected=" | ".join(VARIANTS), found=variant)
    if not isinstance(files, Mapping):
        return variant or "fusion2", {None: files}
    if set(files) == set(PLANES):
        made = "late"
    elif len(files) == 1 and set(files) <= set(PLANES):
        made = next(iter(files))
    else:
        raise UsageError(
            "these files make no classifier",
            expected=f"one file for one plane, or one for each of {', '.join(PLANES)}",
            found=", ".join(files) or "none",
        )
    if variant not in (None, made):
        raise UsageError("one file a plane makes another variant", expected=made, found=variant)
    return made, {plane: files[plane] for plane in PLANES if plane in files}


def _renamed(
    tensors: Mapping[str, Tensor], kind: Backbone, network: str, plane: str, path: str | Path
) -> dict[str, Tensor]:
    """A torchvision state dict of one plane with this package's names."""
    if plane not in PLANES:
        known = recognised(tensors)
        raise CheckpointError(
            "the weights are another model's",
            where=path,
            expected=f"{network}: branches.<plane>.<torchvision's name>, halve, classify",
            found=f"one plane's {known}" if known else "names of neither torchvision nor scanside",
            remedy="give --variant transverse, sagittal or coronal, or one file a plane",
        )
    renamed = {}
    for name, tensor in tensors.items():
        theirs = next((part for part in kind.head if name.startswith(f"{part}.")), None)
        ours = f"branches.{plane}.{name}" if theirs is None else kind.head[theirs] + name.removeprefix(theirs)
        renamed[ours] = tensor
    return renamed


def _of_plane(name: str, plane: str) -> str:
    """The name of a head's tensor where every plane has a head of its own: "classify.coronal.weight"."""
    part, _, rest = name.partition(".")
    return name if part == "branches" else f"{part}.{plane}.{rest}"


def _two_classes(tensor: Tensor, where: object) -> Tensor:
    """A head's weight or bias with a row for benign and one for malignant."""
    if len(tensor) == 1:
        return torch.cat((-0.5 * tensor, 0.5 * tensor))
    if len(tensor) != CLASSES:
        raise CheckpointError(
            "the head knows other classes",
            where=where,
            expected="2 classes (benign, malignant) or 1 logit (malignant)",
            found=f"{len(tensor)} classes",
            remedy="train it on benign and malignant lesions first" if len(tensor) == 1000 else None,
        )
    return tensor


def _take_grey(
    model: nn.Module, tensors: dict[str, Tensor], name: str, normalisation: Normalisation, where: object
) -> None:
    """Fold the first convolution `name` of `tensors` to one grey channel, in place, and fit `model` to it."""
    weight = tensors.get(f"{name}.weight")
    if weight is None or weight.ndim != 4 or weight.shape[1] not in (1, COLOURS):
        return  # `put` says what is wrong
    if weight.shape[1] == 1:
        if normalisation.channels != 1:
            raise UsageError(
                "a mean or std for each colour, but the network takes grey",
                where=where,
                expected="1 value",
                found=f"{normalisation.channels} values",
            )
        return
    grey_mean, grey_std = normalisation.grey
    weight = weight.double()
    mean, std = (
        torch.tensor(values, dtype=torch.float64).expand(COLOURS).reshape(1, COLOURS, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    grey = (weight * (grey_std / std)).sum(1, keepdim=True)
    constant = (weight * ((grey_mean - mean) / std)).sum(1, keepdim=True)
    if torch.equal(mean, mean[:, :1].expand_as(mean)):
        tensors[f"{name}.weight"] = grey.float()
        return
    conv = copy.deepcopy(model.get_submodule(name))
    assert isinstance(conv, nn.Conv2d)
    conv.in_channels = 2
    conv.weight = nn.Parameter(conv.weight.new_empty(weight.shape[0], 2, *weight.shape[2:]))
    model.set_submodule(name, GreyStem(conv))
    del tensors[f"{name}.weight"]
    tensors[f"{name}.conv.weight"] = torch.cat((grey, constant), 1).float()
    if f"{name}.bias" in tensors:
        tensors[f"{name}.conv.bias"] = tensors.pop(f"{name}.bias")
