"""The selection: same seed same list, strata kept, no test case."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scanside.calibration.selection import (
    SCHEMA,
    Lesion,
    Selection,
    choose_sections,
    choose_triplets,
    read_test_cases,
    refuse_test_cases,
    section_grids,
)
from scanside.errors import CalibrationError
from scanside.exam.geometry import Box, Geometry

GEOMETRY = Geometry((60, 120, 90), (1.0, 0.5, 1.0))
GRIDS = section_grids(GEOMETRY, ("transverse", "sagittal", "coronal"), 1.0, 1.0)
LESIONS = [
    Lesion(1, Box((10, 20, 30), (20, 30, 45)), malignant=False),
    Lesion(2, Box((40, 5, 60), (50, 15, 75)), malignant=True),
    Lesion(3, Box((0, 40, 0), (5, 50, 8)), malignant=False),
]


def test_the_same_seed_gives_the_same_sections_and_another_others() -> None:
    first = choose_sections("exam", GRIDS, LESIONS, 30, seed=1)
    assert choose_sections("exam", GRIDS, LESIONS, 30, seed=1) == first
    assert choose_sections("exam", GRIDS, LESIONS, 30, seed=2) != first
    assert choose_sections("other", GRIDS, LESIONS, 30, seed=1) != first


def test_planes_and_strata_have_their_parts() -> None:
    chosen = choose_sections("exam", GRIDS, LESIONS, 30, seed=1)
    assert len({(c.plane, c.section) for c in chosen}) == 30
    assert Counter((c.plane, c.stratum) for c in chosen) == {
        (plane, stratum): 5 for plane in ("transverse", "sagittal", "coronal") for stratum in ("lesion", "elsewhere")
    }
    for choice in chosen:
        grid = next(g for p, g in GRIDS.items() if p.value == choice.plane)
        axis = grid.plane.normal
        at = (grid.indices[choice.section] + 0.5) * GEOMETRY.spacing_mm[axis]
        inside = any(v.box_mm.min[axis] <= at < v.box_mm.max[axis] for v in LESIONS)
        assert inside == (choice.stratum == "lesion")
    sweeps = [c.section for c in chosen if (c.plane, c.stratum) == ("transverse", "elsewhere")]
    assert all(b - a >= 3 for a, b in zip(sorted(sweeps), sorted(sweeps)[1:], strict=False))  # spread, not clustered


def test_without_lesions_and_beyond_what_there_is() -> None:
    assert {c.stratum for c in choose_sections("exam", GRIDS, [], 12, seed=1)} == {"elsewhere"}
    everything = choose_sections("exam", GRIDS, LESIONS, 10_000, seed=1)
    assert len(everything) == sum(len(g) for g in GRIDS.values())
    assert choose_sections("exam", GRIDS, LESIONS, 0, seed=1) == []


def test_triplets_take_lesions_and_classes_in_turn() -> None:
    chosen = choose_triplets("exam", LESIONS, frames=4, count=6, seed=1)
    assert choose_triplets("exam", LESIONS, frames=4, count=6, seed=1) == chosen
    assert Counter(c.malignant for c in chosen) == {True: 3, False: 3}
    assert {c.lesion for c in chosen[:4]} == {1, 2, 3}
    everything = choose_triplets("exam", LESIONS, frames=4, count=99, seed=1)
    assert len({(c.lesion, c.frame) for c in everything}) == 12 == len(everything)
    assert chosen[0].box_mm in [lesion.box_mm for lesion in LESIONS]


@pytest.mark.parametrize(
    ("calls", "listed"),
    [
        (("scan.dcm", "1.2.3"), {"1.2.3"}),
        (("scan.dcm",), {"scan.dcm"}),
        (("phantom 5000",), set()),
        (("phantom 19999",), set()),
        (("phantom 21036",), set()),
        (("phantom 22000",), set()),
        (("phantom 23118",), set()),
        (("phantom 24599",), set()),
        (("phantom 1005003",), set()),
        (("phantom 12",), {"phantom 12"}),
    ],
)
def test_a_test_case_is_refused(calls: tuple[str, ...], listed: set[str]) -> None:
    with pytest.raises(
        CalibrationError, match=r"scan: a test case must not be calibrated on.*leave it out|Leave it out"
    ):
        refuse_test_cases({"scan": calls}, listed)


def test_others_pass() -> None:
    refuse_test_cases({"scan": ("scan.dcm", "phantom 4999", "phantom 30000"), "b": ("b",)}, {"c", "1.2.3"})


def test_lists_of_test_cases(tmp_path: Path) -> None:
    file = tmp_path / "cases.txt"
    file.write_text("# held out\nphantom 5001\n\n 1.2.3 \n")
    assert read_test_cases(file) == {"phantom 5001", "1.2.3"}
    assert read_test_cases(None) == frozenset()
    file.write_text("# nothing\n")
    with pytest.raises(CalibrationError, match="list of test cases is empty"):
        read_test_cases(file)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_test_cases(tmp_path / "none.txt")


def test_the_file_is_json_with_one_choice_a_line() -> None:
    sections = tuple(choose_sections("exam", GRIDS, LESIONS, 6, seed=1))
    triplets = tuple(choose_triplets("exam", LESIONS, 4, 2, seed=1))
    text = Selection(SCHEMA, 1, 3, sections, triplets).to_json().decode()
    content = json.loads(text)
    assert [row["section"] for row in content["sections"]] == [c.section for c in sections]
    assert np.allclose(content["triplets"][0]["box_min_mm"], triplets[0].box_min_mm)
    assert len(text.splitlines()) == 4 + 8 + 5
