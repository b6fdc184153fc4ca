from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scanside.errors import UsageError
from scanside.training import loop
from scanside.training.checkpoint import Log, load_checkpoint
from scanside.training.errors import CheckpointError
from scanside.training.loop import Arithmetic, AveragedModel, best_arithmetic, one_cycle, recalibrate, train
from scanside.training.recipe import Recipe

CPU = Arithmetic(torch.device("cpu"), None)


class TinyTask:
    """A convolution, a batch norm and dropout that learn the sign of a mean."""

    name = "tiny"
    start_files: ClassVar[dict[str, str]] = {}

    def __init__(self, dies_at=None):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 1)
            )
        self.dies_at = dies_at
        self.drawn = 0

    def optimizer(self):
        return torch.optim.AdamW([{"params": list(self.model.parameters()), "scale": 0.5}], lr=1.0)

    def batch(self, rng, fraction):
        if self.dies_at is not None and self.drawn == self.dies_at:
            raise KeyboardInterrupt
        self.drawn += 1
        x = rng.standard_normal((8, 1, 6, 6)).astype(np.float32) + np.where(rng.random((8, 1, 1, 1)) < 0.5, -1, 1)
        return {"x": torch.from_numpy(x.astype(np.float32))}

    def loss(self, model, batch):
        x = batch["x"]
        target = (x.mean((1, 2, 3)) > 0).float()
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], target)

    def train_mode(self, model):
        model.train()

    def validate(self, model):
        assert not model.training
        return {"score": float(model(torch.ones(1, 1, 6, 6))[0, 0])}

    def record(self):
        return {"cases": [1, 2]}


RECIPE = Recipe(seed=5, steps=12, peak_lr=0.02, checkpoint_s=0.0, validate_at=(0.5, 1.0), recalibration_batches=3)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    whole = load_file(train(TinyTask(), RECIPE, tmp_path / "whole", arithmetic=CPU))
    for dies_at in (4, 5):
        with pytest.raises(KeyboardInterrupt):
            train(TinyTask(dies_at), RECIPE, tmp_path / "broken", arithmetic=CPU)
    assert load_checkpoint(tmp_path / "broken" / "tiny.checkpoint.pt")["step"] == 9
    parts = load_file(train(TinyTask(), RECIPE, tmp_path / "broken", arithmetic=CPU))
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key
    records = [json.loads((tmp_path / d / "tiny.json").read_text()) for d in ("whole", "broken")]
    assert records[0]["steps"] == records[1]["steps"] == 12
    assert records[0]["validation"] == records[1]["validation"]


def test_what_a_run_leaves(tmp_path):
    path = train(TinyTask(), RECIPE, tmp_path, arithmetic=CPU)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.json", "tiny.log.jsonl", "tiny.safetensors"]
    rows = Log(tmp_path / "tiny.log.jsonl").rows()
    assert [r["step"] for r in rows if "loss" in r] == [10, 12]
    assert [r["step"] for r in rows if "validation" in r] == [6, 12]
    assert all(r["eta_s"] >= 0 and r["elapsed_s"] >= 0 for r in rows if "loss" in r)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["recipe"]["seed"] == 5
    assert record["data"] == {"cases": [1, 2]}
    assert record["arithmetic"] == "cpu float32"
    assert record["versions"]["torch"]


def test_a_finished_run_is_left_alone(tmp_path):
    before = train(TinyTask(), RECIPE, tmp_path, arithmetic=CPU).read_bytes()
    task = TinyTask(dies_at=0)
    assert train(task, RECIPE, tmp_path, arithmetic=CPU).read_bytes() == before


def test_it_learns_and_the_seed_decides(tmp_path):
    recipe = replace(RECIPE, steps=60, validate_at=(), checkpoint_s=1e9)
    first = load_file(train(TinyTask(), recipe, tmp_path / "a", arithmetic=CPU))
    other = load_file(train(TinyTask(), replace(recipe, seed=6), tmp_path / "b", arithmetic=CPU))
    assert not torch.equal(first["0.weight"], other["0.weight"])
    losses = [r["loss"] for r in Log(tmp_path / "a" / "tiny.log.jsonl").rows() if "loss" in r]
    assert losses[-1] < 0.75 * losses[0]


