"""Weight files: reading tensors without running code, and putting them into a network with nothing left over.

A file is safetensors, or what `torch.save` made of a state dict (``.pt``, ``.pth``), read with ``weights_only=True``.
A state dict may lie under "state_dict" or "model_state_dict", and carry the "module." of `DataParallel`.

Weights of more than `PART_BYTES` are kept in parts: ``classifier.safetensors`` then names the files
``classifier-00001-of-00002.safetensors`` and so on, and all that reads the one reads the other.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scanside.errors import CheckpointError

TRAINING_FORMAT = "scanside-training/1"
SUFFIXES = (".safetensors", ".pt", ".pth")
PART_BYTES = 90_000_000
"""Most bytes of tensors in one file that `save_half` writes."""
MAX_NAMED = 4
"""How many tensors of each kind of mismatch a message names."""

_NESTED = ("state_dict", "model_state_dict")
_COUNTER = "num_batches_tracked"
_WHOLE = "whole"
"""Key of what all parts of the same weights say alike."""


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
    files = weight_files(path)
    if not files:
        raise CheckpointError("no weights here", where=path, expected="a file", found="nothing")
    if path.suffix not in SUFFIXES:
        raise CheckpointError("no weight file", where=path, expected=" | ".join(SUFFIXES), found=path.suffix or "none")
    try:
        content = _united(files, path) if path.suffix == ".safetensors" else _unpickled(path)
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


def weight_files(path: Path) -> list[Path]:
    """The file at `path`, or the parts that it stands for; empty when there is neither.

    Raises
    ------
    CheckpointError
        A part is missing.
    """
    if path.is_file():
        return [path]
    parts = _parts_of(path)
    if not parts:
        return []
    count = int(parts[0].stem.rpartition("-")[2])
    expected = [_part(path, number, count) for number in range(1, count + 1)]
    if parts != expected:
        found = ", ".join(part.name for part in parts)
        raise CheckpointError("parts of the weights are missing", where=path, expected=f"{count} parts", found=found)
    return parts


def weights_sha256(path: Path) -> str:
    """The SHA-256 of a weight file, or of its parts one after the other.

    Raises
    ------
    CheckpointError
        There is no such file, or a part is missing.
    """
    digest = hashlib.sha256()
    files = weight_files(path)
    if not files:
        raise CheckpointError("no weights here", where=path, expected="a file", found="nothing")
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def save_half(tensors: Mapping[str, Tensor], path: Path, *, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write `tensors` at `path` as safetensors, matrices and kernels in half precision; in parts where they are larger.

    Vectors (biases, the norms' numbers) are kept in FP32: they are a few hundredths of the size at most, and a norm's
    variance may not fit in half precision.

    Earlier weights of this name, whole or in parts, are gone afterwards.

    Returns
    -------
    list of Path
        The files, each replaced as a whole.

    Raises
    ------
    CheckpointError
        A value does not fit in half precision, or a tensor not in a part.
    """
    halved = {
        name: (t if not t.is_floating_point() else t.half() if t.ndim > 1 else t.float()).contiguous()
        for name, t in tensors.items()
    }
    for name, tensor in halved.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError("a weight does not fit in half precision", where=name, expected="at most 65504")
        if tensor.nbytes > part_bytes:
            expected, found = f"at most {part_bytes} bytes", f"{tensor.nbytes} bytes"
            raise CheckpointError("a tensor is larger than a part", where=name, expected=expected, found=found)
    parts: list[dict[str, Tensor]] = [{}]
    room = part_bytes
    for name, tensor in halved.items():
        if parts[-1] and tensor.nbytes > room:
            parts.append({})
            room = part_bytes
        parts[-1][name] = tensor
        room -= tensor.nbytes
    digest = hashlib.sha256()
    for name, tensor in halved.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    files = [path] if len(parts) == 1 else [_part(path, number, len(parts)) for number in range(1, len(parts) + 1)]
    for own, file in zip(parts, files, strict=True):
        temporary = file.with_name(file.name + ".part")
        save_file(own, temporary, metadata={"format": "pt", _WHOLE: digest.hexdigest()})
        temporary.replace(file)
    for earlier in {path, *_parts_of(path)} - set(files):
        earlier.unlink(missing_ok=True)
    return files


def _parts_of(path: Path) -> list[Path]:
    """The files beside `path` that are named as its parts, in order."""
    digits = "[0-9]" * 5
    pattern = f"{escape(path.stem)}-{digits}-of-{digits}.safetensors"
    return sorted(path.parent.glob(pattern)) if path.suffix == ".safetensors" else []


def _part(path: Path, number: int, count: int) -> Path:
    return path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}.safetensors")


def _united(files: Sequence[Path], path: Path) -> dict[str, Tensor]:
    """The tensors of all parts, which must be of one writing."""
    wholes = set()
    for file in files if len(files) > 1 else ():
        with safe_open(file, "pt") as opened:
            wholes.add((opened.metadata() or {}).get(_WHOLE))
    if len(wholes) > 1:
        found = ", ".join(file.name for file in files)
        raise CheckpointError("the parts are not of the same weights", where=path, found=found)
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


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
