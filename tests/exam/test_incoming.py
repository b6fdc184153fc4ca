"""Sources of live sweeps: raw streams and folders that fill, and every way in which they go wrong."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from scanside.errors import Cancelled, ExamReadError, GeometryError, ScansideError
from scanside.exam.geometry import Geometry
from scanside.exam.incoming import FolderSweep, StreamSweep
from scanside.exam.open import open_exam
from scanside.exam.volume import Laterality
from scanside.exam.write import write_dicom_series

SHAPE, SPACING = (5, 12, 16), (1.0, 0.5, 0.25)
HEADER = {"shape": list(SHAPE), "spacing_mm": list(SPACING)}


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """Reading and writing end; whoever closes the writing end takes it out."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def sent(pipe: list[int], *parts: bytes) -> int:
    """The reading end of a pipe that gives `parts` and then ends."""
    for part in parts:
        os.write(pipe[1], part)
    os.close(pipe.pop())
    return pipe[0]


def gathered(sweep: StreamSweep | FolderSweep) -> dict[int, np.ndarray]:
    return {k: frame.copy() for k, frame in sweep.frames()}


def line(**changes: object) -> bytes:
    return json.dumps(HEADER | changes).encode() + b"\n"


# --- streams ---


def test_a_stream_gives_header_and_frames(pipe: list[int], voxels: np.ndarray) -> None:
    sweep = StreamSweep(sent(pipe, line(laterality="left", view="AP"), voxels.tobytes()))
    assert sweep.info.geometry == Geometry(SHAPE, SPACING)
    assert sweep.info.laterality is Laterality.LEFT
    assert sweep.info.view == "AP"
    assert np.array_equal(np.stack(list(gathered(sweep).values())), voxels)


def test_a_stream_in_drops(pipe: list[int], voxels: np.ndarray) -> None:
    data = line() + voxels.tobytes()

    def write() -> None:
        for first in range(0, len(data), 97):
            os.write(pipe[1], data[first : first + 97])
        os.close(pipe.pop())

    writer = threading.Thread(target=write)
    writer.start()
    frames = gathered(StreamSweep(pipe[0]))
    writer.join()
    assert np.array_equal(np.stack([frames[k] for k in range(5)]), voxels)


def test_a_stream_that_ends_early_between_frames_just_ends(pipe: list[int], voxels: np.ndarray) -> None:
    assert list(gathered(StreamSweep(sent(pipe, line(), voxels[:3].tobytes())))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the stream has no header"),
        (b"no json\n", "the stream has no header"),
        (b"{}", "the stream has no header"),
        (b'{"shape": [1, 2]}\n', "the header of the sweep makes no sense"),
        (b'{"shape": [1.5, 2, 3], "spacing_mm": [1, 1, 1]}\n', "the header of the sweep makes no sense"),
        (b'{"shape": [1, 2, 3], "spacing_mm": [1, 1, "1"]}\n', "the header of the sweep makes no sense"),
        (b'{"shape": [1, 2, 3], "spacing_mm": [1, 1, 99]}\n', "spacing is unusable"),
        (b'{"shape": [1, 2, 3], "spacing_mm": [1, 1, 1], "laterality": "up"}\n', "unknown laterality"),
        (b"x" * 70_000, "the stream has no header"),
    ],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "stream").write_bytes(data)
    descriptor = os.open(tmp_path / "stream", os.O_RDONLY)
    try:
        with pytest.raises(ExamReadError, match=words) as refused:
            StreamSweep(descriptor)
    finally:
        os.close(descriptor)
    assert refused.value.exit_code == 3


def test_a_stream_that_breaks_off_inside_a_frame(pipe: list[int], voxels: np.ndarray) -> None:
    sweep = StreamSweep(sent(pipe, line(), voxels.tobytes()[:500]))
    with pytest.raises(ExamReadError, match="frame 2: the stream ended inside a frame; expected 192 bytes, found 116"):
        gathered(sweep)


def test_a_stream_that_goes_on(pipe: list[int], voxels: np.ndarray) -> None:
    with pytest.raises(ExamReadError, match="goes on after the last frame; expected 5 frames"):
        gathered(StreamSweep(sent(pipe, line(), voxels.tobytes(), b"x")))


