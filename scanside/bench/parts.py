"""One section and one triplet, from the volume's voxels to the answer: cutting and resampling are inside the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.bench.machine import Counters, peak_memory_mib, restart_peak_memory, slowdowns
from scanside.bench.measurement import Measurement
from scanside.bench.operations import layers_of, operations_of
from scanside.bench.plan import OnRepetition, Plan, conditions_of
from scanside.bench.rates import rates_of
from scanside.bench.timing import Clock, Samples, measure
from scanside.engine.components import Components, components, level_of
from scanside.engine.predictor import Predictor
from scanside.engine.sections import padded_shape
from scanside.engine.triplets import TripletBatch, triplet_batches
from scanside.errors import EngineError, UsageError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.open import open_exam
from scanside.exam.planes import Plane, SectionGrid
from scanside.exam.volume import Voxels

MAX_LEVEL_DIFFERENCE = 1
MAX_PROBABILITY_DIFFERENCE = 1e-4
LESION_MM = 12.0
PLACES = 5
_CYCLE = 32


class SectionWork:
    """Batches of sections of one plane: native slice -> square pixels -> probability -> components.

    Call it with the number of a repetition; the answer is the probability map and the components of each section. It
    walks through the same `_CYCLE` places of the volume again and again.
    """

    def __init__(self, predictor: Predictor, voxels: Voxels, geometry: Geometry, plane: Plane, batch: int) -> None:
        spec = predictor.segmenter.spec
        self._segmenter, self._voxels, self.batch = predictor.segmenter, voxels, batch
        self._level = level_of(spec.threshold)
        self.grid = SectionGrid.over(geometry, plane, spec.pitch_mm, spec.every_mm)
        self.shape = padded_shape(self.grid.shape, spec.size_multiple)
        self._pixels = np.zeros((batch, 1, *self.shape), np.uint8)
        self._places = np.linspace(0, len(self.grid) - 1, min(_CYCLE, len(self.grid))).astype(int).tolist()

    def place(self, i: int) -> int:
        """Which of the places repetition `i` starts at."""
        return i * self.batch % len(self._places)

    def __call__(self, i: int) -> tuple[NDArray[np.uint8], list[Components]]:
        first = self.place(i)
        for k in range(self.batch):
            section = self._places[(first + k) % len(self._places)]
            self.grid.section(self._voxels, section, out=self._pixels[k, 0])
        probability = np.empty_like(self._pixels)
        self._segmenter.run(self._pixels, probability)
        return probability, [components(p, self._level) for p in probability[:, 0]]


class TripletWork:
    """Batches of triplets at boxes of `LESION_MM` along the sweep: crops of three planes -> P(malignant)."""

    def __init__(self, predictor: Predictor, voxels: Voxels, geometry: Geometry, batch: int) -> None:
        self._classifier, self._voxels, self._geometry, self.batch = predictor.classifier, voxels, geometry, batch
        self._boxes = boxes_along_sweep(geometry)

    def place(self, i: int) -> int:
        """Which of the boxes repetition `i` crops."""
        return i % len(self._boxes)

    def crops(self, i: int) -> TripletBatch:
        """The triplets of repetition `i`."""
        boxes = [self._boxes[(i + k) % len(self._boxes)] for k in range(self.batch)]
        return next(triplet_batches(self._voxels, self._geometry, boxes, self._classifier.rule, self.batch))

    def __call__(self, i: int) -> NDArray[np.float32]:
        return self._classifier.run(self.crops(i).crops)


def boxes_along_sweep(geometry: Geometry) -> tuple[Box, ...]:
    """`PLACES` boxes of `LESION_MM` (or half the volume where that is less) at mid depth, spread over the sweep."""
    extent = geometry.extent_mm
    side = [min(LESION_MM, e / 2) for e in extent]
    boxes = []
    for k in range(PLACES):
        centre = (extent[0] * (k + 1) / (PLACES + 1), extent[1] / 2, extent[2] * (PLACES - k) / (PLACES + 1))
        low = [min(max(c - s / 2, 0.0), e - s) for c, s, e in zip(centre, side, extent, strict=True)]
        boxes.append(Box(tuple(low), tuple(a + s for a, s in zip(low, side, strict=True))))  # type: ignore[arg-type]
    return tuple(boxes)


def bench_section(
    predictor: Predictor,
    exam: Path,
    plan: Plan,
    *,
    plane: str = "transverse",
    batch: int = 1,
    progress: OnRepetition | None = None,
    clock: Clock | None = None,
) -> Measurement:
    """One batch of sections of `plane`, without decoding. A place's answer must be the same each time it is visited.

    Raises
    ------
    UsageError
        A plane the pack does not look at, or an empty batch.
    EngineError
        A section's answer changed, or a golden case came out wrong afterwards.
    """
    known = [p.value for p in predictor.segmenter.planes]
    if plane not in known:
        raise UsageError("the pack does not look at this plane", expected=" | ".join(known), found=plane)
    voxels, geometry = decoded(exam, predictor.threads)
    work = SectionWork(predictor, voxels, geometry, Plane(plane), _whole_batch(batch))
    answers: dict[int, NDArray[np.uint8]] = {}

    def check(i: int, answer: tuple[NDArray[np.uint8], list[Components]]) -> None:
        known = answers.setdefault(work.place(i), answer[0])
        _require_close(known.astype(int), answer[0].astype(int), MAX_LEVEL_DIFFERENCE, f"section, repetition {i}")

    before = Counters.read()
    restart_peak_memory()
    samples = measure(
        work, repetitions=plan.repetitions, warm_up=plan.warm_up, check=check, progress=progress, clock=clock
    )

    def count() -> int:
        black = {predictor.segmenter.spec.input: np.zeros((1, 1, *work.shape), np.uint8)}
        dims = {"height": work.shape[0], "width": work.shape[1]}
        return operations_of(layers_of(predictor.pack.network_graph("segmenter", "fp32"), black, dims))

    about = {"plane": plane, "batch": batch, "section": list(work.grid.shape), "network_input": list(work.shape)}
    return _measurement("section", predictor, plan, samples, batch, count, about, before)


def bench_triplet(
    predictor: Predictor,
    exam: Path,
    plan: Plan,
    *,
    batch: int = 1,
    progress: OnRepetition | None = None,
    clock: Clock | None = None,
) -> Measurement:
    """One batch of triplets, without decoding. A place's answer must be the same each time it is visited.

    Raises
    ------
    UsageError
        An empty batch.
    EngineError
        An answer changed, or a golden case came out wrong afterwards.
    """
    voxels, geometry = decoded(exam, predictor.threads)
    work = TripletWork(predictor, voxels, geometry, _whole_batch(batch))
    answers: dict[int, NDArray[np.float32]] = {}

    def check(i: int, answer: NDArray[np.float32]) -> None:
        known = answers.setdefault(work.place(i), answer)
        _require_close(known, answer, MAX_PROBABILITY_DIFFERENCE, f"triplet, repetition {i}")

    before = Counters.read()
    restart_peak_memory()
    samples = measure(
        work, repetitions=plan.repetitions, warm_up=plan.warm_up, check=check, progress=progress, clock=clock
    )
    spec = predictor.classifier.spec

    def count() -> int:
        black = {name: np.zeros((1, 1, spec.size, spec.size), np.uint8) for name in spec.inputs.values()}
        return operations_of(layers_of(predictor.pack.network_graph("classifier", "fp32"), black))

    about = {"batch": batch, "crop": spec.size, "planes": list(spec.inputs)}
    return _measurement("triplet", predictor, plan, samples, batch, count, about, before)


def decoded(exam: Path, threads: int) -> tuple[Voxels, Geometry]:
    """The voxels and geometry of the one volume at `exam`.

    Raises
    ------
    ExamReadError
        It cannot be read, or holds several volumes.
    """
    volume = open_exam(exam).only()
    voxels = volume.empty_voxels()
    volume.decode(threads=threads, out=voxels)
    return voxels, volume.geometry


def _whole_batch(batch: int) -> int:
    if batch < 1:
        raise UsageError("an empty batch", expected="1 or more", found=batch)
    return batch


def _require_close(expected: NDArray, found: NDArray, limit: float, where: str) -> None:
    difference = float(np.abs(expected - found).max())
    if not difference <= limit:
        raise EngineError(
            "a timed run gave another answer than the first one at the same place",
            where=where,
            expected=f"a difference of at most {limit:g}",
            found=f"{difference:g}",
            remedy="do not trust this runtime here: try --device cpu --precision fp32",
        )


def _measurement(
    what: str,
    predictor: Predictor,
    plan: Plan,
    samples: Samples,
    batch: int,
    count_operations: Callable[[], int],
    about: dict[str, Any],
    before: Counters,
) -> Measurement:
    peak, after = peak_memory_mib(), Counters.read()
    predictor.self_check()
    operations = count_operations()
    conditions = conditions_of(predictor)
    rates = rates_of(conditions["precision"], device=conditions["device"], threads=predictor.threads)
    per_second = batch * len(samples.wall_s) / sum(samples.wall_s)
    reached = per_second * operations / 1e9
    gemm = rates["gemm_gop_per_s"]
    return Measurement(
        what=what,
        conditions={**conditions, **about},
        samples_ms=tuple(s * 1e3 for s in samples.wall_s),
        percentiles=samples.percentiles_ms(plan.percents),
        rate=per_second,
        rate_unit=f"{what}s/s",
        checked=samples.checked,
        figures={
            "gop_each": operations / 1e9,
            "gop_per_s": reached,
            **rates,
            "share_of_gemm": None if gemm is None else reached / gemm,
            "overlap": samples.overlap(predictor.threads) if conditions["device"] == "cpu" else None,
            "peak_rss_mib": peak,
        },
        slowdowns=slowdowns(before, after),
    )
