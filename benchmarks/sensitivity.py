"""Which blocks of a pack's networks suffer from 8 bits, and the curve of parity against latency.

Ranges come from one set of phantoms, judgements from another; neither is a test case. Everything is kept in `--work`,
so that a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.calibration.calibrate import METHODS, SECTION_BATCH, Settings, network_batches
from scanside.calibration.command import finder
from scanside.calibration.data import Amount, CalibrationData, prepare, sources_of
from scanside.calibration.graph import load_graph
from scanside.calibration.judges import ClassifierJudge, Judge, SegmenterJudge
from scanside.calibration.observe import observe
from scanside.calibration.placement import plan_placement
from scanside.calibration.ranges import estimate
from scanside.calibration.sensitivity import (
    BlockRow,
    CurvePoint,
    Study,
    chosen_point,
    classifier_inside,
    segmenter_inside,
)
from scanside.engine.capabilities import capabilities, processor_name
from scanside.engine.onnxruntime import load_runtime
from scanside.pack import Pack, load_pack
from scanside.pack.derive import derived_graph

TIMED_RUNS = 9
INSIDE = {"segmenter": segmenter_inside, "classifier": classifier_inside}


@dataclass(frozen=True)
class Plan:
    """What a study looks at."""

    network: str
    calibrate: Sequence[str]
    judge: Sequence[str]
    sections: int
    triplets: int
    limit: int
    method: str | None


def make_table(plan: Plan, work: Path, out: Path, pack: Path | None) -> None:
    """Write sensitivity-<network>.csv, sensitivity-<network>-curve.csv, .json and .png into `out`."""
    opened = load_pack(pack)
    method = plan.method or Settings().method[plan.network]
    amount = Amount(plan.sections, plan.triplets)
    find = finder(opened)
    calibrating, judging = (
        prepare(sources_of(texts, find), opened.manifest, amount, work / name, progress=_say(name))
        for name, texts in (("calibrate", plan.calibrate), ("judge", plan.judge))
    )
    fp32 = opened.network_graph(plan.network, "fp32")
    model = load_graph(fp32, plan.network)
    placement = plan_placement(model)
    histograms = observe(
        model,
        placement.tensors,
        network_batches(opened.manifest, plan.network, calibrating),
        state=work / f"{plan.network}-{_digest(fp32, calibrating.selection.to_json())}.npz",
        progress=_say("observe"),
    )
    amax = {row.tensor: row.amax for row in estimate(histograms, method, 0)}
    key = _digest(fp32, repr(sorted(amax.items())).encode(), judging.selection.to_json())
    study = Study(model, amax, judge_of(opened, plan.network, fp32, judging), state=work / f"{plan.network}-{key}.json")
    ranking = study.ranking(_say("blocks"))
    clock = Clock(opened, plan.network, fp32) if capabilities().openvino else None
    curve = study.curve(ranking, plan.limit, latency=clock, progress=_say("curve"))
    chosen = chosen_point(curve, INSIDE[plan.network])
    stem = f"sensitivity-{plan.network}"
    write_csv(out / f"{stem}.csv", [_block_row(row) for row in ranking])
    write_csv(out / f"{stem}-curve.csv", [_curve_row(point) for point in curve])
    plot(ranking, curve, chosen, plan.network, out / f"{stem}.png")
    write_json(
        out / f"{stem}.json",
        {
            **conditions(),
            "processor": processor_name(),
            "pack": {"name": opened.manifest.name, "version": opened.manifest.version, "sha256": opened.sha256},
            "method": method,
            "calibrated_on": list(plan.calibrate),
            "judged_on": list(plan.judge),
            "sections": [len(d.selection.sections) for d in (calibrating, judging)],
            "triplets": [len(d.selection.triplets) for d in (calibrating, judging)],
            "operations_in_8_bits": len(placement.rounded),
            "operations_refused": len(placement.refused),
            "chosen": None if chosen is None else {"kept": list(chosen.kept), **_curve_row(chosen)},
        },
    )


def judge_of(pack: Pack, network: str, fp32: bytes, data: CalibrationData) -> Judge:
    """The clinical judge of a network, on the data given."""
    batches = network_batches(pack.manifest, network, data)
    if network == "segmenter":
        segmenter = pack.manifest.segmenter
        return SegmenterJudge(fp32, segmenter.output, batches, segmenter.threshold, data.mask_batches(SECTION_BATCH))
    malignant = [choice.malignant for choice in data.selection.triplets]
    return ClassifierJudge(fp32, pack.manifest.classifier.output, batches, malignant)


class Clock:
    """Times a rounded graph against FP32, run in turn: the ratio of medians, below 1 is faster than FP32."""

    def __init__(self, pack: Pack, network: str, fp32: bytes) -> None:
        manifest = pack.manifest
        rng = np.random.default_rng(0)
        self.dims: Mapping[str, int] = {}
        if network == "segmenter":
            batch, side = manifest.segmenter.batch, 256
            self.dims = {"batch": batch, "height": side, "width": side}
            self.inputs = {manifest.segmenter.input: rng.integers(0, 256, (batch, 1, side, side)).astype(np.uint8)}
            self.outputs = {manifest.segmenter.output: np.empty((batch, 1, side, side), np.uint8)}
        else:
            batch, side = manifest.classifier.batch, manifest.classifier.size
            names = manifest.classifier.inputs.values()
            self.inputs = {n: rng.integers(0, 256, (batch, 1, side, side)).astype(np.uint8) for n in names}
            self.outputs = {manifest.classifier.output: np.empty(batch, np.float32)}
        self.fp32 = load_runtime(fp32, device="cpu", precision="fp32", dims=self.dims)

    def __call__(self, graph: bytes) -> float:
        rounded = load_runtime(derived_graph(graph, "int8"), device="cpu", precision="int8", dims=self.dims)
        seconds: dict[str, list[float]] = {"fp32": [], "int8": []}
        for _ in range(TIMED_RUNS + 1):
            for name, runtime in (("fp32", self.fp32), ("int8", rounded)):
                begun = time.perf_counter()
                runtime.run(self.inputs, self.outputs)
                seconds[name].append(time.perf_counter() - begun)
        rounded.close()
        return statistics.median(seconds["int8"][1:]) / statistics.median(seconds["fp32"][1:])


def plot(
    ranking: Sequence[BlockRow], curve: Sequence[CurvePoint], chosen: CurvePoint | None, network: str, path: Path
) -> None:
    """The loss of each block alone, and loss and latency along the curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    blocks, along = figure.subplots(1, 2, width_ratios=(3, 2))
    shown = ranking[:24][::-1]
    blocks.barh([row.block for row in shown], [row.alone.loss for row in shown], color="#3b6ea5")
    blocks.set_xlabel("loss with this block alone in 8 bits")
    blocks.set_title(f"{network}: what each block costs")
    blocks.tick_params(axis="y", labelsize=7)
    kept = [len(point.kept) for point in curve]
    along.plot(kept, [point.judgement.loss for point in curve], "o-", color="#3b6ea5", label="loss")
    along.set_xlabel("blocks kept in 16 bit")
    along.set_ylabel("loss")
    along.set_ylim(bottom=0)
    along.xaxis.get_major_locator().set_params(integer=True)
    if chosen is not None:
        along.axvline(len(chosen.kept), color="#888888", linestyle=":", label="chosen")
    if all(point.latency is not None for point in curve):
        right = along.twinx()
        right.plot(kept, [point.latency for point in curve], "s--", color="#c0504d")
        right.set_ylabel("latency relative to FP32", color="#c0504d")
        right.set_ylim(bottom=0)
    along.legend()
    figure.savefig(path, dpi=110)


