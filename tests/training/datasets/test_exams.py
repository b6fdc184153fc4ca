"""A folder of exams with masks: several formats, several lesions, one table, and what is wrong with a bad one."""

from __future__ import annotations

import numpy as np
import pytest

from scanside.exam.geometry import Geometry
from scanside.exam.write import write_nrrd
from scanside.training.cutting import CohortSettings
from scanside.training.datasets import open_data
from scanside.training.datasets.exams import read_exams
from scanside.training.errors import TrainingDataError

TINY = CohortSettings(keep_every=4, lesion_sections=4, boxes=2, frames=2, crop_size=40)


def test_lesions_of_a_dicom_exam_with_a_nifti_mask(exams):
    a, b, c = read_exams(exams)
    volume = a.read()
    assert volume.geometry.spacing_mm == pytest.approx((0.475674, 0.438, 1.2))
    assert [(v.id, v.malignant) for v in volume.truth] == [(1, False), (2, True)]
    assert volume.truth[0].box_index.min == (6, 10, 3)
    assert volume.truth[1].box_index.max == (14, 26, 27)
    assert volume.voxels[volume.mask == 2].mean() == 25
    assert [case.origin.patient for case in (a, b, c)] == ["P1", "P1", "P2"]
    assert [case.malignant for case in (b, c)] == [((1, True),), ((1, False),)]


def test_it_is_cut_and_another_table_s_files_are_not_taken(exams, tmp_path):
    data = open_data(exams, tmp_path / "work", settings=TINY, workers=0)
    assert (data.name, len(data.files)) == ("mine", 3)
    assert sorted(p.parent for p in data.files) == [tmp_path / "work" / "mine"] * 3
    table = exams / "cases.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *lines[3:], *lines[1:3]]) + "\n")
    from scanside.errors import UsageError

    with pytest.raises(UsageError, match="other case"):
        open_data(exams, tmp_path / "work", settings=TINY, workers=0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("b,b/exam.nrrd,b/mask.nrrd,M,,P1", "b,b/exam.nrrd,b/mask.nrrd,probably,,P1", "the label is unknown"),
        ("b,b/exam.nrrd,b/mask.nrrd,M,,P1", "b,b/exam.nrrd,b/mask.nrrd,1,,P1", "opposite things"),
        ("c,c/exam", "b,c/exam", "listed twice; found b, lesion 1"),
        ("Malignant,2,P1", "Malignant,2,P3", "rows of a case disagree"),
        ("Malignant,2,P1", "Malignant,two,P1", "no value of a mask"),
        ("c/mask.nrrd", "c/masks.nrrd", "missing or empty"),
        ("case,exam,mask,label", "case,exam,mask,class", "lacks columns"),
        ("c,c/exam.nrrd", ",c/exam.nrrd", "a row is incomplete"),
    ],
)
def test_bad_tables_are_one_clear_error(exams, old, new, words):
    table = exams / "cases.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(TrainingDataError, match=words) as caught:
        read_exams(exams)
    assert caught.value.exit_code == 3


def test_an_unknown_part(exams):
    table = exams / "cases.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",part", *(line + ",trian" for line in lines[1:])]))
    with pytest.raises(TrainingDataError, match=r"the part is unknown.*train, validation, test.*trian"):
        read_exams(exams)


def test_masks_that_do_not_fit(exams):
    _, b, c = read_exams(exams)
    geometry = Geometry((20, 40, 30), (1.0, 1.0, 1.0))
    write_nrrd(b.mask, np.full(geometry.shape, 2, np.uint8), geometry)
    with pytest.raises(TrainingDataError, match=r"mask is empty; expected voxels of value 1 \(case b\)"):
        b.read()
    write_nrrd(c.mask, np.full(geometry.shape, 0.5, np.float32), geometry)
    with pytest.raises(TrainingDataError, match="no labels"):
        c.read()
    b.mask.write_bytes(b"no mask")
    with pytest.raises(TrainingDataError, match="case b cannot be used"):
        b.read()


def test_a_mask_offered_as_an_exam(exams):
    from dataclasses import replace

    case = read_exams(exams)[1]
    with pytest.raises(TrainingDataError, match="label map, not an exam"):
        replace(case, exam=case.mask).read()
