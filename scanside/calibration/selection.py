"""Which sections and triplets calibrate: listed, seeded, stratified, and never of a test case."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanside.errors import CalibrationError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.phantom.seeds import HELD_OUT, held_out
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack.strict import plain

SCHEMA = "scanside-selection/1"
LESION, ELSEWHERE = "lesion", "elsewhere"


@dataclass(frozen=True)
class Lesion:
    """A lesion to cut triplets from: its box, and whether it is malignant where that is known."""

    id: int
    box_mm: Box
    malignant: bool | None = None


@dataclass(frozen=True)
class SectionChoice:
    """One section: its number in the plane's grid. `stratum` is "lesion" where it crosses one, else "elsewhere"."""

    source: str
    plane: str
    section: int
    stratum: str


@dataclass(frozen=True)
class TripletChoice:
    """One frame of a lesion. The box is (sweep, depth, lateral) in mm."""

    source: str
    lesion: int
    frame: int
    box_min_mm: tuple[float, ...]
    box_max_mm: tuple[float, ...]
    malignant: bool | None = None

    @property
    def box_mm(self) -> Box:
        """The box as a `Box`."""
        return Box(tuple(self.box_min_mm), tuple(self.box_max_mm))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Selection:
    """Everything chosen, in order. `refused` counts the test cases that were looked out for."""

    schema: str
    seed: int
    refused: int
    sections: tuple[SectionChoice, ...]
    triplets: tuple[TripletChoice, ...]

    def to_json(self) -> bytes:
        """The bytes of a selection file: one choice a line."""
        content = plain(self)
        lines = [f' "{key}": {json.dumps(content[key])}' for key in ("schema", "seed", "refused")]
        for key in ("sections", "triplets"):
            rows = ",\n  ".join(json.dumps(row) for row in content[key])
            lines.append(f' "{key}": [\n  {rows}\n ]')
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def choose_sections(
    source: str, grids: Mapping[Plane, SectionGrid], lesions: Sequence[Lesion], count: int, seed: int
) -> list[SectionChoice]:
    """`count` sections of one exam: the planes in equal parts, of each half through lesions, spread along the normal.

    The same arguments give the same sections. A plane with too few of one stratum takes more of the other.
    """
    rng = _rng(seed, source, 1)
    chosen = []
    shares = _shares(count, len(grids))
    for (plane, grid), share in zip(grids.items(), shares, strict=True):
        crossing = _crossing(grid, lesions)
        strata = {LESION: np.flatnonzero(crossing), ELSEWHERE: np.flatnonzero(~crossing)}
        wanted = min(share, len(grid))
        through = min(len(strata[LESION]), max(wanted // 2, wanted - len(strata[ELSEWHERE])))
        for stratum, n in ((LESION, through), (ELSEWHERE, wanted - through)):
            picked = _spread(strata[stratum], n, rng)
            chosen += [SectionChoice(source, plane.value, int(s), stratum) for s in sorted(picked)]
    return chosen


def choose_triplets(source: str, lesions: Sequence[Lesion], frames: int, count: int, seed: int) -> list[TripletChoice]:
    """`count` triplets of one exam's lesions (all, if there are fewer): lesions in turn, benign and malignant in turn.

    The same arguments give the same triplets.
    """
    rng = _rng(seed, source, 2)
    by_class: dict[bool | None, list[Lesion]] = {}
    for number in rng.permutation(len(lesions)).tolist():
        by_class.setdefault(lesions[number].malignant, []).append(lesions[number])
    turns = [_turns(group, frames, rng) for group in by_class.values()]
    longest = max(map(len, turns), default=0)
    queue = [pair for rank in range(longest) for turn in turns for pair in turn[rank : rank + 1]]
    return [
        TripletChoice(source, lesion.id, frame, lesion.box_mm.min, lesion.box_mm.max, lesion.malignant)
        for lesion, frame in queue[:count]
    ]


def refuse_test_cases(names: Mapping[str, Collection[str]], listed: Collection[str]) -> None:
    """Raise when an exam to calibrate on is a test case.

    Parameters
    ----------
    names : mapping
        For each exam everything it may be called by: its file name, its SOP Instance UIDs.
    listed : collection of str
        Test cases, called by any of these; see `read_test_cases`.

    Raises
    ------
    CalibrationError
        One is listed, or is a phantom of a seed kept for evaluation or parity.
    """
    for exam, calls in names.items():
        seeds = [int(name.split()[1]) for name in calls if name.startswith("phantom ")]
        if set(calls) & set(listed) or any(map(held_out, seeds)):
            raise CalibrationError(
                "a test case must not be calibrated on",
                where=exam,
                expected=f"none of {len(listed)} listed cases, no phantom of seeds {_held_out_seeds()}",
                remedy="leave it out of --data",
            )


def _held_out_seeds() -> str:
    return ", ".join(f"{seeds.start} to {seeds.stop - 1}" for seeds in HELD_OUT)


def read_test_cases(path: Path | None) -> frozenset[str]:
    """The test cases listed in a text file, one a line ("phantom 5001", a file name or a SOP Instance UID).

    Raises
    ------
    CalibrationError
        The file cannot be read or lists nothing.
    """
    if path is None:
        return frozenset()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError("the list of test cases cannot be read", where=path, found=str(error)) from None
    cases = frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not cases:
        raise CalibrationError("the list of test cases is empty", where=path, remedy="name a file with one case a line")
    return cases


def section_grids(
    geometry: Geometry, planes: Sequence[str], pitch_mm: float, every_mm: float
) -> dict[Plane, SectionGrid]:
    """The grids of sections that a segmenter sees of a volume, by plane."""
    return {p: SectionGrid.over(geometry, p, pitch_mm, every_mm) for p in Plane if p.value in planes}


def _crossing(grid: SectionGrid, lesions: Sequence[Lesion]) -> NDArray[np.bool_]:
    """Which sections of a grid cross a lesion's box."""
    axis = grid.plane.normal
    centres = (grid.indices + 0.5) * grid.geometry.spacing_mm[axis]
    crossing = np.zeros(len(grid), bool)
    for lesion in lesions:
        crossing |= (centres >= lesion.box_mm.min[axis]) & (centres < lesion.box_mm.max[axis])
    return crossing


def _turns(lesions: list[Lesion], frames: int, rng: np.random.Generator) -> list[tuple[Lesion, int]]:
    """All frames of the lesions, one of each lesion before the second of any."""
    orders = [rng.permutation(frames).tolist() for _ in lesions]
    return [(lesion, orders[i][turn]) for turn in range(frames) for i, lesion in enumerate(lesions)]


def _spread(candidates: NDArray[np.intp], count: int, rng: np.random.Generator) -> list[int]:
    """`count` of the candidates, one of each of `count` equal runs."""
    return [int(rng.choice(run)) for run in np.array_split(candidates, count)] if count else []


def _shares(count: int, parts: int) -> list[int]:
    return [count // parts + (i < count % parts) for i in range(parts)]


def _rng(seed: int, source: str, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(source.encode()), purpose])
