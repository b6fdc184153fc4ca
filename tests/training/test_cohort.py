from __future__ import annotations

import numpy as np
import pytest

from scanside.errors import UsageError
from scanside.exam.planes import Plane, SectionGrid, crop, crop_side_mm, triplet_indices
from scanside.training import cohort
from scanside.training.cohort import PhantomMaker, build_cohort, cohort_file, lesion_count
from scanside.training.cohort_data import cohort_files, read_meta, read_phantom
from scanside.training.cutting import CohortSettings, jittered
from scanside.training.errors import TrainingDataError


def test_sections_and_masks_are_those_of_the_engine(stub_cohort, stub, tiny):
    phantom = stub(11, lesion_count(11, (2, 3)))
    data = read_phantom(cohort_files(stub_cohort)[11])
    assert data.seed == 11
    for plane, stored in data.planes.items():
        grid = SectionGrid.over(phantom.geometry, plane, tiny.pitch_mm, tiny.every_mm)
        assert stored.images.shape[1:] == grid.shape
        kept = stored.sections.tolist()
        assert kept == sorted(set(kept))
        assert set(range(11 % tiny.keep_every, len(grid), tiny.keep_every)) <= set(kept)
        for row, s in enumerate(kept):
            np.testing.assert_array_equal(stored.images[row], grid.section(phantom.voxels, s))
        shown = set(stored.lesions[:, 0].tolist())
        assert shown.isdisjoint(stored.empty.tolist())
        assert shown | set(stored.empty.tolist()) == set(range(len(kept)))
        for row, lesion in stored.lesions:
            native = plane.slice(phantom.mask, int(grid.indices[kept[row]]))
            assert (native == lesion + 1).any()
            area_mm2 = stored.mask(int(row)).sum() * tiny.pitch_mm**2
            cell = phantom.geometry.spacing_mm[plane.rows] * phantom.geometry.spacing_mm[plane.columns]
            assert area_mm2 == pytest.approx((native > 0).sum() * cell, rel=0.25, abs=4)


def test_every_lesion_is_in_every_plane(stub_cohort):
    for file in cohort_files(stub_cohort).values():
        data = read_phantom(file)
        for stored in data.planes.values():
            assert set(stored.lesions[:, 1].tolist()) == set(range(len(data.malignant)))


def test_triplets_are_cut_as_the_engine_cuts(stub_cohort, stub):
    phantom = stub(12, lesion_count(12, (2, 3)))
    data = read_phantom(cohort_files(stub_cohort)[12], sections=())
    assert data.planes == {}
    assert data.triplets.shape == (len(phantom.truth), 2, 2, 3, 40, 40)
    assert data.malignant.tolist() == [v.malignant for v in phantom.truth]
    lesion = phantom.truth[1]
    indices = triplet_indices(phantom.geometry, lesion.box_mm, 2)
    for p, plane in enumerate(Plane):
        side = crop_side_mm(lesion.box_mm, plane, 1.35) * 4 / 3
        index = indices[plane][1]
        cut = crop(phantom.voxels, phantom.geometry, plane, index, lesion.box_mm, side_mm=side, size=40)
        np.testing.assert_array_equal(data.triplets[1, 0, 1, p], cut.pixels)


def test_finished_seeds_are_skipped_and_broken_runs_leave_no_part(tmp_path, stub, tiny):
    made = []

    def failing(seed, lesions):
        if seed == 2:
            raise RuntimeError("killed")
        made.append(seed)
        return stub(seed, lesions)

    with pytest.raises(RuntimeError, match="killed"):
        build_cohort(tmp_path, [1, 2, 3], workers=0, lesions=(1, 1), settings=tiny, make=failing)
    assert [p.name for p in tmp_path.iterdir()] == [cohort_file(tmp_path, 1).name]
    seen = []
    build_cohort(
        tmp_path,
        [1, 2, 3],
        workers=0,
        lesions=(1, 1),
        settings=tiny,
        make=stub,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert made == [1]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(cohort_files(tmp_path)) == [1, 2, 3]


def test_other_settings_in_the_same_folder_are_refused(stub_cohort, stub):
    with pytest.raises(UsageError, match="frames"):
        build_cohort(stub_cohort, [10], workers=0, settings=CohortSettings(frames=5), make=stub)


def test_real_phantoms_in_processes(tmp_path, tiny):
    maker = PhantomMaker((24, 60, 64))
    files = build_cohort(tmp_path, [5, 6], workers=2, lesions=(0, 1), settings=tiny, make=maker)
    direct = maker(6, lesion_count(6, (0, 1)))
    data = read_phantom(files[1])
    grid = SectionGrid.over(direct.geometry, Plane.TRANSVERSE, tiny.pitch_mm, tiny.every_mm)
    stored = data.planes[Plane.TRANSVERSE]
    np.testing.assert_array_equal(stored.images[0], grid.section(direct.voxels, int(stored.sections[0])))
    assert len(data.malignant) == len(direct.truth)


def test_more_cases_than_one_pool_makes(tmp_path, tiny, monkeypatch):
    """With a process for a few cases only, one pool of CPython 3.11 waited for ever; here each has its own."""
    monkeypatch.setattr(cohort, "CASES_A_PROCESS", 1)
    seeds, told = range(40, 45), []
    files = build_cohort(
        tmp_path,
        seeds,
        workers=2,
        settings=tiny,
        make=PhantomMaker(shape=(24, 32, 32)),
        lesions=(1, 1),
        progress=lambda done, total: told.append((done, total)),
    )
    assert [file.is_file() for file in files] == [True] * 5
    assert told == [(n, 5) for n in range(1, 6)]


def test_a_phantom_without_lesions(tmp_path, stub, tiny):
    (file,) = build_cohort(tmp_path, [1], workers=0, lesions=(0, 0), settings=tiny, make=stub)
    data = read_phantom(file)
    assert len(data.triplets) == len(data.malignant) == 0
    assert all(len(s.empty) == len(s.images) for s in data.planes.values())


def test_jitter_keeps_a_box_a_box(stub):
    rng = np.random.default_rng(0)
    box = stub(1, 1).truth[0].box_mm
    for _ in range(200):
        moved = jittered(box, rng)
        assert all(0.3 * a < b < 1.7 * a for a, b in zip(box.size, moved.size, strict=True))
        assert moved != box


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_file_is_a_clear_error(stub_cohort, tmp_path, keep):
    file = tmp_path / "phantom-000010.npz"
    file.write_bytes(cohort_files(stub_cohort)[10].read_bytes()[:keep])
    for read in (read_phantom, read_meta):
        with pytest.raises(TrainingDataError, match="run the cohort command again"):
            read(file)


def test_no_cohort(tmp_path):
    with pytest.raises(TrainingDataError, match="no cohort here"):
        cohort_files(tmp_path)


def test_a_cohort_of_the_first_format_is_a_cohort_of_phantoms(stub_cohort, tmp_path):
    """Files written before a case had an origin."""
    import json

    from scanside.training.cohort_data import read_origin

    with np.load(cohort_files(stub_cohort)[10]) as arrays:
        old = dict(arrays)
    meta = json.loads(old["meta"].tobytes())
    del meta["origin"]
    old["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(tmp_path / "phantom-000010.npz", **old)
    assert read_origin(tmp_path / "phantom-000010.npz") == read_origin(cohort_files(stub_cohort)[10])
    assert read_phantom(tmp_path / "phantom-000010.npz").origin.data == "phantom"
