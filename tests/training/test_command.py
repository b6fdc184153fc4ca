from __future__ import annotations

import pytest

from scanside.training import cohort as cohort_module
from scanside.training import evaluate_busbra as evaluation
from scanside.training.command import main
from scanside.training.evaluate_busbra import BusbraDice


@pytest.mark.parametrize("verb", ["cohort", "segment", "classify", "busbra", "pack", "default"])
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.parametrize("seeds", ["5", "9:3", "a:b", "1:-2"])
def test_bad_ranges_are_usage_errors(seeds, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["cohort", "--out", str(tmp_path), "--seeds", seeds])
    assert caught.value.code == 2
    assert "FIRST:LAST" in capsys.readouterr().err


def test_cohort_passes_its_options_on(tmp_path, monkeypatch, capsys):
    asked = {}

    def build(out, seeds, **options):
        asked.update(options, out=out, seeds=list(seeds))
        options["progress"](2, 2)
        return [out, out]

    monkeypatch.setattr(cohort_module, "build_cohort", build)
    main(["cohort", "--out", str(tmp_path), "--seeds", "3:5", "--lesions", "1:4", "--workers", "1"])
    assert (asked["out"], asked["seeds"], asked["lesions"], asked["workers"]) == (tmp_path, [3, 4], (1, 4), 1)
    assert "2/2 phantoms" in capsys.readouterr().out


def test_an_error_is_one_message_and_its_exit_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["segment", "--cohort", str(tmp_path), "--out", str(tmp_path / "run"), "--steps", "1"])
    assert caught.value.code == 3
    err = capsys.readouterr().err
    assert "no cohort here" in err
    assert "Traceback" not in err


def test_an_unknown_recipe(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["classify", "--cohort", str(tmp_path), "--out", str(tmp_path), "--recipe", "clasifier"])
    assert caught.value.code == 2
    assert "classifier" in capsys.readouterr().err


def test_busbra_says_mean_and_median(tmp_path, monkeypatch, capsys):
    def evaluate(weights, busbra, out, **options):
        assert options == {"fold": 1, "longer_side": 160, "threshold": 0.5}
        return BusbraDice("w", 1, 376, 213, 160, 0.5, 0.8123, 0.8744, 0.82, 0.8, 3)

    monkeypatch.setattr(evaluation, "evaluate_busbra", evaluate)
    main(["busbra", "--busbra", "b", "--weights", "w.safetensors", "--out", str(tmp_path)])
    assert "mean Dice 0.8123, median 0.8744" in capsys.readouterr().out
