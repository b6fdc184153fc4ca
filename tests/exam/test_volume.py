"""A volume decodes the same by any number of threads, stops when told, and fails once and clearly."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from scanside.errors import Cancelled, ExamReadError, GeometryError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Exam, Laterality, Verdict, Volume, VolumeInfo

SHAPE = (12, 6, 8)
SPACING = (0.5, 0.1, 0.2)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


class CountedFrames:
    """Frames of an array; fails at one, and remembers which were asked for."""

    def __init__(self, voxels: np.ndarray, fail_at: int | None = None) -> None:
        self.voxels, self.fail_at, self.asked = voxels, fail_at, []

    def read(self, k: int, out: np.ndarray) -> None:
        self.asked.append(k)
        if k == self.fail_at:
            raise ExamReadError("the frame is damaged", where=f"frame {k}")
        out[...] = self.voxels[k]


def volume_of(source) -> Volume:
    return Volume(VolumeInfo(Geometry(SHAPE, SPACING), "exam", "test", "test"), source)


def test_an_array_is_a_volume(voxels):
    volume = Volume.from_array(voxels, SPACING, laterality=Laterality.LEFT)
    assert volume.geometry == Geometry(SHAPE, SPACING)
    assert volume.info.verdict is Verdict.READY
    assert (volume.info.laterality, volume.info.laterality_source) == (Laterality.LEFT, "the caller")
    np.testing.assert_array_equal(volume.decode(), voxels)
    np.testing.assert_array_equal(np.stack(list(volume.frames())), voxels)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3), np.uint8), np.zeros(SHAPE, np.uint16), np.zeros((*SHAPE, 3), np.uint8)]
)
def test_an_array_of_another_kind_is_refused(wrong):
    with pytest.raises(ExamReadError, match="uint8 \\[sweep, depth, lateral\\]"):
        Volume.from_array(wrong, SPACING)


def test_an_array_with_bad_spacing_is_refused(voxels):
    with pytest.raises(GeometryError, match="depth"):
        Volume.from_array(voxels, (0.5, 0.0, 0.2))


@pytest.mark.parametrize("threads", [None, 1, 2, 7])
def test_decoding_is_the_same_by_any_number_of_threads(voxels, threads):
    source, seen = CountedFrames(voxels), []
    found = volume_of(source).decode(threads=threads, on_frame=seen.append)
    np.testing.assert_array_equal(found, voxels)
    assert found.flags.c_contiguous
    assert sorted(seen) == sorted(source.asked) == list(range(len(voxels)))


def test_frames_are_independent(voxels):
    frames = list(volume_of(CountedFrames(voxels)).frames())
    frames[0][...] = 0
    np.testing.assert_array_equal(frames[1], voxels[1])


@pytest.mark.parametrize("threads", [1, 4])
def test_a_damaged_frame_ends_decoding(voxels, threads):
    source = CountedFrames(voxels, fail_at=2)
    with pytest.raises(ExamReadError, match="frame 2"):
        volume_of(source).decode(threads=threads)
    if threads == 1:
        assert len(source.asked) < len(voxels)


def test_a_cancelled_decode_says_so(voxels):
    cancel = Event()
    source = CountedFrames(voxels)
    with pytest.raises(Cancelled) as caught:
        volume_of(source).decode(threads=1, cancel=cancel, on_frame=lambda k: cancel.set() if k == 3 else None)
    assert caught.value.exit_code == 130
    assert source.asked == [0, 1, 2, 3]


def test_a_volume_that_does_not_fit_in_memory(voxels, monkeypatch):
    def no_memory(*arguments, **options):
        raise MemoryError

    volume = volume_of(CountedFrames(voxels))
    monkeypatch.setattr(np, "empty", no_memory)
    with pytest.raises(ExamReadError, match="memory"):
        volume.decode()


def test_a_warning_makes_a_volume_degraded(voxels):
    volume = Volume.from_array(voxels, SPACING)
    warned = volume.with_warning("the probe face is curved")
    assert warned.info.verdict is Verdict.DEGRADED
    assert warned.info.warnings == ("the probe face is curved",)
    assert volume.info.verdict is Verdict.READY


def test_the_only_volume_of_an_exam(voxels, tmp_path):
    volume = Volume.from_array(voxels, SPACING)
    assert Exam(tmp_path, (volume,)).only() is volume
    with pytest.raises(ExamReadError, match="several volumes; expected one volume, found 2"):
        Exam(tmp_path, (volume, volume)).only()
