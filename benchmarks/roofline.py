"""What binds each stage: operations and bytes counted, rates measured, against the time each stage takes.

A stage cannot be faster than its operations at the rate of a large matrix product of the same precision on the same
cores, nor than its bytes at the rate memory copies them. For the networks both are taken layer by layer, so that a
layer that moves much and computes little counts what it moves. The networks are timed alone, batch after batch; the
other stages' times are their busy times in a whole run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import scanside
from benchmarks.contest import standard_file
from benchmarks.exam import contest_arguments, how_arguments, with_size
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.bench.machine import Counters, slowdowns
from scanside.bench.operations import Layer, bound_s, by_kind, layers_of, moved_bytes
from scanside.bench.plan import conditions_of
from scanside.bench.rates import gemm_rate, memory_rate
from scanside.bench.statistics import Spread
from scanside.engine.predictor import Predictor
from scanside.engine.sections import padded_shape
from scanside.engine.support import section_geometry
from scanside.exam.geometry import Geometry
from scanside.exam.open import open_exam
from scanside.exam.planes import SectionGrid

SUPPORT_BYTES = 2
"""A sum of probabilities on the section grid is uint16."""


@dataclass(frozen=True)
class Bound:
    """A stage's work in one exam, the least time it can take at the measured rates, and the time it takes."""

    stage: str
    operations: float
    bytes: float
    bound_s: float
    measured_s: float

    def row(self, operations_per_s: float, bytes_per_s: float) -> dict[str, Any]:
        """As a line of the table."""
        computing, moving = self.operations / operations_per_s, self.bytes / bytes_per_s
        return {
            "stage": self.stage,
            "gop": round(self.operations / 1e9, 3),
            "gb": round(self.bytes / 1e9, 3),
            "compute_s": round(computing, 4),
            "memory_s": round(moving, 4),
            "bound_s": round(self.bound_s, 4),
            "bound_by": "compute" if computing > moving else "memory",
            "measured_s": round(self.measured_s, 4),
            "bound_over_measured": round(self.bound_s / self.measured_s, 4) if self.measured_s else "",
            "share_of_gemm": round(computing / self.measured_s, 4) if self.measured_s else "",
        }


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    contest_arguments(parser)
    how_arguments(parser)


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly, from the seconds of a standard exam and phantom on two idle cores."""
    share = given["shape"][0] * given["shape"][1] * given["shape"][2] / (318 * 600 * 800)
    return 1 + share * (25 + 3 * 20) / 60


def make_table(
    out: Path,
    pack: Path | None,
    shape: tuple[int, int, int],
    seed: int,
    rounds: int,
    threads: int,
    work: Path,
    **how: Any,
) -> None:
    """Write roofline-<conditions>.csv, -layers.csv and its record into `out`."""
    exam = standard_file(shape, seed, work)
    before = Counters.read()
    with scanside.load(pack, threads=threads, **how) as predictor:
        precision = predictor.device.precision
        gemm = gemm_rate(precision, device="cuda" if how["device"] == "cuda" else "cpu", threads=threads)
        memory = memory_rate(threads)
        predictor.analyze(exam)
        report = predictor.analyze(exam)
        geometry = open_exam(exam).only().geometry
        rates = {"operations_per_s": gemm.per_second, "bytes_per_s": memory.per_second, "precision": precision}
        segment, segment_layers = segmenter_bound(predictor, geometry, rounds, rates)
        classify, classify_layers = classifier_bound(predictor, len(report.lesions), rounds, rates)
        bounds = other_bounds(predictor, geometry, report.timing_ms.stages, exam.stat().st_size, memory.per_second)
        said = conditions_of(predictor)
        name = with_size(said["name"], shape)
    rows = [bound.row(gemm.per_second, memory.per_second) for bound in (*bounds, segment, classify)]
    write_csv(out / f"roofline-{name}.csv", rows)
    layers = [("segmenter", segment_layers), ("classifier", classify_layers)]
    write_csv(out / f"roofline-{name}-layers.csv", layer_rows(layers, rates))
    write_json(
        out / f"roofline-{name}.json",
        {
            **conditions(),
            **how,
            "shape": shape,
            "seed": seed,
            "threads": threads,
            "runtime": said["runtime"],
            "ran_precision": precision,
            "gemm_gop_per_s": round(gemm.per_second / 1e9, 1),
            "gemm_by": gemm.by,
            "memory_gb_per_s": round(memory.per_second / 1e9, 2),
            "slowdowns": slowdowns(before, Counters.read()),
        },
    )
    for row in rows:
        print(row, flush=True)


def segmenter_bound(
    predictor: Predictor, geometry: Geometry, rounds: int, rates: Mapping[str, Any]
) -> tuple[Bound, list[Layer]]:
    """All sections of an exam, counted and timed in the pack's batches: a batch reads the weights once."""
    spec, graph = predictor.segmenter.spec, predictor.pack.network_graph("segmenter", "fp32")
    grids = [SectionGrid.over(geometry, p, spec.pitch_mm, spec.every_mm) for p in predictor.segmenter.planes]
    shapes = [padded_shape(grid.shape, spec.size_multiple) for grid in grids]
    smallest = min(height * width for height, width in shapes)
    layers: list[Layer] = []
    seconds = least = 0.0
    for grid, (height, width) in zip(grids, shapes, strict=True):
        size = max(1, spec.batch * smallest // (height * width))  # as the pipeline fills its batches
        pixels = np.random.default_rng(0).integers(0, 256, (size, 1, height, width), dtype=np.uint8)
        answer = np.empty_like(pixels)
        batch = layers_of(graph, {spec.input: pixels}, {"height": height, "width": width})
        batches = len(grid) / size
        seconds += (
            median_s(lambda pixels=pixels, answer=answer: predictor.segmenter.run(pixels, answer), rounds) * batches
        )
        least += bound_s(batch, **rates) * batches
        layers += times(batch, batches)
    return Bound("segment", *totals(layers, rates["precision"]), least, seconds), layers


def classifier_bound(
    predictor: Predictor, lesions: int, rounds: int, rates: Mapping[str, Any]
) -> tuple[Bound, list[Layer]]:
    """All triplets of an exam with `lesions` (of one where it has none)."""
    spec, count = predictor.classifier.spec, max(1, lesions) * predictor.classifier.rule.frames
    crops = {p: np.zeros((spec.batch, 1, spec.size, spec.size), np.uint8) for p in predictor.classifier.rule.planes}
    inputs = {spec.inputs[plane.value]: pixels for plane, pixels in crops.items()}
    batch = layers_of(predictor.pack.network_graph("classifier", "fp32"), inputs)
    batches = count / spec.batch
    seconds = median_s(lambda: predictor.classifier.run(crops), rounds) * batches
    layers = times(batch, batches)
    return Bound("classify", *totals(layers, rates["precision"]), bound_s(batch, **rates) * batches, seconds), layers


def other_bounds(
    predictor: Predictor, geometry: Geometry, busy_ms: Mapping[str, float], file_bytes: int, bytes_per_s: float
) -> list[Bound]:
    """Decode, reformat, components and link: bytes they must read and write once; they hardly compute."""
    spec = predictor.segmenter.spec
    voxels = float(np.prod(geometry.shape))
    grids = [SectionGrid.over(geometry, p, spec.pitch_mm, spec.every_mm) for p in predictor.segmenter.planes]
    native = sum(len(g) * voxels / geometry.shape[g.plane.normal] for g in grids)
    padded = float(sum(len(g) * np.prod(padded_shape(g.shape, spec.size_multiple)) for g in grids))
    support = float(np.prod(section_geometry(geometry, spec.pitch_mm).shape))
    moved = {
        "decode": file_bytes + voxels,
        "reformat": native + padded,
        "components": padded + 2 * SUPPORT_BYTES * float(sum(len(g) * np.prod(g.shape) for g in grids)),
        "link": len(grids) * (SUPPORT_BYTES + 1) * support + 4 * support,
    }
    return [Bound(s, 0.0, b, b / bytes_per_s, busy_ms.get(s, 0.0) / 1e3) for s, b in moved.items()]


def layer_rows(networks: Sequence[tuple[str, Sequence[Layer]]], rates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each network's layers by kind: operations, bytes and the least time at the measured rates.

    Operations a byte are those of the precision that ran; layers that are fused move no bytes of their own.
    """
    rows = []
    for network, layers in networks:
        for work in by_kind(layers):
            of_kind = [layer for layer in layers if layer.kind == work.kind]
            moved = moved_bytes(of_kind, rates["precision"])
            rows.append(
                {
                    "network": network,
                    "kind": work.kind,
                    "layers": work.layers,
                    "gop": round(work.operations / 1e9, 3),
                    "gb_fp32": round(work.bytes / 1e9, 3),
                    "operations_per_byte": round(work.operations / moved, 2) if moved else "",
                    "bound_s": round(bound_s(of_kind, **rates), 4),
                }
            )
    return rows


def times(layers: Sequence[Layer], count: float) -> list[Layer]:
    """Each layer's work `count` times."""
    return [Layer(x.kind, round(x.operations * count), round(x.bytes * count), x.seconds * count) for x in layers]


def totals(layers: Sequence[Layer], precision: str) -> tuple[float, float]:
    """All operations, and the bytes of the layers that move them."""
    return float(sum(layer.operations for layer in layers)), moved_bytes(layers, precision)


def median_s(work: Callable[[], object], tries: int) -> float:
    """Median seconds of `tries` calls after one that is not counted."""
    work()
    seconds = []
    for _ in range(tries):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return Spread.of(seconds).median


TABLE = Table("roofline", "what binds each stage: work counted, rates measured", make_table, minutes, arguments)
