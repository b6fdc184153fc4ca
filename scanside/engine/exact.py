"""Policy `exact`: every section of every plane, the paper's sweep and the reference for all else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from scanside.engine.components import level_of
from scanside.engine.flow import Channel, Flow
from scanside.engine.link import Linked, link
from scanside.engine.sections import Arrivals, Reformatter, SectionBatch, Source
from scanside.engine.support import Support
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack.manifest import SegmenterSpec


class Exact:
    """One run under `exact`; see `engine.pipeline.Looking`."""

    def __init__(
        self, flow: Flow, grids: Mapping[Plane, SectionGrid], spec: SegmenterSpec, reformatter: Reformatter
    ) -> None:
        self._flow, self._spec, self._reformatter = flow, spec, reformatter
        self._planes = tuple(grids)
        self._extent_mm = next(iter(grids.values())).geometry.extent_mm
        self.support = Support(grids)
        self.sections: Counter[Plane] = Counter()

    @property
    def total(self) -> int:
        return self._reformatter.total

    def stages(self, source: Source, arrivals: Arrivals, cut: Channel[SectionBatch]) -> None:
        def reformat() -> None:
            for batch in self._reformatter.batches(source, arrivals, self._planes):
                cut.put(batch)

        self._flow.stage("reformat", reformat, closes=cut)

    def gather(self, answered: Channel[SectionBatch]) -> Iterator[Linked]:
        """The one result, when every section has been answered."""
        for batch in answered:
            with self._flow.trace.span("components", plane=batch.plane.value, first=batch.first, count=batch.count):
                self.support.add(batch.plane, batch.first, batch.probability[:, 0])
            self.sections[batch.plane] += batch.count
            batch.release()
        with self._flow.trace.span("link"):
            support, spec = self.support, self._spec
            planes = {plane: support.plane(plane) for plane in support.planes}
            linked = link(
                support.smoothed(support.fused(planes.values()), spec.smoothing_mm),
                planes,
                support.geometry,
                self._extent_mm,
                level=level_of(spec.threshold),
                min_lesion_mm=spec.min_lesion_mm,
                min_detection_score=spec.min_detection_score,
            )
        yield linked
