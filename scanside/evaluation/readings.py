"""What radiologists said of the same cases: READERS.csv."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanside.evaluation.errors import CohortError
from scanside.evaluation.predictions import Predictions
from scanside.evaluation.rows import Row, read_rows

REQUIRED = ("case", "reader", "level", "planes", "assisted", "birads")
OPTIONAL = ("reading_time_s",)
LEVELS = ("junior", "middle", "senior")
PLANES = {"2": 2, "3": 3, "two": 2, "three": 3, "two-plane": 2, "three-plane": 3}
ASSISTED = {"0": False, "1": True, "no": False, "yes": True, "false": False, "true": True}
CATEGORIES = ("1", "2", "3", "4a", "4b", "4c", "5")
FIRST_POSITIVE = CATEGORIES.index("4a")
"""BI-RADS 4A and above counts as positive (paper, Comparative analysis)."""
PLANE_WORDS = {2: "two-plane", 3: "three-plane"}


@dataclass(frozen=True)
class Reading:
    """One reader's pass over a cohort.

    Attributes
    ----------
    planes : int
        2 (transverse, sagittal) or 3 (and coronal).
    assisted : bool
        With the model's answer at hand.
    category : ndarray of int [n]
        Index into `CATEGORIES` for each case of the cohort, in the predictions' order.
    time_s : ndarray of float [n]
        Reading time; NaN where not stated.
    """

    reader: str
    level: str
    cohort: str
    planes: int
    assisted: bool
    category: NDArray[np.int64]
    time_s: NDArray[np.float64]

    @property
    def called(self) -> NDArray[np.bool_]:
        """Whether each case counts as positive."""
        return self.category >= FIRST_POSITIVE

    @property
    def key(self) -> tuple[str, str, int, bool]:
        return self.cohort, self.reader, self.planes, self.assisted


def read_readings(path: str | os.PathLike[str], predictions: Predictions) -> tuple[Reading, ...]:
    """Read READERS.csv.

    Columns: `case` (of the predictions), `reader`, `level` (junior, middle, senior), `planes` (2 or 3), `assisted`
    (0 or 1), `birads` (1, 2, 3, 4A, 4B, 4C, 5) and optionally `reading_time_s`. A pass (reader, planes, assisted)
    covers every case of each cohort that it touches.

    Returns
    -------
    tuple of Reading
        By cohort in the predictions' order, level, reader in the file's order, planes, unassisted first.

    Raises
    ------
    CohortError
        The table cannot be used; the message names the row.
    """
    table = read_rows(path, REQUIRED, OPTIONAL)
    place = {str(case): i for i, case in enumerate(predictions.case)}
    level_of: dict[str, tuple[str, Row]] = {}
    passes: dict[tuple[str, str, int, bool], dict[int, Row]] = {}
    for row in table.rows:
        case, reader = row.text("case"), row.text("reader")
        level = row.choice("level", {name: name for name in LEVELS})
        known, first = level_of.setdefault(reader, (level, row))
        if level != known:
            raise CohortError(
                "the reader has two levels", where=row.where, expected=f"{known}, as in row {first.line}", found=level
            )
        if case not in place:
            raise CohortError("the case is not among the predictions", where=row.where)
        _category(row)
        row.number("reading_time_s", 0, 86_400)
        i = place[case]
        key = (str(predictions.cohort[i]), reader, row.choice("planes", PLANES), row.choice("assisted", ASSISTED))
        before = passes.setdefault(key, {}).setdefault(i, row)
        if before is not row:
            raise CohortError(
                "the reader judged the case twice", where=row.where, found=f"the reading of row {before.line} again"
            )
    order = {name: i for i, name in enumerate(level_of)}
    cohorts = {name: i for i, name in enumerate(predictions.cohorts)}
    keys = sorted(passes, key=lambda k: (cohorts[k[0]], LEVELS.index(level_of[k[1]][0]), order[k[1]], k[2], k[3]))
    return tuple(_reading(key, level_of[key[1]][0], passes[key], predictions, table.file) for key in keys)


def pooled_by_level(readings: Sequence[Reading]) -> dict[str, tuple[Reading, ...]]:
    """The readings of each level that has any, junior first."""
    groups = {level: tuple(r for r in readings if r.level == level) for level in LEVELS}
    return {level: group for level, group in groups.items() if group}


def _reading(
    key: tuple[str, str, int, bool], level: str, rows: dict[int, Row], predictions: Predictions, file: str
) -> Reading:
    cohort, reader, planes, assisted = key
    cases = np.flatnonzero(predictions.cohort == cohort)
    missed = [i for i in cases.tolist() if i not in rows]
    if missed:
        raise CohortError(
            f"reader {reader} ({PLANE_WORDS[planes]}, {'with' if assisted else 'without'} assistance) misses cases of "
            f"the cohort {cohort!r}",
            where=f"{file}, row {max(row.line for row in rows.values())} (the last of this pass)",
            expected=f"all {len(cases)} cases",
            found=f"{len(cases) - len(missed)}; the first missing one is case {missed[0] + 1} of the predictions",
        )
    chosen = [rows[i] for i in cases.tolist()]
    return Reading(
        reader,
        level,
        cohort,
        planes,
        assisted,
        np.array([_category(row) for row in chosen]),
        np.array([row.number("reading_time_s", 0, 86_400) for row in chosen]),
    )


def _category(row: Row) -> int:
    word = row.text("birads").lower().removeprefix("bi-rads").strip()
    if word not in CATEGORIES:
        raise CohortError(
            "the BI-RADS category is off the scale",
            where=row.where,
            expected=", ".join(name.upper() for name in CATEGORIES),
            found=repr(row.cells["birads"]),
            remedy="0 (incomplete) and 6 (known cancer) are no readings, and 4 needs its letter",
        )
    return CATEGORIES.index(word)
