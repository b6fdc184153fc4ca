from __future__ import annotations

import json

import pytest

from scanside.training import evaluate_busbra as evaluation
from scanside.training.command import main
from scanside.training.evaluate_busbra import BusbraDice


@pytest.mark.parametrize("verb", ["busbra", "reference"])
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_an_error_is_one_message_and_its_exit_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["reference", str(tmp_path / "classifier.safetensors"), "--out", str(tmp_path / "weights")])
    assert caught.value.code == 4
    err = capsys.readouterr().err
    assert "no record beside the weights" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_busbra_says_mean_and_median(tmp_path, monkeypatch, capsys):
    def evaluate(weights, busbra, out, **options):
        assert options == {"fold": 1, "longer_side": 160, "threshold": 0.5}
        return BusbraDice("w", 1, 376, 213, 160, 0.5, 0.8123, 0.8744, 0.81, 0.87, 0.82, 0.8, 3, 0.82)

    monkeypatch.setattr(evaluation, "evaluate_busbra", evaluate)
    main(["busbra", "--busbra", "b", "--weights", "w.safetensors", "--out", str(tmp_path)])
    assert "mean Dice 0.8123, median 0.8744" in capsys.readouterr().out


def test_reference_keeps_half_precision_and_the_record(tmp_path, capsys):
    import torch

    from scanside.models.weights import read_tensors
    from scanside.training.checkpoint import save_weights

    model = torch.nn.Linear(3, 2)
    record = {"recipe": {"steps": 1}, "data": {}, "validation": {}}
    save_weights(model, tmp_path / "classifier.safetensors", record)
    main(["reference", str(tmp_path / "classifier.safetensors"), "--out", str(tmp_path / "weights")])
    kept = tmp_path / "weights" / "classifier.safetensors"
    assert capsys.readouterr().out == f"{kept}\n"
    assert read_tensors(kept)["weight"].dtype == torch.float16
    assert json.loads(kept.with_suffix(".json").read_text()) == record
    before = (tmp_path / "classifier.safetensors").read_bytes()
    with pytest.raises(SystemExit) as refused:
        main(["reference", str(tmp_path / "classifier.safetensors"), "--out", str(tmp_path)])
    assert refused.value.code == 2
    assert (tmp_path / "classifier.safetensors").read_bytes() == before
