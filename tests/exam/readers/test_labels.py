"""Label maps come back with the values they were stored with, and only on their exam's grid."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scanside.errors import ExamReadError
from scanside.exam.geometry import Geometry
from scanside.exam.readers.labels import read_labels
from scanside.exam.write import write_nrrd

GEOMETRY = Geometry((5, 4, 6), (0.5, 0.1, 0.2))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 20), highest=st.sampled_from([0, 1, 2, 255]), gzip=st.booleans())
def test_nrrd_round_trip(tmp_path: Path, seed: int, highest: int, gzip: bool) -> None:
    labels = np.random.default_rng(seed).integers(0, highest + 1, GEOMETRY.shape, dtype=np.uint8)
    for dtype in (np.uint8, np.uint16, np.float32):
        file = write_nrrd(tmp_path / "mask.nrrd", labels.astype(dtype), GEOMETRY, gzip=gzip)
        np.testing.assert_array_equal(read_labels(file, GEOMETRY), labels)


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_nifti_has_lateral_first(tmp_path: Path, name: str) -> None:
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[1, 2, 5] = 3
    nibabel.save(nibabel.Nifti1Image(labels.transpose(), np.diag([0.2, 0.1, 0.5, 1.0])), tmp_path / name)
    np.testing.assert_array_equal(read_labels(tmp_path / name, GEOMETRY), labels)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    def refused(name: str, words: str) -> None:
        with pytest.raises(ExamReadError, match=words) as caught:
            read_labels(tmp_path / name, GEOMETRY)
        assert caught.value.exit_code == 3

    refused("mask.png", r"no mask.*\.nrrd")
    other = Geometry((5, 6, 4), (0.5, 0.1, 0.2))
    write_nrrd(tmp_path / "turned.nrrd", np.ones(other.shape, np.uint8), other)
    refused("turned.nrrd", "another size than its exam; expected 5 x 4 x 6, found 5 x 6 x 4")
    for name, value in (("half.nrrd", 0.5), ("nan.nrrd", np.nan), ("below.nrrd", -1), ("above.nrrd", 256)):
        write_nrrd(tmp_path / name, np.full(GEOMETRY.shape, value, np.float32), GEOMETRY)
        refused(name, "no labels")
    (tmp_path / "cut.nrrd").write_bytes((tmp_path / "half.nrrd").read_bytes()[:-9])
    refused("cut.nrrd", r"cut\.nrrd")
