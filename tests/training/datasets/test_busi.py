"""BUSI as it unpacks: merged masks, normal pictures without a lesion, copies in one case."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scanside.training.datasets import checked_pair, open_data
from scanside.training.datasets.busi import read_busi
from scanside.training.errors import TrainingDataError


def test_pictures_classes_and_merged_masks(busi, tmp_path):
    data = open_data(busi, tmp_path / "work")
    assert data.name == "BUSI"
    assert not (tmp_path / "work").exists()
    found = {p.id: p for p in data.pictures}
    assert len(found) == 15
    assert [p.malignant for p in data.pictures] == [False] * 7 + [True] * 6 + [None] * 2
    assert [p.id for p in data.pictures[:3]] == ["benign (1)", "benign (2)", "benign (3)"]
    assert [p.id for p in data.pictures[6:7]] == ["benign (10)"]  # by number, not by letter
    pixels, mask = checked_pair(found["benign (2)"])
    assert pixels.shape == mask.shape == (60, 80)
    assert cv2.connectedComponents(mask)[0] == 3  # two lesions and the background
    np.testing.assert_array_equal(mask, checked_pair(found["benign (2)"])[1] > 0)
    assert not found["normal (1)"].mask().any()


def test_copies_are_one_case(busi):
    case = {p.id: p.case for p in read_busi(busi)}
    assert case["benign (10)"] == case["benign (3)"] == "benign (3)"
    assert len(set(case.values())) == len(case) - 1


def test_the_folder_itself_and_one_without_normal_are_read_too(busi):
    import shutil

    root = busi / "Dataset_BUSI_with_GT"
    shutil.rmtree(root / "normal")
    assert len(read_busi(root)) == len(read_busi(busi)) == 13


@pytest.mark.parametrize("name", ["benign (4)_mask.png", "malignant (2).png"])
def test_a_picture_without_its_other_half_is_named(busi, name):
    (busi / "Dataset_BUSI_with_GT" / name.split()[0] / name).unlink()
    with pytest.raises(TrainingDataError, match="missing or empty") as caught:
        read_busi(busi)
    assert name in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_class_that_was_not_copied(busi):
    import shutil

    shutil.rmtree(busi / "Dataset_BUSI_with_GT" / "malignant")
    with pytest.raises(TrainingDataError, match=r"a class of BUSI has no pictures.*malignant \(1\)\.png"):
        read_busi(busi)


def test_masks_that_do_not_fit(busi):
    folder = busi / "Dataset_BUSI_with_GT" / "benign"
    found = {p.id: p for p in read_busi(busi)}
    cv2.imwrite(str(folder / "benign (1)_mask.png"), np.full((60, 70), 255, np.uint8))
    with pytest.raises(TrainingDataError, match=r"benign \(1\): the mask is of another size.*60 x 80, found 60 x 70"):
        checked_pair(found["benign (1)"])
    cv2.imwrite(str(folder / "benign (2)_mask_1.png"), np.full((60, 70), 255, np.uint8))
    with pytest.raises(TrainingDataError, match=r"benign \(2\)_mask_1\.png: the mask is of another size"):
        checked_pair(found["benign (2)"])
    cv2.imwrite(str(folder / "benign (4)_mask.png"), np.zeros((60, 80), np.uint8))
    with pytest.raises(TrainingDataError, match=r"benign \(4\).*mask is empty|mask is empty.*benign \(4\)"):
        checked_pair(found["benign (4)"])
    (folder / "benign (5).png").write_bytes(b"\x89PNG no more")
    with pytest.raises(TrainingDataError, match="cannot be read"):
        checked_pair(found["benign (5)"])
