"""Every data set through one door."""

from __future__ import annotations

import numpy as np
import pytest

from scanside.training.cutting import Origin
from scanside.training.datasets import open_data
from scanside.training.datasets.pictures import picture_lesion
from scanside.training.errors import TrainingDataError


def test_a_phantom_cohort(stub_cohort, tmp_path):
    data = open_data(stub_cohort, tmp_path)
    assert data.name == "phantom"
    assert [o.case for o in data.origins] == [f"phantom {s}" for s in range(10, 14)]
    assert len(data.files) == 4


def test_busbra_keeps_its_folds(tiny_busbra, tmp_path):
    data = open_data(tiny_busbra, tmp_path, validation_images=2)
    assert data.name == "BUS-BRA"
    folds = {p.id: p.fold for p in data.pictures}
    for origin in data.origins:
        assert (origin.part == "test") == (folds[origin.case] == 1)
    assert {o.part for o in data.origins} == {"train", "validation", "test"}


def test_an_unknown_layout_lists_the_known_ones(tmp_path):
    with pytest.raises(TrainingDataError, match=r"BUS-BRA.*TDSC-ABUS 2023.*BUSI.*cases\.csv") as caught:
        open_data(tmp_path, tmp_path / "work")
    assert caught.value.exit_code == 3
    with pytest.raises(TrainingDataError, match="no such folder"):
        open_data(tmp_path / "nowhere", tmp_path / "work")


def test_a_picture_s_lesion_is_cut_like_a_volume_s(tiny_busbra, tmp_path):
    data = open_data(tiny_busbra, tmp_path)
    picture = data.pictures[0]
    lesion = picture_lesion(picture, 7, Origin("BUS-BRA", "x", "1"))
    assert lesion is not None
    assert lesion.triplets.shape == (1, 1, 1, 3, 160, 160)
    view = lesion.triplets[0, 0, 0, 0]
    np.testing.assert_array_equal(view, lesion.triplets[0, 0, 0, 2])
    # The lesion is 29 x 21 pixels (columns, rows), so 1.8 times 29 are shown, the lesion in the middle.
    bright = np.argwhere(view > 120)
    assert np.ptp(bright[:, 1]) == pytest.approx(160 / 1.8, abs=4)
    assert bright.mean(0) == pytest.approx([80, 80], abs=3)
    assert np.isnan(lesion.diameters_mm).all()
