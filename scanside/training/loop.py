"""The loop both trainings share: a budgeted one-cycle schedule, averaged weights, checkpoints, validation.

A step is a function of the seed and the step's number alone (batch, augmentation and dropout), so a run that was
killed and continued sees what an unbroken one sees; with a budget in steps it also ends with the same weights.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scanside.errors import UsageError
from scanside.training.checkpoint import Log, load_checkpoint, save_checkpoint, save_weights, versions
from scanside.training.recipe import Recipe
from scanside.training.start import another_start, training_record

logger = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10
RECALIBRATION_STREAM = 1 << 30
"""Batch numbers from here on are those that recalibrate the batch norms."""


@dataclass(frozen=True)
class Arithmetic:
    """Where and in which precision a run computes: `device` of torch, and `autocast` (None is FP32)."""

    device: torch.device
    autocast: torch.dtype | None


def best_arithmetic() -> Arithmetic:
    """CUDA with bf16 where there is one; bf16 on processors with the instructions for it; else FP32.

    A processor without AMX or AVX512-BF16 emulates bf16 about ten times slower than FP32.
    """
    if torch.cuda.is_available():
        return Arithmetic(torch.device("cuda"), torch.bfloat16 if torch.cuda.is_bf16_supported() else None)
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    fast = any(bool(getattr(torch.cpu, probe, bool)()) for probe in probes)
    return Arithmetic(torch.device("cpu"), torch.bfloat16 if fast else None)


class Task(Protocol):
    """What is trained. `batch` must depend on nothing but its arguments."""

    name: str
    model: nn.Module
    start_files: Mapping[str, str]
    """SHA-256 of the weights that the training starts from, by what they are; the same when it continues."""

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer; a group's "scale" multiplies the learning rate of the cycle."""

    def batch(self, rng: np.random.Generator, fraction: float) -> dict[str, Tensor]:
        """One batch, when `fraction` of the budget is spent."""

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor: ...

    def train_mode(self, model: nn.Module) -> None:
        """Put the parts that learn into training mode."""

    def validate(self, model: nn.Module) -> dict[str, float]: ...

    def record(self) -> dict[str, Any]:
        """Data and split, for the record beside the weights."""


def one_cycle(fraction: float, warmup: float, final: float) -> float:
    """Learning rate as a part of its peak: up from 1/20 over `warmup`, then down a cosine to `final`."""
    fraction = min(max(fraction, 0.0), 1.0)
    if fraction < warmup:
        return 0.05 + 0.95 * fraction / warmup
    down = (fraction - warmup) / max(1e-9, 1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * down))