def test_torch_random_state_is_left_alone(tmp_path):
    before = torch.random.get_rng_state()
    train(TinyTask(), replace(RECIPE, steps=2), tmp_path, arithmetic=CPU)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_budget_in_minutes_stretches_the_cycle(tmp_path, monkeypatch):
    now = iter(float(n) for n in range(1000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(now))
    recipe = Recipe(minutes=1.0, validate_at=(), checkpoint_s=1e9, recalibration_batches=0, peak_lr=0.01)
    path = train(TinyTask(), recipe, tmp_path, arithmetic=CPU)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["minutes"] >= 1.0
    assert 20 <= record["steps"] <= 60
    rates = [r["lr"] for r in Log(tmp_path / "tiny.log.jsonl").rows() if "loss" in r]
    assert rates[-1] < 0.05 * max(rates)


def test_another_recipe_does_not_continue(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(TinyTask(4), RECIPE, tmp_path, arithmetic=CPU)
    with pytest.raises(UsageError, match="peak_lr"):
        train(TinyTask(), replace(RECIPE, peak_lr=0.5), tmp_path, arithmetic=CPU)


def test_finished_weights_of_another_recipe_are_not_taken(tmp_path):
    train(TinyTask(), RECIPE, tmp_path, arithmetic=CPU)
    with pytest.raises(UsageError, match=r"weights here were made by another recipe.*other peak_lr, seed"):
        train(TinyTask(), replace(RECIPE, peak_lr=0.5, seed=6), tmp_path, arithmetic=CPU)


def test_a_checkpoint_from_before_a_key_was_known_continues(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(TinyTask(4), RECIPE, tmp_path, arithmetic=CPU)
    file = tmp_path / "tiny.checkpoint.pt"
    state = torch.load(file, weights_only=True)
    del state["recipe"]["accumulate"], state["recipe"]["final_lr"]
    torch.save(state, file)
    assert train(TinyTask(), RECIPE, tmp_path, arithmetic=CPU).is_file()


@pytest.mark.parametrize("keep", [0, 50, 3000])
def test_a_truncated_checkpoint_is_a_clear_error(tmp_path, keep):
    with pytest.raises(KeyboardInterrupt):
        train(TinyTask(4), RECIPE, tmp_path, arithmetic=CPU)
    file = tmp_path / "tiny.checkpoint.pt"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"Delete tiny\.checkpoint\.pt to start again") as caught:
        train(TinyTask(), RECIPE, tmp_path, arithmetic=CPU)
    assert caught.value.exit_code == 4


def test_one_cycle():
    rates = [one_cycle(f, 0.1, 0.01) for f in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == pytest.approx(1.0)
    assert int(np.argmax(rates)) == 10
    assert rates[-1] == pytest.approx(0.01)
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_the_average_follows_the_model():
    model = nn.BatchNorm1d(2)
    average = AveragedModel(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(11.0)
    model.num_batches_tracked.fill_(7)
    average.update(model, step=1000)
    assert average.state["weight"].tolist() == pytest.approx([2.0, 2.0])
    assert int(average.state["num_batches_tracked"]) == 7


def test_recalibrated_norms_hold_the_mean_of_their_batches():
    task = TinyTask()
    recalibrate(task, task.model, CPU, seed=1, batches=4)
    batches = [task.batch(np.random.default_rng([1, loop.RECALIBRATION_STREAM + n]), 1.0)["x"] for n in range(4)]
    expected = torch.stack([task.model[0](x).mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(task.model[1].running_mean, expected.detach(), atol=1e-5, rtol=1e-4)
    assert task.model[1].momentum == pytest.approx(0.1)


def test_arithmetic_is_fp32_without_the_instructions(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert best_arithmetic() == CPU
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert best_arithmetic().autocast is torch.bfloat16


def test_a_log_line_cut_by_a_kill_is_dropped(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"st')
    log = Log(file)
    log.write(step=2)
    assert [r["step"] for r in log.rows()] == [1, 2]


def test_a_cycle_that_ends_where_it_began_is_a_constant_rate():
    assert {one_cycle(f, 0.0, 1.0) for f in np.linspace(0, 1, 11)} == {1.0}


class PlainTask(TinyTask):
    """No norm, no dropout, plain SGD: a step is its mean gradient and nothing else."""

    def __init__(self, dies_at=None):
        super().__init__(dies_at)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1))

    def optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=1.0)


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """The oracle: the four batches joined by hand, one step on their mean loss."""
    recipe = Recipe(
        seed=5, steps=1, accumulate=4, peak_lr=0.1, warmup=0.0, final_lr=1.0, ema_decay=0.0, recalibration_batches=0
    )
    task = PlainTask()
    joined = torch.cat([task.batch(np.random.default_rng([5, number]), 0.0)["x"] for number in range(4)])
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    task.loss(task.model, {"x": joined}).backward()
    optimizer.step()
    found = load_file(train(PlainTask(), recipe, tmp_path, arithmetic=CPU))
    for key, value in task.model.state_dict().items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-5)


def test_an_interrupted_accumulating_run_ends_with_the_same_weights(tmp_path):
    recipe = replace(RECIPE, accumulate=2)
    whole = load_file(train(TinyTask(), recipe, tmp_path / "whole", arithmetic=CPU))
    with pytest.raises(KeyboardInterrupt):  # in the middle of a step
        train(TinyTask(7), recipe, tmp_path / "broken", arithmetic=CPU)
    parts = load_file(train(TinyTask(), recipe, tmp_path / "broken", arithmetic=CPU))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_progress_counts_every_step_and_goes_on_where_a_killed_run_stopped(tmp_path):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        train(TinyTask(4), RECIPE, tmp_path, arithmetic=CPU, progress=seen.append)
    assert [(s.stage, s.done, s.total) for s in seen] == [("tiny", n, 12) for n in range(5)]
    seen.clear()
    train(TinyTask(), RECIPE, tmp_path, arithmetic=CPU, progress=seen.append)
    assert [s.done for s in seen] == list(range(4, 13))