def test_a_stream_that_stalls(pipe: list[int], voxels: np.ndarray) -> None:
    os.write(pipe[1], line() + voxels[:2].tobytes())
    frames = StreamSweep(pipe[0], timeout_s=0.2).frames()
    assert [next(frames)[0], next(frames)[0]] == [0, 1]
    with pytest.raises(ExamReadError, match=r"the source has stalled; expected a frame within 0.2 s") as stalled:
        next(frames)
    assert stalled.value.exit_code == 3


def test_the_timeout_of_a_stream_begins_with_its_first_frame(pipe: list[int], voxels: np.ndarray) -> None:
    os.write(pipe[1], line())
    frames = StreamSweep(pipe[0], timeout_s=0.01, wait_s=60).frames()
    timer = threading.Timer(0.3, os.write, (pipe[1], voxels[:1].tobytes()))
    timer.start()
    assert next(frames)[0] == 0
    timer.join()
    with pytest.raises(ExamReadError, match=r"the source has stalled; expected a frame within 0.01 s"):
        next(frames)


def test_a_stream_without_a_frame_is_waited_for_only_so_long(pipe: list[int]) -> None:
    os.write(pipe[1], line())
    sweep = StreamSweep(pipe[0], timeout_s=60, wait_s=0.1)
    with pytest.raises(ExamReadError, match=r"no frame came; expected the first within 0.1 s.*--wait") as late:
        next(sweep.frames())
    assert late.value.exit_code == 3


def test_waiting_for_a_stream_can_be_cancelled(pipe: list[int]) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        StreamSweep(pipe[0], cancel=cancel)
    timer.join()


# --- folders ---


def write_png(folder: Path, number: int, frame: np.ndarray, name: str = "frame-{:04d}.png") -> None:
    done, data = cv2.imencode(".png", frame)
    assert done
    (folder / name.format(number)).write_bytes(data.tobytes())


@pytest.mark.parametrize("base", [0, 1])
def test_png_files_are_placed_by_number(tmp_path: Path, voxels: np.ndarray, base: int) -> None:
    for k in (0, 3, 1, 4, 2):
        write_png(tmp_path, k + base, voxels[k])
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "frame-0009.png.part").write_text("x")
    sweep = FolderSweep(tmp_path, frames=5, spacing_mm=SPACING)
    assert sweep.info.geometry == Geometry(SHAPE, SPACING)
    frames = gathered(sweep)
    assert np.array_equal(np.stack([frames[k] for k in range(5)]), voxels)


def test_a_header_file_says_what_png_files_do_not(tmp_path: Path, voxels: np.ndarray) -> None:
    (tmp_path / "sweep.json").write_bytes(line(view="LAT"))
    for k in range(5):
        write_png(tmp_path, k + 1, voxels[k])
    sweep = FolderSweep(tmp_path)
    assert (sweep.info.geometry, sweep.info.view) == (Geometry(SHAPE, SPACING), "LAT")
    assert len(gathered(sweep)) == 5


def test_a_folder_that_fills_while_it_is_read(tmp_path: Path, voxels: np.ndarray) -> None:
    def fill() -> None:
        for k in range(5):
            time.sleep(0.02)
            write_png(tmp_path, k + 1, voxels[k])

    filler = threading.Thread(target=fill)
    filler.start()
    frames = gathered(FolderSweep(tmp_path, frames=5, spacing_mm=SPACING))
    filler.join()
    assert np.array_equal(np.stack([frames[k] for k in range(5)]), voxels)


def test_a_file_that_is_still_being_written_is_waited_for(tmp_path: Path, voxels: np.ndarray) -> None:
    for k in range(5):
        write_png(tmp_path, k + 1, voxels[k])
    late = tmp_path / "frame-0003.png"
    data = late.read_bytes()
    late.write_bytes(data[:40])
    timer = threading.Timer(0.4, late.write_bytes, [data])
    timer.start()
    frames = gathered(FolderSweep(tmp_path, frames=5, spacing_mm=SPACING))
    timer.join()
    assert np.array_equal(np.stack([frames[k] for k in range(5)]), voxels)


