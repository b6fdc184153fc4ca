"""The cases that parity is judged on: cohort files, one a case, read when their turn comes.

A cohort file (`scanside cohort lesions`, `scanside cohort phantoms`) is an .npz in the format "scanside-cohort/1". Of
it are read: `meta`, JSON as bytes, with `format`, `seed`, `origin` {data, case, patient, part} and `settings`
{pitch_mm}; `lesion_malignant`; for a plane its sections `PLANE_images` [n, rows, columns], `PLANE_masks` (columns
packed to bits), `PLANE_sections` (their numbers) and `PLANE_lesions`, pairs of (row, lesion); `triplets` [lesion, box,
frame, plane, row, column], the first box the true one, with `triplet_boxes_mm` [lesion, box, 2, 3]. A plane's sections
may be absent; `meta["planes"]` names the planes of the triplets where they are not all three.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.evaluation.errors import CohortError
from scanside.exam.geometry import Box
from scanside.exam.planes import Plane, crop_side_mm
from scanside.pack import ClassifierSpec

FORMAT = "scanside-cohort/1"
LESION_SHARE = 0.75
"""Of the sections judged, those through a lesion, as far as there are that many."""
_STORED_SIDES = 1.35, 1.8
"""A stored crop is the deployed one (box times the first) widened to the second (`scanside.training.cutting`)."""


@dataclass(frozen=True)
class Sections:
    """Sections of one plane of a case: uint8 [n, rows, columns], their true masks, and (index, lesion) pairs."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    lesions: tuple[tuple[int, int], ...]
    numbers: tuple[int, ...]
    """Where each is in its volume."""


@dataclass(frozen=True)
class Case:
    """One file. `malignant` has an entry a lesion, `section_shapes` and `triplet_planes` what it holds."""

    path: Path
    sha256: str
    data: str
    name: str
    patient: str
    pitch_mm: float
    malignant: tuple[bool, ...]
    section_shapes: Mapping[Plane, tuple[int, int]]
    triplet_planes: tuple[Plane, ...]
    seed: int

    def lesion_name(self, lesion: int) -> str:
        """The id of a lesion in lists: the case's, with a number where it has several."""
        return self.name if len(self.malignant) == 1 else f"{self.name} lesion {lesion + 1}"

    def sections(self, plane: Plane, most: int) -> Sections:
        """At most `most` sections of a plane, drawn by a seed that is the case's own name.

        Three in four go through a lesion, as far as there are that many of either kind.
        """
        arrays = _arrays(self.path, [f"{plane}_{name}" for name in ("images", "masks", "lesions", "sections")])
        images, packed, pairs, numbers = arrays
        shown = np.unique(pairs[:, 0]) if len(pairs) else np.zeros(0, int)
        rows = _drawn(shown, len(images), most, f"{self.seed}\n{self.name}\n{plane}\n{most}")
        masks = np.unpackbits(packed[rows], axis=-1, count=images.shape[2]).astype(bool)
        place = {int(row): i for i, row in enumerate(rows)}
        lesions = tuple((place[int(row)], int(lesion)) for row, lesion in pairs if int(row) in place)
        return Sections(np.ascontiguousarray(images[rows]), masks, lesions, tuple(int(numbers[r]) for r in rows))

    def triplets(self, spec: ClassifierSpec) -> dict[Plane, NDArray[np.uint8]]:
        """The crops of every lesion's frames around its true box, [lesions * frames, 1, size, size] a plane.

        Raises
        ------
        CohortError
            The stored crops are narrower than the classifier's.
        """
        stored, boxes = _arrays(self.path, ["triplets", "triplet_boxes_mm"])
        lesions, _, frames = stored.shape[:3]
        crops = {}
        for plane in (p for p in Plane if p.value in spec.inputs):
            at = self.triplet_planes.index(plane)
            out = np.empty((lesions * frames, 1, spec.size, spec.size), np.uint8)
            for lesion in range(lesions):
                low, high = boxes[lesion, 0].astype(float).tolist()
                share = _shown_share(Box(tuple(low), tuple(high)), plane, spec.margin)
                if share > 1 + 1e-6:
                    raise CohortError(
                        "the stored crops are too narrow for this classifier",
                        where=self.path,
                        expected=f"a margin of at most {_STORED_SIDES[1]}",
                        found=f"{spec.margin}",
                    )
                for frame in range(frames):
                    out[lesion * frames + frame, 0] = _middle(stored[lesion, 0, frame, at], share, spec.size)
            crops[plane] = out
        return crops


