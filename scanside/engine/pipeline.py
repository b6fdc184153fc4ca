"""From one volume to its lesions: decode -> reformat -> segment -> components -> link -> crop -> classify.

Each stage has a thread of its own and hands its results on through a bounded channel, so stages overlap while order
and memory stay fixed. Which sections are looked at is the policy's knowledge (`exact`, `confirm`). Batches are made by
section order alone, so neither timing nor threads change the answer.

Cores are given out by one rule: a network's runtime owns `threads` of them while it runs, decoding has as many threads
(it is over, or waits for the scanner, while networks work), and every other stage has the one thread it runs in.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scanside.engine.confirm import Confirm
from scanside.engine.exact import Exact
from scanside.engine.flow import Channel, Flow, Progress
from scanside.engine.heatmaps import lesion_heatmap, representative_frame
from scanside.engine.link import MAX_CANDIDATES, Candidate, Linked
from scanside.engine.networks import Classifier, Segmenter
from scanside.engine.runtime import DONE, Pending
from scanside.engine.sections import Arrivals, HostVolume, Reformatter, SectionBatch, Source
from scanside.engine.slots import drive
from scanside.engine.support import Support
from scanside.engine.triplets import CropRule, TripletBatch, triplet_batches
from scanside.errors import EngineError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane, SectionGrid, crop_side_mm, triplet_indices
from scanside.exam.volume import ArrayFrames, Volume, Voxels
from scanside.report.model import Lesion, LesionMask

QUEUED_BATCHES = 2
EXPLANATIONS = ("none", "gradcam")
QUEUED_RESULTS = 100_000
"""Results wait without bound: a stage that waits for frames must not hold up the one that segments them."""

Candidates = tuple[Candidate, ...]
OnLesions = Callable[[tuple[Lesion, ...]], object]


@dataclass(frozen=True)
class Findings:
    """What one run found, and how its time was spent.

    `sections` counts those that were looked at in each plane, `blank_sections` those of them that were black and for
    which the network's answer to black was taken. `fallbacks` says what was wanted and not possible.
    """

    lesions: tuple[Lesion, ...]
    mask: LesionMask
    voxels: Voxels
    warnings: tuple[str, ...]
    busy_ms: Mapping[str, float]
    total_ms: float
    trace: tuple[Mapping[str, Any], ...]
    sections: Mapping[Plane, int]
    blank_sections: Mapping[Plane, int]
    fallbacks: tuple[str, ...] = ()


class Looking(Protocol):
    """A policy at work in one run: which sections are looked at, and what they show together."""

    support: Support
    sections: Counter[Plane]
    """Answered so far."""

    @property
    def total(self) -> int:
        """How many sections will be looked at, as far as is known."""

    def stages(self, source: Source, arrivals: Arrivals, cut: Channel[SectionBatch]) -> None:
        """Add the stages that cut sections into `cut`, and close it after the last."""

    def gather(self, answered: Channel[SectionBatch]) -> Iterator[Linked]:
        """Take every answered batch and give results: early ones where they are certain, the whole one last."""


POLICIES: Mapping[str, Callable[..., Looking]] = {"exact": Exact, "confirm": Confirm}


class OnRuntime:
    """The segmenter as a `slots.Device`: at once on the processor's cores, ahead where the runtime queues."""

    def __init__(self, segmenter: Segmenter, flow: Flow) -> None:
        self._segmenter, self._flow = segmenter, flow
        self._answered_ns = 0
        self.blank: Counter[Plane] = Counter()
        """Sections that no network was asked about."""
        self.depth = 1
        """Known with the first batch: the runtime says how many it can have under way."""

    def submit(self, batch: SectionBatch) -> Pending:
        seen = len(batch.seen)
        begun = time.perf_counter_ns()
        pending = self._segmenter.submit(batch.pixels, batch.probability[:seen]) if seen else DONE
        self.blank[batch.plane] += batch.count - seen
        self.depth = self._segmenter.in_flight(*batch.window.shape)
        return Answer(self, batch, pending, begun)

    def answered(self, batch: SectionBatch, begun_ns: int) -> None:
        """Count the time since `begun_ns`, but for what an earlier batch has counted: several may be under way."""
        now = time.perf_counter_ns()
        about = {"plane": batch.plane.value, "first": batch.first, "count": batch.count, "seen": len(batch.seen)}
        self._flow.trace.add("segment", max(begun_ns, self._answered_ns), now, **about)
        self._answered_ns = now
        if batch.blank:
            batch.spread(self._segmenter.blank(*batch.window.shape))


@dataclass(frozen=True)
class Answer:
    """A batch under way: what the network answers and, for sections that are blank, what it answers to black."""

    device: OnRuntime
    batch: SectionBatch
    pending: Pending
    begun_ns: int

    def wait(self) -> None:
        self.pending.wait()
        self.device.answered(self.batch, self.begun_ns)