def test_dicom_files_bring_spacing_and_side(tmp_path: Path, voxels: np.ndarray) -> None:
    geometry = Geometry(SHAPE, SPACING)
    write_dicom_series(tmp_path, voxels, geometry, laterality=Laterality.RIGHT)
    sweep = FolderSweep(tmp_path, frames=5)
    offline = open_exam(tmp_path).only()
    assert sweep.info.geometry.shape == offline.geometry.shape
    assert sweep.info.geometry.spacing_mm == pytest.approx(offline.geometry.spacing_mm)
    assert sweep.info.laterality == offline.info.laterality == Laterality.RIGHT
    frames = gathered(sweep)
    assert np.array_equal(np.stack([frames[k] for k in range(5)]), offline.decode())


def test_the_end_marker_ends_a_sweep_early(tmp_path: Path, voxels: np.ndarray) -> None:
    for k in range(3):
        write_png(tmp_path, k + 1, voxels[k])
    (tmp_path / "end").touch()
    assert sorted(gathered(FolderSweep(tmp_path, frames=5, spacing_mm=SPACING))) == [0, 1, 2]


def test_a_folder_that_stalls(tmp_path: Path, voxels: np.ndarray) -> None:
    write_png(tmp_path, 1, voxels[0])
    sweep = FolderSweep(tmp_path, frames=5, spacing_mm=SPACING, timeout_s=0.2)
    with pytest.raises(ExamReadError, match=r"the source has stalled; expected a frame within 0.2 s, found nothing"):
        gathered(sweep)


def test_the_timeout_of_a_folder_begins_with_its_first_frame(tmp_path: Path, voxels: np.ndarray) -> None:
    timer = threading.Timer(0.3, write_png, (tmp_path, 1, voxels[0]))
    timer.start()
    sweep = FolderSweep(tmp_path, frames=5, spacing_mm=SPACING, timeout_s=0.01, wait_s=60)
    timer.join()
    with pytest.raises(ExamReadError, match=r"the source has stalled; expected a frame within 0.01 s"):
        gathered(sweep)


def test_waiting_for_a_folder_can_be_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        FolderSweep(tmp_path, frames=5, cancel=cancel)
    timer.join()


@pytest.mark.parametrize(
    ("content", "how", "error", "words"),
    [
        ({"a1.png": b"text"}, {}, ExamReadError, "the file is no frame"),
        (
            {"a1.png": b"\x89PNG broken"},
            {},
            ExamReadError,
            "the picture is no frame; expected 8-bit grey, found damaged",
        ),
        ({"picture.png": "grey"}, {}, ExamReadError, "the name has no number"),
        ({"a1.png": "colour"}, {}, ExamReadError, r"found uint8 \[12, 16, 3\]"),
        ({"a1.png": "grey"}, {"frames": None}, GeometryError, "how many frames the sweep will have is stated nowhere"),
        ({"a1.png": "grey"}, {"spacing_mm": None}, GeometryError, "PNG files state no spacing"),
        ({"a1.png": "grey", "sweep.json": b"{"}, {}, ExamReadError, "the header of the sweep is no JSON"),
        ({"end": b""}, {}, ExamReadError, "the sweep ended before its first frame"),
        ({}, {}, ExamReadError, "no frame came; expected the first within 0.3 s"),
    ],
)
def test_a_folder_that_is_no_sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: dict[str, bytes | str],
    how: dict,
    error: type[ScansideError],
    words: str,
) -> None:
    monkeypatch.setattr("scanside.exam.incoming.SETTLE_S", 0.1)
    grey = np.zeros(SHAPE[1:], np.uint8)
    for name, data in content.items():
        if isinstance(data, str):
            picture = grey if data == "grey" else np.zeros((*SHAPE[1:], 3), np.uint8)
            data = cv2.imencode(".png", picture)[1].tobytes()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=words) as refused:
        FolderSweep(tmp_path, **{"frames": 5, "spacing_mm": SPACING, "timeout_s": 0.3, "wait_s": 0.3} | how)
    assert refused.value.exit_code == 3


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ExamReadError, match="there is no such folder"):
        FolderSweep(tmp_path / "absent")
