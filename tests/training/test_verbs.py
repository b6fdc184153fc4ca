"""`scanside train` and `scanside cohort`: options, errors with their exit codes, and stopping in the middle."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys

import pytest
from typer.testing import CliRunner

from scanside.cli import app
from scanside.training.cohort_data import cohort_files
from scanside.training.segment import SegmenterTask

RECIPE = """trains = "segmenter"
steps = 6
batch = 2
crop_sizes = [32]
crop_until = [1.0]
recalibration_batches = 0
validation_phantoms = 1
validation_sections = 3
validate_at = []
checkpoint_s = 0.0
"""


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def one_message(result, code):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    return file


@pytest.mark.parametrize("words", [("train",), ("cohort", "phantoms"), ("cohort", "lesions")])
def test_help(words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert "--out" in result.stdout
    assert "Not built" not in result.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_continues(stub_cohort, recipe, tmp_path, monkeypatch, number, code):
    words = ("train", recipe, "--data", stub_cohort, "--out", tmp_path / "run")
    drawn = []
    batch = SegmenterTask.batch

    def signalled(self, rng, fraction):
        if len(drawn) == 3:
            drawn.clear()
            os.kill(os.getpid(), number)
        drawn.append(fraction)
        return batch(self, rng, fraction)

    monkeypatch.setattr(SegmenterTask, "batch", signalled)
    stopped = run(*words)
    assert one_message(stopped, code) == "stopped: interrupted; nothing half-written is left"
    assert not (tmp_path / "run" / "segmenter.safetensors").exists()
    assert (tmp_path / "run" / "segmenter.checkpoint.pt").is_file()
    monkeypatch.undo()
    again = run(*words)
    assert again.exit_code == 0, again.output
    assert again.stdout.strip().endswith("segmenter.safetensors")
    assert "segmenter  6/6" in again.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "segmenter.json",
        "segmenter.log.jsonl",
        "segmenter.safetensors",
        "segmenter.split.csv",
    ]


def test_a_training_starts_from_another(stub_cohort, recipe, tmp_path):
    first = run("train", recipe, "--data", stub_cohort, "--out", tmp_path / "first")
    assert first.exit_code == 0, first.output
    weights = tmp_path / "first" / "segmenter.safetensors"
    words = ("train", recipe, "--data", stub_cohort, "--out", tmp_path / "second", "--start")
    assert "no weights to start from" in one_message(run(*words, tmp_path / "none.safetensors"), 4)
    assert not (tmp_path / "second").exists()
    second = run(*words, weights)
    assert second.exit_code == 0, second.output
    record = json.loads((tmp_path / "second" / "segmenter.json").read_text())
    assert record["data"]["start_files"] == {"segmenter": hashlib.sha256(weights.read_bytes()).hexdigest()}


def test_without_the_extra_there_is_one_error_with_the_remedy(stub_cohort, recipe, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "scanside.training.run", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    line = one_message(run("train", recipe, "--data", stub_cohort, "--out", tmp_path / "run"), 4)
    assert "`scanside train` needs the workshop's packages" in line
    assert 'ip install "scanside[train]"' in line
    assert "no package torch" in line
    assert not (tmp_path / "run").exists()


def test_bad_input_is_one_error_each(stub_cohort, recipe, tmp_path):
    out = tmp_path / "run"
    recipe.write_text(RECIPE + "lerning_rate = 1.0\n")
    assert "lerning_rate" in one_message(run("train", recipe, "--data", stub_cohort, "--out", out), 2)
    recipe.write_text(RECIPE.replace("segmenter", "oracle"))
    assert "found oracle" in one_message(run("train", recipe, "--data", stub_cohort, "--out", out), 2)
    known = one_message(run("train", "segmentor", "--data", stub_cohort, "--out", out), 2)
    assert "classifier, paper, segmenter" in known
    assert "no data set is known" in one_message(run("train", "segmenter", "--data", tmp_path, "--out", out), 3)
    assert not out.exists()


def test_cohort_phantoms_passes_its_options_on(tmp_path, monkeypatch):
    from scanside.training import cohort as module

    asked = {}

    def build(out, seeds, **options):
        asked.update(options, out=out, seeds=list(seeds))
        options["progress"](2, 2)
        return [out, out]

    monkeypatch.setattr(module, "build_cohort", build)
    result = run("cohort", "phantoms", "--out", tmp_path, "--seeds", "3:5", "--lesions", "1:4", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert (asked["out"], asked["seeds"], asked["lesions"], asked["workers"]) == (tmp_path, [3, 4], (1, 4), 1)
    assert "phantoms  2/2" in result.stderr
    assert "2 phantoms" in result.stdout


@pytest.mark.parametrize("seeds", ["5", "9:3", "a:b", "1:-2"])
def test_bad_ranges_are_usage_errors(seeds, tmp_path):
    assert "--seeds makes no sense" in one_message(run("cohort", "phantoms", "--out", tmp_path, "--seeds", seeds), 2)


def test_cohort_lesions(tmp_path, monkeypatch):
    from dataclasses import replace

    from scanside.training import lesion_cohort

    part = replace(lesion_cohort.PARTS["external-c"], malignant=0, benign=1, benign_size_mm=(8.0, 0.5))
    monkeypatch.setattr(lesion_cohort, "PARTS", {"external-c": part})
    result = run("cohort", "lesions", "--out", tmp_path / "c", "--difficulty", "0.5", "--workers", "0")
    assert result.exit_code == 0, result.output
    assert list(cohort_files(tmp_path / "c")) == [23000]
    line = one_message(run("cohort", "lesions", "--out", tmp_path / "c", "--workers", "0"), 2)
    assert "difficulty" in line
    line = one_message(run("cohort", "lesions", "--out", tmp_path / "c", "--part", "hospital-d"), 2)
    assert "external-c" in line
