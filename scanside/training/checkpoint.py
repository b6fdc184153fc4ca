"""What a run leaves on disk: checkpoints to continue from, a log, and the final weights with their record."""

from __future__ import annotations

import json
import os
import pickle
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from scanside.errors import CheckpointError
from scanside.models.weights import TRAINING_FORMAT as FORMAT
from scanside.models.weights import load_weights

__all__ = ["Log", "load_checkpoint", "load_weights", "save_checkpoint", "save_weights", "versions", "write_json"]


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors and plain values) atomically: a killed run leaves the previous checkpoint whole."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote. Loaded without unpickling code.

    Raises
    ------
    CheckpointError
        The file is truncated, damaged, or no checkpoint of this format.
    """
    remedy = f"delete {path.name} to start again"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError("the checkpoint cannot be read", where=path, found=reason, remedy=remedy) from None
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != FORMAT:
        raise CheckpointError("the checkpoint is of another kind", where=path, expected=FORMAT, found=found)
    return state


def save_weights(model: nn.Module, path: Path, record: Mapping[str, Any]) -> None:
    """Write `model`'s weights as FP32 safetensors at `path`, and `record` beside them as JSON."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(path)
    write_json(path.with_suffix(".json"), record)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n", encoding="utf-8")
    temporary.replace(path)


class Log:
    """`log.jsonl`: one JSON object a line, flushed at once; a line cut off by a kill is dropped on continuing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            if text and not text.endswith("\n"):
                path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "segmentation-models-pytorch", "numpy", "opencv-python-headless", "scanside"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
