"""Cohort files as the workshop writes them, read on the scanner side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanside.evaluation.errors import CohortError
from scanside.exam.geometry import Box, Geometry
from scanside.exam.planes import Plane, crop, crop_side_mm, triplet_indices
from scanside.pack import load_pack
from scanside.parity.answers import MOST_SHAPES, Question
from scanside.parity.cohort import FORMAT, LESION_SHARE, _drawn, _shown_share, read_cohort
from scanside.training import cutting
from scanside.training.cutting import CohortSettings, Origin, volume_arrays
from tests.parity.conftest import case_arrays, write_case


class Ball:
    """A bright ball in speckle, as `scanside.training.cutting` takes volumes."""

    id = 1
    malignant = True

    def __init__(self) -> None:
        self.geometry = Geometry((60, 120, 110), (0.8, 0.4, 0.5))
        grids = np.meshgrid(
            *((np.arange(n) + 0.5) * s for n, s in zip(self.geometry.shape, self.geometry.spacing_mm, strict=True)),
            indexing="ij",
        )
        inside = sum((g - c) ** 2 for g, c in zip(grids, (24, 22, 27), strict=True)) <= 64
        self.mask = inside.astype(np.uint8)
        noise = np.random.default_rng(0).normal(80, 3, self.geometry.shape)
        self.voxels = (noise + 90 * inside).astype(np.uint8)
        found = np.argwhere(inside)
        self.box_index = Box(tuple(found.min(0).tolist()), tuple((found.max(0) + 1).tolist()))
        spacing = self.geometry.spacing_mm
        self.box_mm = Box(
            tuple(v * s for v, s in zip(self.box_index.min, spacing, strict=True)),
            tuple(v * s for v, s in zip(self.box_index.max, spacing, strict=True)),
        )
        self.diameters_mm = self.box_mm.size
        self.truth = (self,)


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ball, Path]:
    volume = Ball()
    settings = CohortSettings(pitch_mm=1.0, every_mm=1.0, boxes=2, frames=4, crop_size=160)
    arrays = volume_arrays(volume, 7, settings, Origin("balls", "ball 7", "patient 7", "parity"))
    folder = tmp_path_factory.mktemp("balls")
    write_case(folder, 7, arrays)
    return volume, folder


def test_the_format_is_the_workshops() -> None:
    assert FORMAT == cutting.FORMAT
    box = Box((0.0, 0.0, 0.0), (20.0, 30.0, 8.0))
    for plane in Plane:
        side = crop_side_mm(box, plane, 1.2) / cutting.stored_side_mm(box, plane)
        assert _shown_share(box, plane, 1.2) == pytest.approx(side)


def test_what_the_workshop_cuts_is_what_the_engine_would_cut(ball: tuple[Ball, Path], tiny_pack: Path) -> None:
    volume, folder = ball
    (case,) = read_cohort([folder]).cases
    assert (case.name, case.patient, case.data, case.pitch_mm) == ("ball 7", "patient 7", "balls, parity", 1.0)
    assert case.malignant == (True,)
    spec = replace(load_pack(tiny_pack).manifest.classifier, size=120, margin=1.35, frames=4)
    indices = triplet_indices(volume.geometry, volume.box_mm, 4)
    for plane, crops in case.triplets(spec).items():
        side = crop_side_mm(volume.box_mm, plane, 1.35)
        for frame, index in enumerate(indices[plane]):
            ours = crop(volume.voxels, volume.geometry, plane, index, volume.box_mm, side_mm=side, size=120).pixels
            error = np.abs(crops[frame, 0].astype(int) - ours)
            assert error.mean() < 6  # the window is snapped to voxels in both, at two widths
            assert np.corrcoef(crops[frame, 0].ravel(), ours.ravel())[0, 1] > 0.95


def test_sections_come_with_their_masks(ball: tuple[Ball, Path]) -> None:
    (case,) = read_cohort([ball[1]]).cases
    for plane in Plane:
        cut = case.sections(plane, 1000)
        shown = {row for row, _ in cut.lesions}
        assert shown == set(np.flatnonzero(cut.masks.any(axis=(1, 2))))
        assert cut.images[cut.masks].mean() > cut.images[~cut.masks].mean() + 60
        few = case.sections(plane, 8)
        assert len(few.images) == 8
        assert len({row for row, _ in few.lesions}) == 6
        assert np.array_equal(few.images, case.sections(plane, 8).images)


@given(count=st.integers(1, 60), most=st.integers(1, 60), data=st.data())
def test_what_is_drawn(count: int, most: int, data: st.DataObject) -> None:
    shown = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1)))), int)
    rows = _drawn(shown, count, most, "seed")
    assert len(rows) == len(set(rows.tolist())) == min(count, most)
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, _drawn(shown, count, most, "seed"))
    if count > most:
        with_lesion = len(np.intersect1d(rows, shown))
        wanted = max(round(LESION_SHARE * most), most - (count - len(shown)))
        assert with_lesion == min(len(shown), wanted)


def test_a_margin_wider_than_what_is_stored(ball: tuple[Ball, Path], tiny_pack: Path) -> None:
    (case,) = read_cohort([ball[1]]).cases
    with pytest.raises(CohortError, match="too narrow for this classifier"):
        case.triplets(replace(load_pack(tiny_pack).manifest.classifier, margin=2.0))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    arrays = case_arrays(1, malignant=True)
    meta = json.loads(arrays["meta"].tobytes()) | {"format": "scanside-cohort/2"}
    write_case(tmp_path, 1, arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
    with pytest.raises(CohortError, match="of another kind; expected scanside-cohort/1, found scanside-cohort/2"):
        read_cohort([tmp_path])
    write_case(tmp_path, 1, {"x": np.zeros(3)})
    with pytest.raises(CohortError, match="cannot be read"):
        read_cohort([tmp_path])


def test_one_case_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_case(tmp_path / name, 1, case_arrays(1, malignant=True))
    with pytest.raises(CohortError, match="a case is there twice"):
        read_cohort([tmp_path / "a", tmp_path / "b"])


def test_the_data_lists_hash_follows_names_and_content(tmp_path: Path) -> None:
    write_case(tmp_path / "a", 1, case_arrays(1, malignant=True))
    write_case(tmp_path / "b", 1, case_arrays(1, malignant=True))
    write_case(tmp_path / "c", 1, case_arrays(1, malignant=False))
    a, b, c = (read_cohort([tmp_path / name]).sha256 for name in "abc")
    assert a == b != c


def test_many_section_sizes_are_few_sessions(tmp_path: Path, tiny_pack: Path) -> None:
    manifest = load_pack(tiny_pack).manifest
    for seed in range(9):
        arrays = case_arrays(seed, malignant=True, planes=("transverse",))
        rows = 33 + 32 * seed
        arrays["transverse_images"] = np.zeros((8, rows, 50), np.uint8)
        arrays["transverse_masks"] = np.packbits(np.zeros((8, rows, 50), bool), axis=-1)
        write_case(tmp_path, seed, arrays)
    cohort = read_cohort([tmp_path])
    multiple = Question(manifest, "segmenter", cohort, 4).multiple
    shapes = {-(-shape[0] // multiple) for case in cohort.cases for shape in case.section_shapes.values()}
    assert multiple == 64
    assert len(shapes) <= MOST_SHAPES
    assert Question(manifest, "segmenter", replace(cohort, cases=cohort.cases[:3]), 4).multiple == 32