class Run:
    """One run over one volume's memory, frames arriving from anywhere; `execute` blocks until it is over.

    Parameters
    ----------
    geometry : Geometry
        Of the whole volume.
    voxels : uint8 array
        Its memory, filled by whoever marks `arrivals`.
    segmenter, classifier : Segmenter, Classifier
        Shared by any number of runs.
    policy : str
        A key of `POLICIES`.
    explain, progress, on_lesions, cancel : optional
        As for `find_lesions`.
    """

    def __init__(
        self,
        geometry: Geometry,
        voxels: Voxels,
        segmenter: Segmenter,
        classifier: Classifier,
        *,
        policy: str,
        explain: str = "none",
        progress: Callable[[Progress], object] | None = None,
        on_lesions: OnLesions | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        spec = segmenter.spec
        grids = {plane: SectionGrid.over(geometry, plane, spec.pitch_mm, spec.every_mm) for plane in segmenter.planes}
        self.geometry, self.voxels = geometry, voxels
        self.flow = Flow(progress, cancel)
        self.arrivals = Arrivals(self.flow, geometry.shape[0])
        self.warnings: list[str] = []
        self.fallbacks: list[str] = []
        self._segmenter, self._grids = segmenter, grids
        self._classifier, self._on_lesions = classifier, on_lesions
        reformatter = Reformatter(
            self.flow, grids, batch=spec.batch, size_multiple=spec.size_multiple, in_flight=segmenter.in_flight
        )
        self._looking = POLICIES[policy](self.flow, grids, spec, reformatter)
        self._device = OnRuntime(segmenter, self.flow)
        self._linked: Linked | None = None
        self._explain = explain
        self._frame_probabilities: dict[Box, NDArray[np.float32]] = {}
        self._frame_heatmaps: dict[Box, list[NDArray[np.float32]]] = {}

    @property
    def sections(self) -> dict[Plane, int]:
        """How many sections of each plane have been answered so far."""
        return dict(self._looking.sections)

    def execute(self, decode: Callable[[], None]) -> Findings:
        """Run all stages. `decode` has a thread too, and returns when every frame is in `voxels` and marked.

        Raises
        ------
        Cancelled
            `cancel` was set.
        ScansideError
            The first error of any stage, after all threads have ended.
        """
        flow = self.flow
        cut: Channel[SectionBatch] = flow.channel(QUEUED_BATCHES)
        answered: Channel[SectionBatch] = flow.channel(QUEUED_BATCHES)
        linked: Channel[Candidates] = flow.channel(QUEUED_RESULTS)
        cropped: Channel[tuple[Candidates, Box | None, TripletBatch | None]] = flow.channel(QUEUED_BATCHES)
        flow.stage("decode", lambda: self._decode(decode))
        with self._segmenter.source(self._grids, self.voxels) as source:
            self._looking.stages(source, self.arrivals, cut)
            flow.stage("segment", lambda: self._segment(cut, answered), closes=answered)
            flow.stage("components", lambda: self._gather(answered, linked), closes=linked)
            flow.stage("crop", lambda: self._crop(linked, cropped), closes=cropped)
            flow.stage("classify", lambda: self._classify(cropped))
            flow.run()
        if isinstance(source, HostVolume) and source.remark:
            self.fallbacks.append(source.remark)
        return self._findings()

    def _decode(self, decode: Callable[[], None]) -> None:
        decode()
        with self.flow.trace.span("decode", frames=len(self.voxels)):
            first = self.voxels[0, 0, 0]
            if not any((frame != first).any() for frame in self.voxels):
                self.warnings.append(f"every voxel has the value {first}: the exam holds no picture")

    def _segment(self, cut: Channel[SectionBatch], answered: Channel[SectionBatch]) -> None:
        done = 0

        def hand_on(batch: SectionBatch) -> None:
            nonlocal done
            done += batch.count
            answered.put(batch)
            self.flow.report("segment", done, self._looking.total)

        drive(cut, self._device, hand_on)

    def _gather(self, answered: Channel[SectionBatch], linked: Channel[Candidates]) -> None:
        for found in self._looking.gather(answered):
            self._linked = found
            linked.put(found.candidates)
        self.flow.report("link", 1, 1)

    def _crop(
        self, linked: Channel[Candidates], cropped: Channel[tuple[Candidates, Box | None, TripletBatch | None]]
    ) -> None:
        classifier, seen = self._classifier, set()
        for found in linked:
            for box in (candidate.box_mm for candidate in found):
                if box in seen:
                    continue
                seen.add(box)
                self.arrivals.wait_range(*_frames_of_crops(self.geometry, box, classifier.rule))
                batches = triplet_batches(self.voxels, self.geometry, [box], classifier.rule, classifier.spec.batch)
                while True:
                    with self.flow.trace.span("crop"):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    cropped.put((found, box, batch))
            cropped.put((found, None, None))

    def _classify(self, cropped: Channel[tuple[Candidates, Box | None, TripletBatch | None]]) -> None:
        frames, rows = self._classifier.rule.frames, self._frame_probabilities
        shown: tuple[Lesion, ...] = ()
        for found, box, batch in cropped:
            if box is None or batch is None:
                lesions = self._lesions(found)
                if self._on_lesions is not None and lesions != shown:
                    self._on_lesions(lesions)
                    shown = lesions
                continue
            with self.flow.trace.span("classify", first=batch.first, count=batch.count):
                row = rows.setdefault(box, np.empty(frames, np.float32))
                row[batch.first : batch.first + batch.count] = self._classified(box, batch)
            self.flow.report("classify", (len(rows) - 1) * frames + batch.first + batch.count, len(rows) * frames)

    def _classified(self, box: Box, batch: TripletBatch) -> NDArray[np.float32]:
        if self._explain == "none":
            return self._classifier.run(batch.crops)
        probability, heatmaps = self._classifier.run_explained(batch.crops)
        self._frame_heatmaps.setdefault(box, []).append(heatmaps)
        return probability

    def _lesions(self, candidates: Candidates) -> tuple[Lesion, ...]:
        frames, rows = self._classifier.rule.frames, self._frame_probabilities
        return tuple(_lesion(c, rows[c.box_mm], self.geometry, frames) for c in candidates)

    def _explained(self, lesion: Lesion) -> Lesion:
        if lesion.box_mm not in self._frame_heatmaps:
            return lesion
        rule = self._classifier.rule
        frame = representative_frame(np.array(lesion.frame_probabilities), lesion.probability)
        indices = triplet_indices(self.geometry, lesion.box_mm, rule.frames)
        maps = np.concatenate(self._frame_heatmaps[lesion.box_mm])[frame]
        return replace(
            lesion,
            heatmap=lesion_heatmap(self.voxels, self.geometry, lesion.box_mm, indices, rule, frame, maps),
        )

    def _findings(self) -> Findings:
        linked, trace = self._linked, self.flow.trace
        if linked is None:
            raise EngineError("the run ended without a result", where="pipeline")
        if linked.dropped:
            total = linked.dropped + MAX_CANDIDATES
            self.warnings.append(f"{linked.dropped} of {total} candidates were dropped, the least sure ones")
        return Findings(
            lesions=tuple(self._explained(lesion) for lesion in self._lesions(linked.candidates)),
            mask=LesionMask(linked.labels, self._looking.support.geometry.spacing_mm[0]),
            voxels=self.voxels,
            warnings=tuple(self.warnings),
            busy_ms=trace.busy_ms(),
            total_ms=trace.total_ms,
            trace=trace.events(),
            sections=self.sections,
            blank_sections=dict(self._device.blank),
            fallbacks=tuple(self.fallbacks),
        )


def find_lesions(
    volume: Volume,
    segmenter: Segmenter,
    classifier: Classifier,
    *,
    threads: int,
    policy: str = "exact",
    explain: str = "none",
    progress: Callable[[Progress], object] | None = None,
    on_lesions: OnLesions | None = None,
    cancel: threading.Event | None = None,
) -> Findings:
    """Run all stages on one volume.

    Parameters
    ----------
    volume : Volume
        Its frames are decoded here; sections are cut as they arrive.
    segmenter, classifier : Segmenter, Classifier
        Shared by any number of runs.
    threads : int
        Decoding threads.
    policy : str
        ``exact``: every section of every plane of the pack. ``confirm``: see `engine.confirm`.
    explain : str
        One of `EXPLANATIONS`: "gradcam" fetches the classifier's heatmaps as well.
    progress : callable, optional
        Called with `Progress` for the stages decode, segment, link and classify.
    on_lesions : callable, optional
        Called with the lesions found so far, surest first, each time they change.
    cancel : threading.Event, optional
        Set it to stop; the run ends within about one batch.

    Raises
    ------
    Cancelled
        `cancel` was set.
    ScansideError
        The first error of any stage, after all threads have ended.
    """
    run = Run(
        volume.geometry,
        _memory_for(volume),
        segmenter,
        classifier,
        policy=policy,
        explain=explain,
        progress=progress,
        on_lesions=on_lesions,
        cancel=cancel,
    )
    frames = len(run.voxels)

    def decode() -> None:
        if isinstance(volume.source, ArrayFrames):
            run.arrivals.mark_all()
            run.flow.report("decode", frames, frames)
            return
        with run.flow.trace.span("decode", frames=frames):
            volume.decode(
                threads=threads,
                on_frame=lambda k: run.flow.report("decode", run.arrivals.mark(k), frames),
                cancel=run.flow.stopping,
                out=run.voxels,
            )

    return run.execute(decode)


def _memory_for(volume: Volume) -> Voxels:
    if isinstance(volume.source, ArrayFrames):
        return np.ascontiguousarray(volume.source.voxels)
    return volume.empty_voxels()


def _frames_of_crops(geometry: Geometry, box_mm: Box, rule: CropRule) -> tuple[int, int]:
    """Half-open range of frames that a lesion's crops are cut from."""
    sides = [crop_side_mm(box_mm, plane, rule.margin) for plane in rule.planes if plane.normal != 0]
    reach, middle = max((box_mm.size[0], *sides)) / 2, box_mm.centre[0]
    first, end = ((middle + sign * reach) / geometry.spacing_mm[0] for sign in (-1, 1))
    return max(0, math.floor(first) - 1), min(geometry.shape[0], math.ceil(end) + 1)


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
