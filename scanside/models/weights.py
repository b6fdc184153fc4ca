"""Weight files: reading tensors without running code, and putting them into a network with nothing left over.

A file is safetensors, or what `torch.save` made of a state dict (``.pt``, ``.pth``), read with ``weights_only=True``.
A state dict may lie under "state_dict" or "model_state_dict", and carry the "module." of `DataParallel`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scanside.errors import CheckpointError

TRAINING_FORMAT = "scanside-training/1"
SUFFIXES = (".safetensors", ".pt", ".pth")
MAX_NAMED = 4
"""How many tensors of each kind of mismatch a message names."""

_NESTED = ("state_dict", "model_state_dict")
_COUNTER = "num_batches_tracked"


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load `path` into `model`, every tensor required: weights, or a training checkpoint (whose average is taken).

    Raises
    ------
    CheckpointError
        The file is absent or damaged, would run code, or holds another network's weights; see `put`.
    """
    put(model, read_tensors(path), where=path)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name.

    Raises
    ------
    CheckpointError
        No such file, a damaged one, one that would run code, or one that holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("no weights here", where=path, expected="a file", found="nothing")
    if path.suffix not in SUFFIXES:
        raise CheckpointError("no weight file", where=path, expected=" | ".join(SUFFIXES), found=path.suffix or "none")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the file holds more than weights, or is damaged",
            where=path,
            expected="a state dict",
            found=_first_line(error),
            remedy="save model.state_dict() alone, as safetensors",
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError("the weights cannot be read", where=path, found=_first_line(error)) from None
    return _state_dict(content, path)


def put(
    model: nn.Module, tensors: Mapping[str, Tensor], *, where: object, network: str = "", remedy: str | None = None
) -> None:
    """Copy `tensors` into `model`. Names and shapes must be the model's own, and every value finite.

    Batch norm's counters may be absent: evaluation does not use them.

    Parameters
    ----------
    where : object
        The file, for errors.
    network : str, optional
        What the model is, for errors.
    remedy : str, optional
        What to do about another model's weights.

    Raises
    ------
    CheckpointError
        Tensors are missing, unexpected, or of another shape (each kind is listed), or not finite.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith(_COUNTER)]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [
        f"{name} {list(tensors[name].shape)} in place of {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    wrong = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if wrong:
        raise CheckpointError(
            "the weights are another model's",
            where=where,
            expected=f"the {len(own)} tensors of {network or type(model).__name__}",
            found="; ".join(wrong),
            remedy=remedy or _guess(tensors, network),
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError("a weight is not finite", where=f"{where}: {name}", found="NaN or infinity")
    model.load_state_dict(dict(tensors), strict=False)


def recognised(names: Iterable[str]) -> str | None:
    """The torchvision backbone that tensors of these names belong to, judged by what only it has."""
    found = set(names)
    for telltale, backbone in (
        ("layer3.22.conv1.weight", "resnet101"),
        ("layer3.5.conv1.weight", "resnet50"),
        ("features.denseblock3.denselayer36.conv1.weight", "densenet161"),
        ("features.34.weight", "vgg19"),
    ):
        if any(name.endswith(telltale) for name in found):
            return backbone
    return None


def _guess(names: Iterable[str], network: str) -> str | None:
    backbone = recognised(names)
    if backbone is None or backbone in network:
        return None
    return f"these look like the weights of a {backbone}: say so (--backbone {backbone})"


def _unpickled(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        if content.get("format") == TRAINING_FORMAT:
            content = content["average"]
        else:
            content = next((content[key] for key in _NESTED if key in content), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = f"{type(content).__name__} with {_some(list(content))}" if isinstance(content, Mapping) else None
        raise CheckpointError(
            "the file holds no state dict",
            where=path,
            expected="tensors by name",
            found=found or type(content).__name__,
            remedy="save model.state_dict() alone, as safetensors",
        )
    if all(str(name).startswith("module.") for name in content):
        return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    return {str(name): tensor for name, tensor in content.items()}


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(str(name)[:120] for name in names[:MAX_NAMED]) or "nothing"
    return shown + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
