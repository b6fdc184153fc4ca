"""Weight files: what is read, and what is refused with one message that lists what did not match."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scanside.errors import CheckpointError
from scanside.models.weights import (
    load_weights,
    read_tensors,
    recognised,
    save_half,
    weight_files,
    weights_sha256,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 2))


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    return network()


@pytest.mark.parametrize("kind", ["safetensors", "pt", "pth", "nested", "parallel", "half"])
def test_a_state_dict_is_read_in_every_form(model: nn.Sequential, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"w.{'pt' if kind in ('nested', 'parallel') else 'safetensors' if kind == 'half' else kind}"
    state = model.state_dict()
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "half":
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    else:
        forms = {"nested": {"epoch": 3, "state_dict": state}, "parallel": {f"module.{k}": v for k, v in state.items()}}
        torch.save(forms.get(kind, state), path)
    other = network()
    load_weights(other, path)
    assert torch.allclose(other[0].weight, model[0].weight, atol=1e-3)
    assert other[0].weight.dtype == torch.float32


def test_counters_of_batch_norm_may_be_absent(model: nn.Sequential, tmp_path: Path) -> None:
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(network(), tmp_path / "w.safetensors")


def test_everything_that_does_not_match_is_listed_at_once(model: nn.Sequential, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    del state["0.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(6)}
    state["2.weight"] = torch.zeros(3, 4)
    save_file(state, tmp_path / "w.safetensors")
    other = network()
    before = other[0].weight.clone()
    with pytest.raises(CheckpointError) as refused:
        load_weights(other, tmp_path / "w.safetensors")
    message = str(refused.value)
    assert refused.value.exit_code == 4
    assert "\n" not in message
    assert f"{tmp_path / 'w.safetensors'}: the weights are another model's" in message
    assert "1 missing: 0.bias" in message
    assert "6 unexpected: extra.0, extra.1, extra.2, extra.3 and 2 more" in message
    assert "1 of another shape: 2.weight [3, 4] in place of [2, 4]" in message
    assert torch.equal(other[0].weight, before)


def test_a_value_that_is_not_finite_is_named(model: nn.Sequential, tmp_path: Path) -> None:
    model[2].bias.data[1] = float("nan")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"2\.bias: a weight is not finite"):
        load_weights(network(), tmp_path / "w.safetensors")


class Evil:
    def __reduce__(self) -> tuple:
        return open, ("/nonexistent/never", "w")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
@pytest.mark.parametrize("left", [0, 40, -7])
def test_a_cut_file(model: nn.Sequential, tmp_path: Path, name: str, left: int) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=rf"{name}: the (weights cannot be read|file holds more than)"):
        read_tensors(path)


def test_code_is_never_run(tmp_path: Path) -> None:
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    torch.save(network(), tmp_path / "whole_model.pt")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    for name in ("evil.pt", "whole_model.pt", "old.pth"):
        with pytest.raises(CheckpointError, match=r"more than weights.*Save model\.state_dict\(\) alone"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], {}, torch.zeros(3)])
def test_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="the file holds no state dict"):
        read_tensors(tmp_path / "w.pt")


def test_absent_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights here"):
        read_tensors(tmp_path / "none.pt")
    (tmp_path / "w.h5").write_bytes(b"keras")
    with pytest.raises(CheckpointError, match=r"no weight file; expected \.safetensors \| \.pt \| \.pth, found \.h5"):
        read_tensors(tmp_path / "w.h5")


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "densenet161", "vgg19"])
def test_a_torchvision_network_is_recognised_by_its_names(backbone: str) -> None:
    import torchvision

    with torch.device("meta"):
        names = getattr(torchvision.models, backbone)(weights=None).state_dict()
        others = torchvision.models.resnet18(weights=None).state_dict()
    assert recognised(names) == backbone
    assert recognised([f"branches.coronal.{name}" for name in names]) == backbone
    assert recognised(others) is None


def test_half_precision_in_parts_is_read_as_one_file(model: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files = save_half(model.state_dict(), path, part_bytes=40)
    assert [file.name for file in files] == [f"w-0000{n}-of-0000{len(files)}.safetensors" for n in (1, 2, 3)]
    assert sorted(tmp_path.iterdir()) == weight_files(path) == files
    assert all(file.stat().st_size < 1000 for file in files)
    other = network()
    load_weights(other, path)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-6), name
    before = weights_sha256(path)
    save_half({k: v + 1 for k, v in model.state_dict().items()}, path, part_bytes=40)
    assert weights_sha256(path) != before
    assert save_half(model.state_dict(), path, part_bytes=60) == sorted(tmp_path.iterdir())  # fewer, and none left
    assert save_half(model.state_dict(), path) == sorted(tmp_path.iterdir()) == [path]
    assert save_half(model.state_dict(), path, part_bytes=40) == sorted(tmp_path.iterdir()) == files
    whole = save_half(model.state_dict(), tmp_path / "one.safetensors")
    assert weight_files(tmp_path / "one.safetensors") == whole == [tmp_path / "one.safetensors"]


def test_parts_that_are_missing_or_of_other_weights(model: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files = save_half(model.state_dict(), path, part_bytes=40)
    kept = files[1].read_bytes()
    files[1].unlink()
    with pytest.raises(CheckpointError, match="parts of the weights are missing; expected 3 parts, found w-00001-of"):
        read_tensors(path)
    save_half({k: v + 1 for k, v in model.state_dict().items()}, path, part_bytes=40)
    files[1].write_bytes(kept)
    with pytest.raises(CheckpointError, match="the parts are not of the same weights"):
        read_tensors(path)
    with pytest.raises(CheckpointError, match="no weights here"):
        read_tensors(tmp_path / "other.safetensors")


def test_a_weight_beyond_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="large: a tensor is larger than a part; expected at most 10 bytes"):
        save_half({"large": torch.zeros(9)}, tmp_path / "w.safetensors", part_bytes=10)
    with pytest.raises(CheckpointError, match="large: a weight does not fit in half precision"):
        save_half({"large": torch.tensor([[7e4]])}, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_norm_s_variance_may_be_larger_than_half_precision_holds(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    bias = torch.ones(2).bfloat16()
    save_half({"running_var": torch.tensor([7e4, 1e-9]), "kernel": torch.full((2, 2), 0.1), "bias": bias}, path)
    kept = read_tensors(path)
    assert kept["running_var"].tolist() == [7e4, torch.tensor(1e-9).item()]
    assert kept["kernel"].dtype == torch.float16
    assert kept["running_var"].dtype == kept["bias"].dtype == torch.float32
