"""The shapes a plan is built for: one optimisation profile a section size, and one wide profile for every other.

TensorRT chooses kernels a profile. A profile whose height and width are fixed gets kernels for exactly that size, and
profiles of one plan share their weights, so the sections of a standard exam (every benchmark's) each have one, and so
have the windows that policy `confirm` cuts of them. The last profile is a range: any exam runs on the same plan, with
kernels that suit a range less well. A classifier has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanside.engine.confirm import WINDOW_SIDES, window_shape
from scanside.engine.sections import padded_shape
from scanside.errors import UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack import ClassifierSpec, SegmenterSpec

WIDEST_MM = 250.0
"""The longest side of a section that a plan takes; the widest scanners sweep 170 to 200 mm."""
MAX_BATCH = 1024

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Fewest, best and most items of a run."""

    fewest: int
    best: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Batch:
        """`1:8:16`, or one number for all three.

        Raises
        ------
        UsageError
            Not one or three whole numbers in rising order from 1 to 1024.
        """
        try:
            numbers = [int(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2] <= MAX_BATCH:
            raise UsageError(
                "--batch makes no sense",
                expected=f"MIN:OPT:MAX, rising, 1 to {MAX_BATCH}",
                found=repr(text),
                remedy="for example --batch 1:8:16",
            )
        return cls(*numbers)

    def of_size(self, size: int, instead_of: int) -> Batch:
        """As many items of `size` as have no more of it together than these with `instead_of` each; at least 1.

        Of smaller items that is more, but a run may still be as short as before.
        """
        fewest, best, most = (max(1, n * instead_of // size) for n in (self.fewest, self.best, self.most))
        return Batch(min(fewest, self.fewest), best, most)


@dataclass(frozen=True, slots=True)
class Profile:
    """Smallest, best and largest shape of each input, by tensor name."""

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether inputs of these shapes, the batch axis aside, fit."""
        return all(
            all(low <= size <= high for low, size, high in zip(least[1:], shapes[name][1:], most[1:], strict=True))
            for name, (least, _, most) in self.shapes.items()
        )

    @property
    def most(self) -> int:
        """The largest batch."""
        return min(most[0] for _, _, most in self.shapes.values())

    @property
    def fewest(self) -> int:
        """The smallest batch."""
        return max(least[0] for least, _, _ in self.shapes.values())

    def to_json(self) -> dict[str, list[list[int]]]:
        """Tensor name to [smallest, best, largest]."""
        return {name: [list(shape) for shape in shapes] for name, shapes in sorted(self.shapes.items())}


def segmenter_profiles(spec: SegmenterSpec, batch: Batch | None = None) -> tuple[Profile, ...]:
    """A profile for each size of the standard exam's sections and of the windows in them, then the wide one.

    `batch` counts sections of the smallest size; others get as many as have no more pixels together, which is how the
    pipeline fills batches. The pack's batch if None.
    """
    batch = batch or Batch(1, spec.batch, spec.batch)
    sizes = standard_sections(spec)
    smallest = min(height * width for height, width in sizes)
    profiles = [_of_size(spec, batch, *size, smallest) for size in (*sizes, *standard_windows(spec))]
    multiple = spec.size_multiple
    widest = max(multiple, round(WIDEST_MM / spec.pitch_mm / multiple) * multiple)
    largest = max(sizes, key=lambda size: size[0] * size[1])
    common = batch.of_size(largest[0] * largest[1], smallest)
    wide = (
        (1, 1, multiple, multiple),
        (common.best, 1, *largest),
        (common.most, 1, max(widest, largest[0]), max(widest, largest[1])),
    )
    return (*profiles, Profile({spec.input: wide}))


def segmenter_profile(spec: SegmenterSpec, height: int, width: int) -> Profile:
    """The profile of one size, standard or not, with the pack's batch."""
    smallest = min(rows * columns for rows, columns in standard_sections(spec))
    return _of_size(spec, Batch(1, spec.batch, spec.batch), height, width, smallest)


def _of_size(spec: SegmenterSpec, batch: Batch, height: int, width: int, smallest: int) -> Profile:
    scaled = batch.of_size(height * width, smallest)
    shapes = tuple((count, 1, height, width) for count in (scaled.fewest, scaled.best, scaled.most))
    return Profile({spec.input: shapes})  # type: ignore[dict-item]


def classifier_profiles(spec: ClassifierSpec, batch: Batch | None = None) -> tuple[Profile, ...]:
    """The one profile of a classifier: its crops have one size."""
    batch = batch or Batch(1, spec.batch, spec.batch)
    shapes = tuple((count, 1, spec.size, spec.size) for count in (batch.fewest, batch.best, batch.most))
    return (Profile(dict.fromkeys(spec.inputs.values(), shapes)),)  # type: ignore[arg-type]


def standard_sections(spec: SegmenterSpec) -> tuple[tuple[int, int], ...]:
    """The padded (height, width) of the standard exam's sections, each size once, in the order of the planes."""
    return tuple(dict.fromkeys(_standard_shapes(spec).values()))


def standard_windows(spec: SegmenterSpec) -> tuple[tuple[int, int], ...]:
    """The (height, width) of the windows that `confirm` cuts of those sections, where they are not whole sections."""
    shapes = _standard_shapes(spec)
    wanted = (
        window_shape(shapes[plane], side, spec.size_multiple)
        for side in WINDOW_SIDES
        for plane in shapes
        if plane is not Plane.TRANSVERSE
    )
    return tuple(shape for shape in dict.fromkeys(wanted) if shape not in shapes.values())


def _standard_shapes(spec: SegmenterSpec) -> dict[Plane, tuple[int, int]]:
    extents = zip(STANDARD_EXTENT_MM, STANDARD_SHAPE, strict=True)
    geometry = Geometry(STANDARD_SHAPE, tuple(extent / count for extent, count in extents))  # type: ignore[arg-type]
    grids = (
        SectionGrid.over(geometry, plane, spec.pitch_mm, spec.every_mm) for plane in Plane if plane.value in spec.planes
    )
    return {grid.plane: padded_shape(grid.shape, spec.size_multiple) for grid in grids}
