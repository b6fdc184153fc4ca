"""2-D components against scipy's labelling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from scanside.engine.components import components, level_of

MAPS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 255))


@settings(max_examples=60, deadline=None)
@given(probability=MAPS, level=st.integers(1, 255))
def test_regions_equal_the_oracle(probability: np.ndarray, level: int) -> None:
    expected, count = ndimage.label(probability >= level, np.ones((3, 3)))
    found = components(probability, level)
    assert len(found) == count
    pairs = set(zip(expected.ravel().tolist(), found.labels.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # a renaming, nothing else
    (sums,) = found.sums(probability)
    for i in range(len(found)):
        inside = found.labels == i + 1
        rows, columns = np.nonzero(inside)
        box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        assert found.boxes[i].tolist() == box
        assert found.areas[i] == inside.sum()
        assert sums[i] == probability[inside].sum(dtype=float)


@pytest.mark.parametrize(
    ("threshold", "level"), [(0.0, 0), (0.5, 128), (128 / 255, 128), (0.1, 26), (1.0, 255), (1 / 255, 1)]
)
def test_the_level_is_the_first_that_reaches_the_threshold(threshold: float, level: int) -> None:
    assert level_of(threshold) == level
    assert level / 255 >= threshold - 1e-12
    assert level == 0 or (level - 1) / 255 < threshold