class AveragedModel:
    """An exponential moving average of a model's weights and statistics, with a faster start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the model after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged, current = [], []
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.state[key])
                current.append(value.detach())
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(averaged, current, 1 - decay)


@torch.no_grad()
def recalibrate(task: Task, model: nn.Module, arithmetic: Arithmetic, seed: int, batches: int) -> None:
    """Recompute the statistics of the batch norms that learn as plain means over `batches` fresh batches."""
    task.train_mode(model)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [m.momentum for m in norms]
    if not norms or batches < 1:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # type: ignore[assignment]
    for number in range(batches):
        _loss_of(task, model, arithmetic, seed, RECALIBRATION_STREAM + number, fraction=1.0)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@dataclass(frozen=True)
class Progress:
    """How far a training is: `done` of `total` steps, or seconds where the budget is in minutes."""

    stage: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def train(
    task: Task,
    recipe: Recipe,
    out: str | Path,
    *,
    arithmetic: Arithmetic | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Train `task` to the end of its budget and return the path of the weights, ``OUT/<task.name>.safetensors``.

    Continues from ``OUT/<task.name>.checkpoint.pt`` when there is one, and does nothing when the weights stand.
    ``OUT/<task.name>.log.jsonl`` gets a line every ten steps and one a validation.

    Raises
    ------
    UsageError
        What stands in `out` was trained by another recipe, or from another start.
    CheckpointError
        The checkpoint, or the record of finished weights, is damaged.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    arithmetic = arithmetic or best_arithmetic()
    if (weights := finished_weights(task.name, recipe, out)) is not None:
        _check_start(training_record(weights)["data"], task, weights)
        return weights
    run = _Run(task, recipe, out, arithmetic)
    progress = progress or (lambda step: None)
    run.resume()
    progress(run.progress())
    while run.fraction < 1.0:
        run.step_once()
        progress(run.progress())
    return run.finish()


def finished_weights(name: str, recipe: Recipe, out: Path) -> Path | None:
    """The weights of the network `name` when its training in `out` has ended.

    Raises
    ------
    UsageError
        They were trained by another recipe.
    """
    weights = out / f"{name}.safetensors"
    record = weights.with_suffix(".json")
    if not (weights.is_file() and record.is_file()) or (out / f"{name}.checkpoint.pt").is_file():
        return None
    _check_recipe(json.loads(record.read_text(encoding="utf-8"))["recipe"], recipe, "the weights", weights)
    logger.info("%s stands already", weights)
    return weights


def _check_recipe(found: Mapping[str, Any], recipe: Recipe, what: str, where: Path) -> None:
    """Refuse what another recipe made; a key that was unknown then has its default."""
    mine = _plain(asdict(recipe))
    defaults = _plain(asdict(type(recipe)(steps=1)))
    differ = sorted(k for k in mine if found.get(k, defaults[k]) != mine[k])
    if differ:
        raise UsageError(
            f"{what} here were made by another recipe",
            where=where,
            found=f"other {', '.join(differ)}",
            remedy="use another --out, or the same recipe and options",
        )


def _check_start(found: Mapping[str, Any], task: Task, where: Path) -> None:
    """Refuse what began otherwise than `task`, as far as `found` says: older records say less."""
    start = task.record().get("start")
    if found.get("start", start) != start or found.get("start_files", task.start_files) != task.start_files:
        raise another_start(where, found)


class _Run:
    """One run's state between two steps."""

    def __init__(self, task: Task, recipe: Recipe, out: Path, arithmetic: Arithmetic) -> None:
        self.task, self.recipe, self.arithmetic = task, recipe, arithmetic
        self.weights = out / f"{task.name}.safetensors"
        self.checkpoint = out / f"{task.name}.checkpoint.pt"
        self.log = Log(out / f"{task.name}.log.jsonl")
        task.model.to(arithmetic.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = task.model
        self.optimizer = task.optimizer()
        self.average = AveragedModel(self.model, recipe.ema_decay)
        self.step = 0
        self.elapsed_s = 0.0
        self.clock = self.saved_at = time.monotonic()
        self.losses: list[float] = []

    @property
    def fraction(self) -> float:
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        assert self.recipe.minutes is not None
        return self.elapsed_s / (60 * self.recipe.minutes)

    def progress(self) -> Progress:
        if self.recipe.steps is not None:
            return Progress(self.task.name, self.step, self.recipe.steps)
        assert self.recipe.minutes is not None
        total = max(1, round(60 * self.recipe.minutes))
        return Progress(self.task.name, min(total, round(self.elapsed_s)), total)

    def resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = load_checkpoint(self.checkpoint)
        _check_recipe(state["recipe"], self.recipe, "the checkpoint's steps", self.checkpoint)
        _check_start({"start_files": {}} | state, self.task, self.checkpoint)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, value in state["average"].items():
            self.average.state[key].copy_(value)
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.clock = self.saved_at = time.monotonic()
        logger.info("%s: continuing from step %d", self.task.name, self.step)

    def save(self) -> None:
        save_checkpoint(
            self.checkpoint,
            {
                "task": self.task.name,
                "recipe": _plain(asdict(self.recipe)),
                "start": self.task.record().get("start"),
                "start_files": dict(self.task.start_files),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "model": self.model.state_dict(),
                "average": self.average.state,
                "optimizer": self.optimizer.state_dict(),
            },
        )
        self.saved_at = time.monotonic()

    def step_once(self) -> None:
        before = self.fraction
        rate = self.recipe.peak_lr * one_cycle(before, self.recipe.warmup, self.recipe.final_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        self.task.train_mode(self.model)
        count, loss = self.recipe.accumulate, 0.0
        for number in range(self.step * count, (self.step + 1) * count):
            part = _loss_of(self.task, self.model, self.arithmetic, self.recipe.seed, number, before) / count
            part.backward()
            loss += part.item()
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.model, self.step)
        now = time.monotonic()
        self.elapsed_s, self.clock = self.elapsed_s + now - self.clock, now
        self.losses.append(loss)
        after = self.fraction
        if self.step % LOG_EVERY_STEPS == 0 or after >= 1:
            self.log_step(rate, after)
        if any(before < at <= after for at in self.recipe.validate_at if at < 1):
            self.validate(self.averaged_model())
            self.clock = time.monotonic()
        if after < 1 and time.monotonic() - self.saved_at > self.recipe.checkpoint_s:
            self.save()
            self.clock = time.monotonic()

    def log_step(self, rate: float, fraction: float) -> None:
        loss = float(np.mean(self.losses))
        eta_s = self.elapsed_s * max(0.0, 1 / fraction - 1)
        self.log.write(
            step=self.step,
            loss=round(loss, 5),
            lr=float(f"{rate:.4g}"),
            elapsed_s=round(self.elapsed_s, 1),
            eta_s=round(eta_s, 1),
        )
        logger.info("%s step %d loss %.4f lr %.2g eta %.0f s", self.task.name, self.step, loss, rate, eta_s)
        self.losses.clear()

    def averaged_model(self) -> nn.Module:
        from copy import deepcopy

        model = deepcopy(self.model)
        model.load_state_dict(self.average.state)
        return model.eval()

    def validate(self, model: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            scores = {k: round(float(v), 4) for k, v in self.task.validate(model.eval()).items()}
        self.log.write(step=self.step, validation=scores)
        logger.info("%s step %d validation %s", self.task.name, self.step, scores)
        return scores

    def finish(self) -> Path:
        model = self.averaged_model()
        recalibrate(self.task, model, self.arithmetic, self.recipe.seed, self.recipe.recalibration_batches)
        scores = self.validate(model)
        losses = [row["loss"] for row in self.log.rows() if "loss" in row]
        record = {
            "task": self.task.name,
            "recipe": _plain(asdict(self.recipe)),
            "steps": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "arithmetic": f"{self.arithmetic.device.type} {str(self.arithmetic.autocast or torch.float32)[6:]}",
            "loss_first": losses[0] if losses else None,
            "loss_last": losses[-1] if losses else None,
            "validation": scores,
            "data": self.task.record(),
            "versions": versions(),
        }
        save_weights(model, self.weights, record)
        self.checkpoint.unlink(missing_ok=True)
        return self.weights


def _loss_of(task: Task, model: nn.Module, arithmetic: Arithmetic, seed: int, number: int, fraction: float) -> Tensor:
    """The loss on batch `number`; torch's own random state is left as it was."""
    batch = task.batch(np.random.default_rng([seed, number]), fraction)
    device = arithmetic.device
    batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + number)
        with torch.autocast(device.type, arithmetic.autocast, enabled=arithmetic.autocast is not None):
            return task.loss(model, batch)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