@dataclass(frozen=True)
class Cohort:
    """All cases, in the order of their names."""

    cases: tuple[Case, ...]

    @property
    def name(self) -> str:
        """The data sets the cases come from, and how many they are."""
        return f"{', '.join(sorted({case.data for case in self.cases}))} ({len(self.cases)} cases)"

    @property
    def listing(self) -> str:
        """The list of cases: a line each, its file's SHA-256 and its name, in order."""
        return "".join(f"{case.sha256}  {case.name}\n" for case in self.cases)

    @cached_property
    def sha256(self) -> str:
        """Of `listing`."""
        return hashlib.sha256(self.listing.encode()).hexdigest()

    def section_planes(self, planes: Sequence[str]) -> tuple[Plane, ...]:
        """Which of `planes` some case has sections of."""
        return tuple(p for p in Plane if p.value in planes and any(p in case.section_shapes for case in self.cases))


def read_cohort(folders: Sequence[Path]) -> Cohort:
    """The cases in some folders.

    Raises
    ------
    CohortError
        No such folder, no case in it, a damaged or foreign file, one case twice.
    """
    files = []
    for folder in folders:
        found = sorted(folder.glob("*.npz")) if folder.is_dir() else []
        if not found:
            raise CohortError(
                "no cohort here",
                where=folder,
                expected="a folder of .npz files",
                found="no .npz file" if folder.is_dir() else "no folder",
                remedy="make one with: scanside cohort lesions --part parity --out DIR",
            )
        files += found
    cases = sorted(map(_case, files), key=lambda case: (case.name, case.data))
    for one, other in pairwise(cases):
        if (one.name, one.data) == (other.name, other.data):
            raise CohortError("a case is there twice", where=other.path, found=f"also {one.path}")
    return Cohort(tuple(cases))


def _case(file: Path) -> Case:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _damaged(file, error) from None
    sha256 = hashlib.sha256(data).hexdigest()
    del data
    (meta_bytes, malignant) = _arrays(file, ["meta", "lesion_malignant"])
    try:
        meta = json.loads(meta_bytes.tobytes())
        found = meta.get("format")
        if found != FORMAT:
            raise CohortError("the file is of another kind", where=file, expected=FORMAT, found=found)
        name = f"phantom {meta['seed']}"
        origin: Mapping[str, Any] = meta.get("origin", {"data": "phantom", "case": name, "patient": name})
        shapes = _shapes(file)
        sections = {p: shapes[f"{p}_images"] for p in Plane if f"{p}_images" in shapes}
        planes = tuple(Plane(p) for p in meta.get("planes", [p.value for p in Plane]))
        triplets = shapes.get("triplets", (0,) * 6)
        frames = len(triplets) == 6 and 0 not in triplets[:3] and triplets[3] == len(planes)
        part = origin.get("part", "")
        return Case(
            file,
            sha256,
            f"{origin['data']}, {part}" if part else str(origin["data"]),
            str(origin["case"]),
            str(origin["patient"]),
            float(meta["settings"]["pitch_mm"]),
            tuple(bool(m) for m in malignant),
            {plane: (shape[1], shape[2]) for plane, shape in sections.items() if len(shape) == 3 and shape[0]},
            planes if frames else (),
            int(meta["seed"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from None


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array of the file, from its header alone."""
    shapes = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shapes[name.removesuffix(".npy")] = read(stream)[0]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, error) from None
    return shapes


def _arrays(file: Path, names: Sequence[str]) -> list[NDArray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> CohortError:
    found = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return CohortError(
        "the case cannot be read", where=file, found=found, remedy="delete it and run the cohort command again"
    )


def _drawn(shown: NDArray, count: int, most: int, seed: str) -> NDArray[np.intp]:
    """At most `most` of `count` rows, in order: as many of `shown` as `LESION_SHARE` allows, filled up with others."""
    if count <= most:
        return np.arange(count)
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(seed.encode()).digest(), np.uint32))
    with_lesion, others = rng.permutation(shown), rng.permutation(np.setdiff1d(np.arange(count), shown))
    wanted = min(len(with_lesion), max(round(LESION_SHARE * most), most - len(others)))
    return np.sort(np.concatenate([with_lesion[:wanted], others[: most - wanted]])).astype(np.intp)


def _shown_share(box: Box, plane: Plane, margin: float) -> float:
    """The part of a stored crop's side that a crop of this margin shows."""
    deployed, stored = _STORED_SIDES
    return crop_side_mm(box, plane, margin) / (crop_side_mm(box, plane, deployed) * stored / deployed)


def _middle(stored: NDArray[np.uint8], share: float, size: int) -> NDArray[np.uint8]:
    """The middle of a square picture, `share` of its side, as `size` pixels: averaged when it shrinks."""
    side = stored.shape[0]
    wanted = max(1, round(side * min(1.0, share)))
    first = (side - wanted) // 2
    middle = np.ascontiguousarray(stored[first : first + wanted, first : first + wanted])
    way = cv2.INTER_AREA if wanted >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(middle, (size, size), interpolation=way), np.uint8)
