from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanside.training.busbra import (
    BusbraSplit,
    padded,
    read_busbra,
    resized,
    resized_mask,
    split_busbra,
)
from scanside.training.errors import LeakError, TrainingDataError


def test_split_keeps_cases_whole_and_fold_1_out(tiny_busbra):
    images = read_busbra(tiny_busbra)
    split = split_busbra(images, validation_images=2)
    assert len(split.train) + len(split.validation) + len(split.test) == len(images) == 18
    assert {v.fold for v in split.test} == {1}
    assert all(v.fold != 1 for v in split.train + split.validation)
    assert len(split.validation) >= 2
    assert all(v.official_validation for v in split.validation)
    cases = [{v.case for v in part} for part in (split.train, split.validation, split.test)]
    assert not cases[0] & cases[1]
    assert not cases[0] & cases[2]
    assert not cases[1] & cases[2]


def test_split_is_the_same_every_time(tiny_busbra):
    images = read_busbra(tiny_busbra)
    assert split_busbra(images, validation_images=2) == split_busbra(images, validation_images=2)


def test_a_case_in_two_folds_raises(tiny_busbra):
    images = list(read_busbra(tiny_busbra))
    first = next(i for i, v in enumerate(images) if v.id.endswith("-l") and images[i + 1].case == v.case)
    images[first] = replace(images[first], fold=1)
    images[first + 1] = replace(images[first + 1], fold=2)
    with pytest.raises(LeakError, match=f"case {images[first].case}"):
        split_busbra(images)


def test_a_leaking_split_cannot_be_made(tiny_busbra):
    image = read_busbra(tiny_busbra)[0]
    with pytest.raises(LeakError):
        BusbraSplit(train=(image,), validation=(), test=(image,))


def test_pixels_and_masks(tiny_busbra):
    image = read_busbra(tiny_busbra)[0]
    assert image.pixels().shape == image.mask().shape == (90, 60)
    assert set(np.unique(image.mask())) == {0, 1}


@given(st.integers(40, 600), st.integers(40, 600), st.integers(64, 256))
def test_resize_rule(rows, columns, longer_side):
    seen = resized(np.zeros((rows, columns), np.uint8), longer_side)
    assert max(seen.shape) == longer_side
    assert min(seen.shape) == pytest.approx(longer_side * min(rows, columns) / max(rows, columns), abs=0.51)
    full = padded(seen)
    assert all(n % 32 == 0 and 0 <= n - m < 32 for n, m in zip(full.shape, seen.shape, strict=True))


def test_padding_is_zero_after_the_image():
    full = padded(np.full((33, 40), 9, np.uint8))
    assert full.shape == (64, 64)
    assert full[:33, :40].min() == 9
    assert full[33:].max() == full[:, 40:].max() == 0


def test_mask_keeps_its_area():
    mask = np.zeros((300, 400), np.uint8)
    mask[60:180, 100:260] = 1
    small = resized_mask(mask, 160)
    assert set(np.unique(small)) == {0, 1}
    assert small.mean() == pytest.approx(mask.mean(), rel=0.03)


def test_missing_files_are_named(tiny_busbra, tmp_path):
    with pytest.raises(TrainingDataError, match=r"bus_data\.csv"):
        read_busbra(tmp_path)
    for file in ("bus_data.csv", "5-fold-cv.csv"):
        (tmp_path / file).write_bytes((tiny_busbra / file).read_bytes())
    with pytest.raises(TrainingDataError, match=r"bus_0001-l\.png"):
        read_busbra(tmp_path)
    (tmp_path / "5-fold-cv.csv").write_text("ID,Fold\n")
    with pytest.raises(TrainingDataError, match="kFold"):
        read_busbra(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("bus_data.csv", "bus_0002-l,2,benign", "bus_0002-l,2,unclear", r"label is unknown.*unclear"),
        ("bus_data.csv", "bus_0002-l,2,benign", "bus_0004-l,4,benign", r"listed twice; found bus_0004-l"),
        ("5-fold-cv.csv", "bus_0002-l,benign,3", "bus_0002-l,benign,three", r"fold is no number.*bus_0002-l"),
    ],
)
def test_bad_tables_are_one_clear_error(tiny_busbra, tmp_path, file, old, new, words):
    import shutil

    folder = shutil.copytree(tiny_busbra, tmp_path / "busbra")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(TrainingDataError, match=words) as caught:
        read_busbra(folder)
    assert caught.value.exit_code == 3
