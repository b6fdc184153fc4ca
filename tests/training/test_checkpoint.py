from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch import nn

from scanside.training.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from scanside.training.errors import CheckpointError


def test_round_trip(tmp_path):
    model = nn.Linear(3, 2)
    save_weights(model, tmp_path / "m.safetensors", {"seed": 4})
    save_checkpoint(tmp_path / "m.pt", {"average": model.state_dict(), "step": 3})
    assert json.loads((tmp_path / "m.json").read_text()) == {"seed": 4}
    assert load_checkpoint(tmp_path / "m.pt")["step"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.pt", "m.safetensors"]
    for name in ("m.safetensors", "m.pt"):
        other = nn.Linear(3, 2)
        load_weights(other, tmp_path / name)
        assert torch.equal(other.weight, model.weight)


def test_weights_are_stored_in_fp32(tmp_path):
    save_weights(nn.Linear(3, 2).half(), tmp_path / "m.safetensors", {})
    from safetensors.torch import load_file

    assert {v.dtype for v in load_file(tmp_path / "m.safetensors").values()} == {torch.float32}


def test_damaged_absent_and_foreign_weights(tmp_path):
    file = tmp_path / "m.safetensors"
    with pytest.raises(CheckpointError, match="no weights here"):
        load_weights(nn.Linear(3, 2), file)
    save_weights(nn.Linear(3, 2), file, {})
    with pytest.raises(CheckpointError, match="another model's"):
        load_weights(nn.Linear(4, 2), file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(nn.Linear(3, 2), file)


class _Evil:
    def __reduce__(self):
        return (open, ("/nonexistent/never", "w"))


def test_a_checkpoint_with_code_is_refused(tmp_path):
    torch.save({"format": "scanside-training/1", "x": _Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": _Evil()}, protocol=2))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "plain.pt")
    torch.save({"step": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="another kind"):
        load_checkpoint(tmp_path / "other.pt")
