"""From one volume to its lesions: decode -> reformat -> segment -> components -> link -> crop -> classify.

Each stage has a thread of its own and hands its results on through a bounded channel, so stages overlap while order
and memory stay fixed. Batches are made by section order alone, so neither timing nor threads change the answer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scanside.engine.components import level_of
from scanside.engine.flow import Channel, Flow, Progress
from scanside.engine.heatmaps import lesion_heatmap, representative_frame
from scanside.engine.link import MAX_CANDIDATES, Candidate, Linked, link
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.runtime import Pending
from scanside.engine.sections import Arrivals, Reformatter, SectionBatch
from scanside.engine.support import Support
from scanside.engine.triplets import TripletBatch, triplet_batches
from scanside.errors import EngineError
from scanside.exam.geometry import Geometry
from scanside.exam.planes import SectionGrid, triplet_indices
from scanside.exam.volume import ArrayFrames, Volume, Voxels
from scanside.pack.manifest import SegmenterSpec
from scanside.report.model import Lesion, LesionMask

QUEUED_BATCHES = 2
EXPLANATIONS = ("none", "gradcam")
MAX_IN_FLIGHT = 2


@dataclass(frozen=True)
class Findings:
    """What one run found, and how its time was spent."""

    lesions: tuple[Lesion, ...]
    mask: LesionMask
    voxels: Voxels
    warnings: tuple[str, ...]
    busy_ms: Mapping[str, float]
    total_ms: float
    trace: tuple[Mapping[str, Any], ...]


@dataclass
class _Run:
    """What the stages of one run leave for each other."""

    voxels: Voxels
    linked: Linked | None = None
    probabilities: list[np.ndarray] = field(default_factory=list)
    heatmaps: list[np.ndarray] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_lesions(
    volume: Volume,
    segmenter: Segmenter,
    classifier: Classifier,
    *,
    threads: int,
    explain: str = "none",
    progress: Callable[[Progress], object] | None = None,
    cancel: threading.Event | None = None,
) -> Findings:
    """Run all stages on one volume (policy ``exact``: every section of every plane of the pack).

    Parameters
    ----------
    volume : Volume
        Its frames are decoded here; sections are cut as they arrive.
    segmenter, classifier : Segmenter, Classifier
        Shared by any number of runs.
    threads : int
        Decoding threads.
    explain : str
        One of `EXPLANATIONS`: "gradcam" fetches the classifier's heatmaps as well.
    progress : callable, optional
        Called with `Progress` for the stages decode, segment, link and classify.
    cancel : threading.Event, optional
        Set it to stop; the run ends within about one batch.

    Raises
    ------
    Cancelled
        `cancel` was set.
    ScansideError
        The first error of any stage, after all threads have ended.
    """
    spec = segmenter.spec
    geometry = volume.geometry
    grids = {plane: SectionGrid.over(geometry, plane, spec.pitch_mm, spec.every_mm) for plane in segmenter.planes}
    flow = Flow(progress, cancel)
    run = _Run(_memory_for(volume))
    arrivals = Arrivals(flow, geometry.shape[0])
    reformatter = Reformatter(flow, grids, batch=spec.batch, size_multiple=spec.size_multiple)
    support = Support(grids)
    cut: Channel[SectionBatch] = flow.channel(QUEUED_BATCHES)
    answered: Channel[SectionBatch] = flow.channel(QUEUED_BATCHES)
    cropped: Channel[TripletBatch] = flow.channel(QUEUED_BATCHES)
    linked: Channel[Linked] = flow.channel(1)

    def decode() -> None:
        with flow.trace.span("decode", frames=len(run.voxels)):
            _decode(volume, run, flow, arrivals, threads)

    def reformat() -> None:
        for batch in reformatter.batches(run.voxels, arrivals):
            cut.put(batch)

    def segment() -> None:
        done = 0
        for batch in _segmented(cut, segmenter, flow):
            done += batch.count
            answered.put(batch)
            flow.report("segment", done, reformatter.total)

    def gather() -> None:
        for batch in answered:
            with flow.trace.span("components", plane=batch.plane.value, first=batch.first, count=batch.count):
                support.add(batch.plane, batch.first, batch.probability[:, 0])
            batch.release()
        with flow.trace.span("link"):
            run.linked = _link(support, geometry, spec)
        flow.report("link", 1, 1)
        linked.put(run.linked)

    def crop() -> None:
        for found in linked:
            boxes = [candidate.box_mm for candidate in found.candidates]
            batches = triplet_batches(run.voxels, geometry, boxes, classifier.rule, classifier.spec.batch)
            while True:
                with flow.trace.span("crop"):
                    batch = next(batches, None)
                if batch is None:
                    break
                cropped.put(batch)

    def classify() -> None:
        for batch in cropped:
            with flow.trace.span("classify", first=batch.first, count=batch.count):
                if explain == "gradcam":
                    probability, heatmaps = classifier.run_explained(batch.crops)
                    run.heatmaps.append(heatmaps)
                else:
                    probability = classifier.run(batch.crops)
                run.probabilities.append(probability)
            total = len(run.linked.candidates) * classifier.rule.frames if run.linked else 0
            flow.report("classify", batch.first + batch.count, total)

    flow.stage("decode", decode)
    flow.stage("reformat", reformat, closes=cut)
    flow.stage("segment", segment, closes=answered)
    flow.stage("components", gather, closes=linked)
    flow.stage("crop", crop, closes=cropped)
    flow.stage("classify", classify)
    flow.run()
    return _findings(run, flow, geometry, support.geometry, classifier)


def _segmented(cut: Iterable[SectionBatch], segmenter: Segmenter, flow: Flow) -> Iterator[SectionBatch]:
    """The batches of `cut` with their probabilities, in order. On a GPU the next one is under way before one is given.

    No more than one batch is held back while `cut` is waited for, so buffers for the next ones stay free.
    """
    running: deque[tuple[SectionBatch, Pending]] = deque()

    def oldest() -> SectionBatch:
        batch, pending = running.popleft()
        pending.wait()
        return batch

    try:
        for batch in cut:
            with flow.trace.span("segment", plane=batch.plane.value, first=batch.first, count=batch.count):
                running.append((batch, segmenter.submit(batch.pixels, batch.probability)))
                is_full = len(running) >= min(MAX_IN_FLIGHT, segmenter.in_flight(batch.pixels))
                finished = oldest() if is_full else None
            if finished is not None:
                yield finished
        while running:
            yield oldest()
    finally:
        for _, pending in running:
            with suppress(EngineError):  # another error is on its way, or nobody listens any more
                pending.wait()


def _memory_for(volume: Volume) -> Voxels:
    if isinstance(volume.source, ArrayFrames):
        return np.ascontiguousarray(volume.source.voxels)
    return volume.empty_voxels()


def _decode(volume: Volume, run: _Run, flow: Flow, arrivals: Arrivals, threads: int) -> None:
    frames = len(run.voxels)
    if isinstance(volume.source, ArrayFrames):
        arrivals.mark_all()
        flow.report("decode", frames, frames)
    else:

        def on_frame(k: int) -> None:
            flow.report("decode", arrivals.mark(k), frames)

        volume.decode(threads=threads, on_frame=on_frame, cancel=flow.stopping, out=run.voxels)
    first = run.voxels[0, 0, 0]
    if not any((frame != first).any() for frame in run.voxels):
        run.warnings.append(f"every voxel has the value {first}: the exam holds no picture")


def _link(support: Support, geometry: Geometry, spec: SegmenterSpec) -> Linked:
    planes = {plane: support.plane(plane) for plane in support.planes}
    fused = support.smoothed(support.fused(planes.values()), spec.smoothing_mm)
    return link(
        fused,
        planes,
        support.geometry,
        geometry.extent_mm,
        level=level_of(spec.threshold),
        min_lesion_mm=spec.min_lesion_mm,
        min_detection_score=spec.min_detection_score,
    )


def _findings(run: _Run, flow: Flow, geometry: Geometry, grid: Geometry, classifier: Classifier) -> Findings:
    if run.linked is None:
        raise EngineError("the run ended without a result", where="pipeline")
    frames = classifier.rule.frames
    probabilities = np.concatenate([*run.probabilities, np.empty(0, np.float32)]).reshape(-1, frames)
    lesions = [
        _lesion(candidate, row, geometry, frames)
        for candidate, row in zip(run.linked.candidates, probabilities, strict=True)
    ]
    if run.heatmaps:
        maps = np.concatenate(run.heatmaps)
        lesions = [
            _explained(lesion, maps[i * frames : (i + 1) * frames], run.voxels, geometry, classifier)
            for i, lesion in enumerate(lesions)
        ]
    if run.linked.dropped:
        total = run.linked.dropped + MAX_CANDIDATES
        run.warnings.append(f"{run.linked.dropped} of {total} candidates were dropped, the least sure ones")
    return Findings(
        lesions=tuple(lesions),
        mask=LesionMask(run.linked.labels, grid.spacing_mm[0]),
        voxels=run.voxels,
        warnings=tuple(run.warnings),
        busy_ms=flow.trace.busy_ms(),
        total_ms=flow.trace.total_ms,
        trace=flow.trace.events(),
    )


def _lesion(candidate: Candidate, frame_probabilities: np.ndarray, geometry: Geometry, frames: int) -> Lesion:
    probability = float(np.mean(frame_probabilities, dtype=np.float64))
    indices = triplet_indices(geometry, candidate.box_mm, frames)
    return Lesion(
        id=candidate.id,
        box_index=geometry.box_index_from_mm(candidate.box_mm),
        box_mm=candidate.box_mm,
        centroid_mm=candidate.centroid_mm,
        diameters_mm=candidate.box_mm.size,
        volume_mm3=candidate.volume_mm3,
        detection_score=candidate.detection_score,
        probability=probability,
        frame_probabilities=tuple(frame_probabilities.astype(np.float64).tolist()),
        malignant=probability > 0.5,
        planes_seen=tuple(plane.value for plane in candidate.planes_seen),
        frames={plane.value: indices[plane] for plane in indices},
    )


def _explained(lesion: Lesion, maps: np.ndarray, voxels: Voxels, geometry: Geometry, classifier: Classifier) -> Lesion:
    frame = representative_frame(np.array(lesion.frame_probabilities), lesion.probability)
    indices = triplet_indices(geometry, lesion.box_mm, classifier.rule.frames)
    heatmap = lesion_heatmap(voxels, geometry, lesion.box_mm, indices, classifier.rule, frame, maps[frame])
    return replace(lesion, heatmap=heatmap)
