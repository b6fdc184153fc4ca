"""Data sets split by patient, as the trainings read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanside.exam.planes import Plane
from scanside.training.cohort_data import PhantomData, read_phantom
from scanside.training.cutting import Origin
from scanside.training.datasets import DataSet, Picture
from scanside.training.datasets.pictures import picture_lesion
from scanside.training.recipe import Recipe
from scanside.training.split import require_same_split, split_cases, write_split


@dataclass(frozen=True)
class PictureSplit:
    """Pictures by use."""

    train: tuple[Picture, ...]
    validation: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class SplitData:
    """Data sets and the part of each of their cases, in order."""

    sets: tuple[DataSet, ...]
    parts: tuple[str, ...]

    @classmethod
    def of(cls, sets: Sequence[DataSet], recipe: Recipe) -> SplitData:
        """Split `sets` as the recipe says; see `scanside.training.split.split_cases` for the errors."""
        return cls(tuple(sets), split_cases([o for s in sets for o in s.origins], recipe))

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every case, in the order of `parts`."""
        return tuple(o for s in self.sets for o in s.origins)

    @property
    def kept_out(self) -> tuple[str, ...]:
        """The names of the parts that nothing is trained on."""
        return tuple(dict.fromkeys(p for p in self.parts if p != "train"))

    def require_same(self, path: Path) -> None:
        """Refuse another split in `path`; see `require_same_split`."""
        require_same_split(path, self.origins, self.parts)

    def write(self, path: Path) -> None:
        """Write the split as CSV; see `write_split`."""
        write_split(path, self.origins, self.parts)

    def volumes(self, part: str, *, sections: Sequence[Plane], triplets: bool) -> list[PhantomData]:
        """The cut volumes of a part, in memory."""
        return [
            read_phantom(item, sections=sections, triplets=triplets)
            for _, item in self._of(part)
            if isinstance(item, Path)
        ]

    def pictures(self, part: str) -> tuple[Picture, ...]:
        """The pictures of a part."""
        return tuple(item for _, item in self._of(part) if not isinstance(item, Path))

    def lesions(self, part: str) -> Iterator[PhantomData]:
        """The lesions of a part as the classifier reads them, read one by one: of volumes, then of pictures."""
        for number, (origin, item) in enumerate(self._of(part)):
            if isinstance(item, Path):
                yield read_phantom(item, sections=())
            elif (lesion := picture_lesion(item, number, origin)) is not None:
                yield lesion

    def record(self) -> dict[str, Any]:
        """Patients by data set and part."""
        record: dict[str, dict[str, list[str]]] = {}
        for origin, part in zip(self.origins, self.parts, strict=True):
            patients = record.setdefault(origin.data, {}).setdefault(part, [])
            if origin.patient not in patients[-1:]:
                patients.append(origin.patient)
        return {"data_sets": {k: {p: list(dict.fromkeys(v)) for p, v in parts.items()} for k, parts in record.items()}}

    def _of(self, part: str) -> Iterator[tuple[Origin, Path | Picture]]:
        items: list[Path | Picture] = []
        for data in self.sets:
            items += data.files
            items += data.pictures
        for origin, item, own in zip(self.origins, items, self.parts, strict=True):
            if own == part:
                yield origin, item