def _block_row(row: BlockRow) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "block": row.block,
        "operations": row.operations,
        "alone_loss": _rounded(row.alone.loss),
        **{f"alone_{name}": _rounded(value) for name, value in row.alone.metrics.items()},
        "all_but_loss": _rounded(row.all_but.loss),
        **{f"all_but_{name}": _rounded(value) for name, value in row.all_but.metrics.items()},
    }


def _curve_row(point: CurvePoint) -> dict[str, Any]:
    return {
        "kept_blocks": len(point.kept),
        "last_kept": point.kept[-1] if point.kept else "",
        "loss": _rounded(point.judgement.loss),
        **{name: _rounded(value) for name, value in point.judgement.metrics.items()},
        "latency_of_fp32": "" if point.latency is None else round(point.latency, 3),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]


def _say(stage: str):  # type: ignore[no-untyped-def]
    def say(done: int, total: int) -> None:
        print(f"{stage} {done}/{total}", flush=True)

    return say


__all__ = ["METHODS", "Plan", "make_table"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--network", choices=("segmenter", "classifier"), required=True)
    parser.add_argument("--calibrate", nargs="+", default=["phantom:3000:3016"], help="exams whose ranges are observed")
    parser.add_argument("--judge", nargs="+", default=["phantom:3100:3116"], help="exams that are judged on")
    parser.add_argument("--sections", type=int, default=480)
    parser.add_argument("--triplets", type=int, default=240)
    parser.add_argument("--limit", type=int, default=12, help="most blocks kept on the curve")
    parser.add_argument("--method", choices=METHODS, default=None)
    parser.add_argument("--work", type=Path, required=True, help="folder for what a killed run leaves to go on from")


def make(work: Path, out: Path, pack: Path | None, **plan: Any) -> None:
    """`make_table` with the plan's fields by name."""
    make_table(Plan(**plan), work, out, pack)


TABLE = Table(
    "sensitivity",
    "which blocks suffer from 8 bits, and how many must be kept",
    make,
    lambda given: 60,
    arguments,
    needs="the network's name and a work folder",
)
