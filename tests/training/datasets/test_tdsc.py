"""TDSC-ABUS 2023 as it unpacks: axes, spacing, letters for labels, and what a broken copy says."""

from __future__ import annotations

import numpy as np
import pytest

from scanside.training.cutting import CohortSettings
from scanside.training.datasets import open_data
from scanside.training.datasets.tdsc import NAME, SPACING_MM, is_tdsc, read_tdsc
from scanside.training.errors import TrainingDataError

TINY = CohortSettings(keep_every=4, lesion_sections=4, boxes=2, frames=2, crop_size=40)


def relabelled(root, part: str, old: str, new: str) -> None:
    file = root / part / "labels.csv"
    file.write_text(file.read_text().replace(old, new))


def test_cases_parts_and_classes(tdsc):
    assert is_tdsc(tdsc)
    assert is_tdsc(tdsc / "Train")
    cases = read_tdsc(tdsc)
    assert [(c.origin.case, c.origin.part) for c in cases] == [
        ("000", "train"),
        ("001", "train"),
        ("100", "validation"),
        ("130", "test"),
    ]
    assert [c.malignant for c in cases] == [((1, True),), ((1, False),), ((1, True),), ((1, True),)]
    assert {c.origin.data for c in cases} == {NAME}
    assert [c.origin.part for c in read_tdsc(tdsc / "Validation")] == ["validation"]


def test_the_placeholder_spacing_gives_way_to_the_challenge_s(tdsc):
    """Axes: lateral is stored fastest, then depth, then sweep; a header of 1 x 1 x 1 says nothing."""
    volume = read_tdsc(tdsc)[0].read()
    assert volume.geometry.spacing_mm == SPACING_MM
    assert volume.geometry.shape == (20, 40, 30)
    (lesion,) = volume.truth
    assert (lesion.box_index.min, lesion.box_index.max) == ((6, 10, 8), (14, 26, 20))
    np.testing.assert_allclose(lesion.diameters_mm, (8 * 0.475674, 16 * 0.073, 12 * 0.2))
    assert volume.voxels[volume.mask > 0].mean() == 25
    assert lesion.malignant


def test_a_true_spacing_in_the_header_is_kept(tdsc):
    from scanside.exam.geometry import Geometry
    from scanside.exam.write import write_nrrd

    case = read_tdsc(tdsc)[0]
    volume = case.read()
    write_nrrd(case.exam, volume.voxels, Geometry(volume.geometry.shape, (0.5, 0.08, 0.21)))
    assert case.read().geometry.spacing_mm == (0.5, 0.08, 0.21)


def test_it_is_cut_like_a_phantom_and_only_once(tdsc, tmp_path):
    seen = []
    data = open_data(tdsc, tmp_path / "work", settings=TINY, workers=0, progress=lambda *p: seen.append(p))
    assert data.name == NAME
    assert seen[-1] == (4, 4)
    from scanside.training.cohort_data import read_phantom

    first = read_phantom(data.files[0])
    assert first.origin == data.origins[0]
    assert first.triplets.shape == (1, 2, 2, 3, 40, 40)
    assert all(set(p.lesions[:, 1]) == {0} for p in first.planes.values())
    before = [f.stat().st_mtime_ns for f in data.files]
    again = open_data(tdsc, tmp_path / "work", settings=TINY, workers=0)
    assert [f.stat().st_mtime_ns for f in again.files] == before


@pytest.mark.parametrize(("old", "new"), [("0,M,", "0,1,"), ("0,M,", "0,X,"), ("0,M,", "0,,")])
def test_numbers_and_unknown_labels_are_refused(tdsc, old, new):
    """One public loader gives 0 for malignant: a number in the label column is not believed."""
    relabelled(tdsc, "Train", old, new)
    with pytest.raises(TrainingDataError, match=r"labels\.csv, line 2") as caught:
        read_tdsc(tdsc)
    assert caught.value.exit_code == 3


def test_a_case_in_two_parts_is_refused(tdsc):
    relabelled(tdsc, "Validation", "\n100,", "\n1,")
    with pytest.raises(TrainingDataError, match="listed twice; found 001"):
        read_tdsc(tdsc)


def test_a_half_copied_folder_names_what_is_missing(tdsc):
    (tdsc / "Train" / "MASK" / "MASK_001.nrrd").unlink()
    (tdsc / "Test" / "DATA" / "DATA_130.nrrd").write_bytes(b"")
    with pytest.raises(TrainingDataError, match=r"2 files of the data set are missing or empty.*MASK_001\.nrrd"):
        read_tdsc(tdsc)
    (tdsc / "Train" / "labels.csv").unlink()
    with pytest.raises(TrainingDataError, match=r"Train/labels\.csv: the table cannot be read"):
        read_tdsc(tdsc)


def test_a_truncated_volume_a_mask_of_another_size_and_an_empty_mask(tdsc):
    from scanside.exam.geometry import Geometry
    from scanside.exam.write import write_nrrd

    cases = read_tdsc(tdsc)
    cases[0].exam.write_bytes(cases[0].exam.read_bytes()[:3000])
    with pytest.raises(TrainingDataError, match="case 000 cannot be used"):
        cases[0].read()
    write_nrrd(cases[1].mask, np.ones((20, 40, 29), np.uint8), Geometry((20, 40, 29), (1.0, 1.0, 1.0)))
    with pytest.raises(TrainingDataError, match=r"mask is of another size.*20 x 40 x 30, found 20 x 40 x 29"):
        cases[1].read()
    write_nrrd(cases[2].mask, np.zeros((20, 40, 30), np.uint8), Geometry((20, 40, 30), (1.0, 1.0, 1.0)))
    with pytest.raises(TrainingDataError, match=r"mask is empty; expected voxels of value 1 \(case 100\)"):
        cases[2].read()
