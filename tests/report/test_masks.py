from __future__ import annotations

import gzip
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.errors import Cancelled
from scanside.exam.geometry import Geometry
from scanside.report.masks import mask_frames, masks_nrrd
from scanside.report.model import LesionMask


def read_nrrd(path):
    header, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    kind = {"uint8": np.uint8, "uint16": "<u2"}[fields["type"]]
    sizes = [int(n) for n in fields["sizes"].split()]
    return fields, np.frombuffer(gzip.decompress(body), kind).reshape(sizes[::-1])


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.floats(0.05, 2)] * 3),
    st.floats(0.1, 1.5),
    st.integers(0, 2**31),
)
def test_each_voxel_has_the_id_of_the_cell_that_holds_its_centre(shape, spacing, pitch, seed):
    geometry = Geometry(shape, spacing)
    cells = tuple(max(1, round(extent / pitch)) for extent in geometry.extent_mm)
    labels = np.random.default_rng(seed).integers(0, 400, cells).astype(np.uint16)
    found = np.stack(list(mask_frames(LesionMask(labels, pitch), geometry)))
    assert found.shape == shape
    for index in np.ndindex(*shape):
        exact = [(i + 0.5) * s / pitch for i, s in zip(index, spacing, strict=True)]
        if any(abs(v - round(v)) < 1e-6 for v in exact):
            continue  # on the border between two cells, either is nearest
        cell = tuple(min(int(v), n - 1) for v, n in zip(exact, cells, strict=True))
        assert found[index] == labels[cell]


def test_file_holds_the_lesions_in_their_boxes(example, tmp_path):
    path = masks_nrrd(tmp_path / "masks.nrrd", example.report.mask, example.report.geometry)
    fields, mask = read_nrrd(path)
    assert fields["type"] == "uint8"
    assert mask.shape == example.report.geometry.shape
    assert [float(v) for v in fields["spacings"].split()] == list(example.report.geometry.spacing_mm[::-1])
    assert set(np.unique(mask)) == {0, 1, 2}
    for lesion in example.report.lesions:
        found = np.argwhere(mask == lesion.id)
        assert np.all(np.abs(found.min(0) - lesion.box_index.min) <= 1)
        assert np.all(np.abs(found.max(0) + 1 - lesion.box_index.max) <= 1)


def test_ids_above_255_need_two_bytes(tmp_path):
    labels = np.zeros((2, 3, 4), np.uint16)
    labels[1, 2, 3] = 300
    fields, mask = read_nrrd(masks_nrrd(tmp_path / "m.nrrd", LesionMask(labels, 1.0), Geometry((2, 3, 4), (1, 1, 1))))
    assert fields["type"] == "uint16"
    assert mask[1, 2, 3] == 300


def test_orientation_is_kept(tmp_path):
    rigid = np.array([[0, 0, -1, 80.0], [0, 1, 0, -20], [1, 0, 0, 5], [0, 0, 0, 1]])
    geometry = Geometry((3, 4, 5), (1.0, 0.5, 0.25), rigid)
    labels = np.zeros((3, 2, 1), np.uint16)
    labels[2, 1, 0] = 7
    path = masks_nrrd(tmp_path / "m.nrrd", LesionMask(labels, 1.0), geometry)
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == (5, 4, 3)
    for index in ((0, 0, 0), (2, 3, 4), (1, 2, 0)):
        assert image.TransformIndexToPhysicalPoint(index[::-1]) == pytest.approx(geometry.patient_from_index(index))
    assert np.argwhere(sitk.GetArrayFromImage(image) == 7).min(0).tolist() == [2, 2, 0]


def test_no_mask_gives_an_empty_file(tmp_path):
    empty = LesionMask(np.zeros((0, 0, 0), np.uint16), 1.0)
    _, mask = read_nrrd(masks_nrrd(tmp_path / "m.nrrd", empty, Geometry((2, 3, 4), (1, 1, 1))))
    assert mask.shape == (2, 3, 4)
    assert not mask.any()


def test_cancel_leaves_nothing(example, tmp_path):
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        masks_nrrd(tmp_path / "m.nrrd", example.report.mask, example.report.geometry, cancel=cancel)
    assert list(tmp_path.iterdir()) == []
