"""The lesion cohort: the paper's counts, hospitals that differ, one patient on one side, resumable files."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from scanside.errors import UsageError
from scanside.exam.phantom import make_lesion, seeds
from scanside.exam.planes import Plane, crop, triplet_indices
from scanside.training import lesion_cohort
from scanside.training.cohort import build_files
from scanside.training.cohort_data import cohort_files, read_origin, read_phantom
from scanside.training.cutting import CohortSettings, crops_window, stored_side_mm
from scanside.training.errors import TrainingDataError
from scanside.training.lesion_cohort import PARTS, build_lesion_cohort, lesion_jobs

SMALL = CohortSettings(boxes=2, frames=2, crop_size=32)


def test_the_parts_have_the_paper_s_sizes_and_class_balance():
    """Table 1 of the paper."""
    table = {"train": (386, 446), "validation": (95, 109), "test": (54, 62), "external-b": (53, 49)}
    for name, counts in (table | {"external-c": (57, 62)}).items():
        classes = PARTS[name].classes()
        assert (int(classes.sum()), int((~classes).sum())) == counts
    assert len(PARTS["parity"].seeds) >= 600
    assert PARTS["parity"].classes().mean() == pytest.approx(535 / 1152, abs=0.005)
    assert sum(len(PARTS[n].seeds) for n in ("train", "validation", "test")) == 1152


def test_seed_ranges_never_meet():
    for a, b in combinations(seeds.RANGES, 2):
        assert not set(a) & set(b)
    assert max(r.stop for r in seeds.RANGES) < 1_000_000
    ranges = [p.seeds for p in PARTS.values()]
    for a, b in combinations(ranges, 2):
        assert not set(a) & set(b)
    held = {s for r in (seeds.LESIONS_A, seeds.LESIONS_B, seeds.LESIONS_C, seeds.LESIONS_PARITY) for s in r}
    assert all(s in held for r in ranges for s in r)


def test_1147_patients_of_hospital_a_and_none_in_two_parts():
    """1,152 lesions of 1,147 patients (paper, Results)."""
    patients = {name: set(part.patients()) for name, part in PARTS.items()}
    assert sum(len(patients[n]) for n in ("train", "validation", "test")) == 1147
    for a, b in combinations(patients.values(), 2):
        assert not a & b


def test_the_hospitals_differ_in_gain_depth_frequency_and_noise():
    a, b, c = lesion_cohort.HOSPITAL_A, lesion_cohort.HOSPITAL_B, lesion_cohort.HOSPITAL_C
    for one, other in combinations((a, b, c), 2):
        assert one.depth_mm != other.depth_mm
        for name in ("gain_db", "noise_floor_db", "axial_mm", "lateral_mm", "dynamic_range_db"):
            assert getattr(one.acquisition, name) != getattr(other.acquisition, name)


@pytest.fixture(scope="module")
def small_parts():
    """Two lesions of hospital B and the cheapest class."""
    part = replace(PARTS["external-b"], malignant=1, benign=1, malignant_size_mm=(9.0, 1.0), benign_size_mm=(9.0, 1.0))
    return {"external-b": part}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, small_parts):
    out = tmp_path_factory.mktemp("lesions")
    build_files(out, lesion_jobs(small_parts["external-b"]), workers=0, settings=SMALL)
    return out


def test_a_file_is_read_like_any_cohort_s(cohort, small_parts):
    files = cohort_files(cohort)
    assert list(files) == [22000, 22001]
    data = [read_phantom(file, sections=()) for file in files.values()]
    assert [d.malignant.tolist() for d in data] == [[m] for m in small_parts["external-b"].classes()]
    assert data[0].triplets.shape == (1, 2, 2, 3, 32, 32)
    assert data[0].origin.part == "external-b"
    assert data[0].origin.patient == "B external-b 0000"
    assert read_origin(files[22001]) == data[1].origin
    assert data[0].diameters_mm.max() < 20


def test_crops_are_those_of_the_lesion_and_never_reach_beyond_the_window(cohort, small_parts):
    job = lesion_jobs(small_parts["external-b"])[1]
    data = read_phantom(cohort_files(cohort)[22001], sections=())
    wide = make_lesion(
        job.number,
        extent_mm=(168.0, 50.0, 154.0),
        acquisition=job.part.hospital.acquisition.drawn(np.random.default_rng([job.number, 73])),
        population=lesion_cohort.Population(float(job.malignant), (9.0, 1.0), (9.0, 1.0)),
    )
    known = wide.truth[0]
    indices = triplet_indices(wide.geometry, known.box_mm, 2)
    for p, plane in enumerate(Plane):
        side = stored_side_mm(known.box_mm, plane)
        cut = crop(wide.voxels, wide.geometry, plane, indices[plane][0], known.box_mm, side_mm=side, size=32)
        assert np.abs(cut.pixels.astype(int) - data.triplets[0, 0, 0, p]).max() <= 2
    window = crops_window(known.box_mm, job.number, SMALL)
    assert all(b - a >= 48 - 1e-6 for a, b in zip(window.min, window.max, strict=True))


def test_the_segmenter_is_told_that_there_are_no_sections(cohort):
    with pytest.raises(TrainingDataError, match="lesions alone") as caught:
        read_phantom(cohort_files(cohort)[22000])
    assert caught.value.exit_code == 3


def test_the_parity_part_has_sections_with_their_masks(tmp_path, small_parts):
    part = replace(small_parts["external-b"], benign=0, sections=True)
    build_files(tmp_path, lesion_jobs(part), workers=0, settings=SMALL)
    data = read_phantom(cohort_files(tmp_path)[22000])
    for plane in Plane:
        sections = data.planes[plane]
        shown = sections.lesions[:, 0].tolist()
        assert shown
        assert all(sections.mask(row).any() for row in shown)
        assert not any(sections.mask(row).any() for row in sections.empty)
    assert PARTS["parity"].sections
    assert not any(part.sections for name, part in PARTS.items() if name != "parity")


def test_finished_lesions_are_skipped_and_another_difficulty_is_refused(cohort, small_parts):
    seen = []
    before = {f: f.stat().st_mtime_ns for f in cohort_files(cohort).values()}
    jobs = lesion_jobs(small_parts["external-b"])
    build_files(cohort, jobs, workers=0, settings=SMALL, progress=lambda *p: seen.append(p))
    assert seen == [(2, 2)]
    assert before == {f: f.stat().st_mtime_ns for f in cohort_files(cohort).values()}
    with pytest.raises(UsageError, match="difficulty"):
        build_files(cohort, lesion_jobs(small_parts["external-b"], 0.4), workers=0, settings=SMALL)


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(UsageError, match="external-c"):
        build_lesion_cohort(tmp_path / "out", ["external-d"])
    assert not (tmp_path / "out").exists()


def test_cohorts_are_made_without_the_train_extra():
    import subprocess
    import sys

    code = "import sys, scanside.training.lesion_cohort; print(*(m for m in sys.argv[1:] if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "torch", "scipy"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_parity_part_holds_sections_of_what_surrounds_the_lesion(tmp_path):
    part = replace(PARTS["parity"], malignant=0, benign=1, benign_size_mm=(9.0, 1.0))
    (file,) = build_files(tmp_path, lesion_jobs(part), workers=0, settings=SMALL)
    data = read_phantom(file)
    for plane in Plane:
        sections = data.planes[plane]
        rows = set(sections.lesions[:, 0].tolist())
        assert len(rows) >= 5
        assert all(sections.mask(row).any() for row in rows)
        assert len(sections.empty) == len(sections.images) - len(rows)
    plain = replace(lesion_jobs(part)[0], part=replace(part, sections=False))
    with pytest.raises(UsageError, match="other settings"):  # a file without sections is not one with
        build_files(tmp_path, [plain], workers=0, settings=SMALL)
