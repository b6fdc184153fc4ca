from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pytest

from scanside.errors import Cancelled, ExamReadError, OutputError, UsageError
from scanside.exam.volume import Refusal
from scanside.report import folder, pictures, write
from scanside.report.folder import refuse_foreign
from scanside.report.json import from_json
from scanside.report.pictures import Picture
from scanside.report.tables import lesion_rows
from scanside.report.write import volume_folder, write_report, write_study

FILES = {
    "report.json",
    "masks.nrrd",
    "trace.json",
    "pictures/overview.png",
    "pictures/lesion-01.png",
    "pictures/lesion-02.png",
}


@pytest.fixture
def plain(monkeypatch):
    """Tiny pictures: these tests are about files."""
    picture = Picture(np.zeros((8, 8, 3), np.uint8), ())
    monkeypatch.setattr(pictures, "overview_picture", lambda report, voxels: picture)
    monkeypatch.setattr(pictures, "lesion_picture", lambda report, lesion, voxels: picture)


def files_of(path: Path) -> set[str]:
    return {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}


def named(report, name):
    """The same report, recognisable by its source in every text file."""
    trace = ({"name": name, "ph": "X", "ts": 0, "dur": 1, "pid": 1, "tid": 1},)
    return replace(report, exam=replace(report.exam, source=name), trace=trace)


def name_in(path: Path) -> str:
    """The name of a whole report; its files must agree."""
    source = json.loads((path / "report.json").read_text())["exam"]["source"]
    assert json.loads((path / "trace.json").read_text())["traceEvents"][0]["name"] == source
    return source


def test_report_folder_is_complete_and_names_its_pictures(example, tmp_path):
    out = tmp_path / "new" / "report"
    filled = write_report(example.report, example.voxels, out)
    assert files_of(out) == FILES
    assert os.listdir(out.parent) == ["report"]
    again = from_json(json.loads((out / "report.json").read_text()))
    for lesion, known in zip(again.lesions, filled.lesions, strict=True):
        assert lesion.pictures == known.pictures
        assert cv2.imread(str(out / lesion.pictures["three_planes"])) is not None
    assert not example.report.lesions[0].pictures


def test_names_that_are_no_unicode_do_not_stop_the_writing(example, tmp_path, plain):
    report = named(example.report, "sc\udce4n.dcm")
    write_report(report, example.voxels, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["exam"]["source"] == "sc?n.dcm"


def test_earlier_report_is_replaced_as_a_whole(example, tmp_path, plain):
    out = tmp_path / "out"
    write_report(named(example.report, "first"), example.voxels, out)
    write_report(named(replace(example.report, lesions=()), "second"), example.voxels, out)
    assert name_in(out) == "second"
    assert files_of(out) == {name for name in FILES if "lesion" not in name}
    assert os.listdir(tmp_path) == ["out"]


def test_empty_folder_and_link_are_taken(example, tmp_path, plain):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    write_report(example.report, example.voxels, tmp_path / "link")
    assert files_of(tmp_path / "out") == FILES
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["thesis.docx", "report.json"])
def test_folder_of_something_else_is_refused_and_untouched(example, tmp_path, name, plain):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"schema": "other/1"}')
    with pytest.raises(OutputError, match="holds other files") as caught:
        write_report(example.report, example.voxels, out)
    assert str(out) in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.remedy
    assert files_of(tmp_path) == {f"out/{name}"}


@pytest.mark.parametrize("name", ["notes.txt", "pictures/mine.png", "01-right-AP/report.json"])
def test_earlier_report_with_a_file_of_the_users_is_refused(example, tmp_path, name, plain):
    out = tmp_path / "out"
    write_report(named(example.report, "first"), example.voxels, out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(OutputError, match="did not write"):
        write_report(named(example.report, "second"), example.voxels, out)
    assert name_in(out) == "first"
    assert (out / name).read_text() == "mine"


def test_a_file_in_the_way_is_refused(example, tmp_path, plain):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="not a folder"):
        write_report(example.report, example.voxels, tmp_path / "out")
    with pytest.raises(OutputError, match="part of this path is a file"):
        write_report(example.report, example.voxels, tmp_path / "out" / "deeper")
    with pytest.raises(OutputError, match="part of this path is a file"):  # before a long analysis, not after
        refuse_foreign(tmp_path / "out" / "deeper" / "still")
    assert (tmp_path / "out").read_text() == "x"


def test_a_place_without_permission_is_refused_before_anything_is_made(example, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="no permission") as caught:
        folder.refuse_foreign(tmp_path / "new" / "out")
    assert str(tmp_path / "new" / "out") in str(caught.value)
    assert "may write to" in str(caught.value)
    monkeypatch.undo()
    folder.refuse_foreign(tmp_path / "new" / "out")
    assert os.listdir(tmp_path) == []


def test_voxels_of_another_volume_are_refused(example, tmp_path, plain):
    with pytest.raises(UsageError, match="not those of the report"):
        write_report(example.report, example.voxels[:5], tmp_path / "out")
    assert os.listdir(tmp_path) == []


def broken_at(monkeypatch, module, name, n, error):
    """Make the `n`-th call of `module.name` raise `error` instead."""
    true, calls = getattr(module, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == n:
            raise error
        return true(*args, **kwargs)

    monkeypatch.setattr(module, name, call)
    return calls


FAULTS = [  # what fails at which call; the second rename happens only where an earlier report is replaced
    (write, "write_file", 1),
    (write, "write_file", 2),
    (write, "write_file", 4),
    (write, "write_file", 5),
    (os, "fsync", 1),
    (os, "fsync", 3),
    (os, "rename", 1),
    (os, "rename", 2),
    (os, "replace", 1),
]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize(
    ("module", "name", "n", "earlier"),
    [(*fault, earlier) for fault in FAULTS for earlier in (False, True) if earlier or fault[1:] != ("rename", 2)],
)
def test_a_fault_anywhere_leaves_what_was_there(example, tmp_path, monkeypatch, module, name, n, error, earlier, plain):
    out = tmp_path / "out"
    if earlier:
        write_report(named(example.report, "first"), example.voxels, out)
    with monkeypatch.context() as patch:
        calls = broken_at(patch, module, name, n, error)
        with pytest.raises(OutputError if isinstance(error, OSError) else type(error)) as caught:
            write_report(named(example.report, "second"), example.voxels, out)
    assert len(calls) >= n
    if isinstance(error, OSError):
        assert str(out) in str(caught.value)
        assert "No space left on device" in str(caught.value)
        assert "Free some space" in str(caught.value)
        assert ".part-" not in str(caught.value)
    assert os.listdir(tmp_path) == (["out"] if earlier else [])
    if earlier:
        assert name_in(out) == "first"
        assert files_of(out) == FILES


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EACCES, "may write to"),
        (errno.EROFS, "read-only"),
        (errno.EDQUOT, "quota"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "another disk"),
        (errno.ELOOP, "another folder"),
    ],
)
def test_a_folder_that_cannot_be_made_says_what_to_do(example, tmp_path, monkeypatch, code, remedy, plain):
    true = os.mkdir

    def mkdir(path, *args):
        if ".part-" in os.fspath(path):
            raise OSError(code, os.strerror(code))
        return true(path, *args)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(OutputError, match=remedy) as caught:
        write_report(example.report, example.voxels, tmp_path / "out")
    assert caught.value.exit_code == 4
    assert caught.value.found == os.strerror(code)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on file sizes is Linux's")
def test_a_write_the_system_really_refuses(example, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_report(example.report, example.voxels, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(example, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(OutputError, match="Free some space") as caught:
            write_report(example.report, example.voxels, disk / "out")
        assert str(disk / "out") in str(caught.value)
        assert os.listdir(disk) == []
        with pytest.raises(OutputError, match="mount point"):
            write_report(replace(example.report, lesions=()), example.voxels, disk)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_cancel_leaves_nothing(example, tmp_path, plain):
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        write_report(example.report, example.voxels, tmp_path / "out", cancel=cancel)
    assert os.listdir(tmp_path) == []


CHILD = """
import signal, sys, time
import numpy as np
from scanside.exam.geometry import Geometry
from scanside.report import masks, write
from scanside.report.model import DeviceRecord, ExamRecord, LesionMask, PackRecord, Report, Timing

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)

def hang(*args, **kwargs):
    print("in the middle", flush=True)
    time.sleep(60)

masks.masks_nrrd = hang
shape, spacing = (4, 8, 8), (1.0, 1.0, 1.0)
report = Report(
    {"name": "scanside", "version": "0"}, PackRecord("p", "1", "0"),
    ExamRecord("x", (), "left", "AP", shape, spacing, "test", ()), DeviceRecord("r", "fp32", "exact", "c", ()),
    (), Timing(1.0, {}), Geometry(shape, spacing), LesionMask(np.zeros(shape, np.uint16), 1.0),
)
write.write_report(report, np.zeros(shape, np.uint8), sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_a_process_stopped_in_the_middle_leaves_no_report(tmp_path, number):
    out = tmp_path / "out"
    root = Path(folder.__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    )
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "in the middle\n"
        assert len(os.listdir(tmp_path)) == 1
        child.send_signal(getattr(signal, number))
    assert child.returncode != 0
    assert not out.exists()
    left = os.listdir(tmp_path)
    assert all(name.startswith(".out.part-") for name in left)
    assert len(left) == (1 if number == "SIGKILL" else 0)


def test_concurrent_writers_never_mix(example, tmp_path, plain):
    out = tmp_path / "out"
    small = replace(example.report, lesions=())

    def write_as(n: int) -> str | None:
        try:
            write_report(named(small, f"writer-{n}"), example.voxels, out)
        except OutputError:
            return None
        return f"writer-{n}"

    with ThreadPoolExecutor(3) as pool:
        done = set(pool.map(write_as, range(8)))
    assert name_in(out) in done
    assert files_of(out) == {name for name in FILES if "lesion" not in name}
    assert os.listdir(tmp_path) == ["out"]


def test_a_writer_that_comes_between_the_renames_is_replaced(example, tmp_path, monkeypatch, plain):
    out = tmp_path / "out"
    write_report(named(example.report, "first"), example.voxels, out)
    true, calls = os.rename, []

    def rename(source, target):
        calls.append(source)
        true(source, target)
        if len(calls) == 1:  # the old one is aside: another process puts its report there
            with monkeypatch.context() as patch:
                patch.setattr(os, "rename", true)
                write_report(named(example.report, "other"), example.voxels, out)

    monkeypatch.setattr(os, "rename", rename)
    write_report(named(example.report, "second"), example.voxels, out)
    assert name_in(out) == "second"
    assert os.listdir(tmp_path) == ["out"]


def refusal(source="/data/Doe Jane/bad.dcm"):
    return Refusal(source, ExamReadError("no pixel spacing", where=source, remedy="give --spacing"))


def test_study_has_a_folder_a_volume_and_a_summary(example, tmp_path, plain):
    out = tmp_path / "study"
    second = replace(example.report, lesions=())
    second = replace(second, exam=replace(second.exam, laterality="left", view="LAT/MED 2", warnings=("curved probe",)))
    unknown = replace(second, exam=replace(second.exam, laterality="unknown", view="unknown", warnings=()))
    items = [(example.report, example.voxels), refusal(), (second, example.voxels), (unknown, example.voxels)]
    study = write_study(iter(items), out, source="/data/Doe Jane/study")
    names = ["01-right-AP", "", "03-left-LAT-MED-2", "04-volume"]
    assert [row.folder for row in study.rows] == names
    assert sorted(os.listdir(out)) == sorted({*filter(None, names), "study.csv", "study.json"})
    assert files_of(out / "01-right-AP") == FILES
    assert len(study.reports) == 3
    assert study.reports[0].lesions[0].pictures == {"three_planes": "pictures/lesion-01.png"}

    data = json.loads((out / "study.json").read_text())
    assert data["schema"] == "scanside-study/1"
    assert data["source"] == "study"
    assert data["notice"] == "Research use only. Not a medical device."
    assert data == study.to_json()
    first, bad, degraded, last = data["volumes"]
    assert (first["lesions"], first["malignant"], first["highest_probability"]) == (2, 1, 0.93)
    assert (first["verdict"], degraded["verdict"], bad["verdict"]) == ("ready", "degraded", "refused")
    assert bad["lesions"] is None
    assert bad["source"] == "bad.dcm"
    assert bad["reason"] == "no pixel spacing. Give --spacing"
    assert degraded["reason"] == "curved probe"
    assert last["highest_probability"] is None
    rows = list(csv.DictReader((out / "study.csv").open()))
    assert [row["folder"] for row in rows] == names
    assert rows[0]["highest_probability"] == "0.93"
    assert "Doe" not in (out / "study.json").read_text() + (out / "study.csv").read_text()


def test_study_replaces_an_earlier_study(example, tmp_path, plain):
    out = tmp_path / "study"
    write_study([(example.report, example.voxels)] * 2, out, source="a")
    write_study([(example.report, example.voxels)], out, source="b")
    assert sorted(os.listdir(out)) == ["01-right-AP", "study.csv", "study.json"]
    assert os.listdir(tmp_path) == ["study"]
    (out / "02-notes").write_text("mine")
    with pytest.raises(OutputError, match="02-notes"):
        write_study([(example.report, example.voxels)], out, source="c")


def test_study_is_taken_one_volume_at_a_time_and_fails_as_a_whole(example, tmp_path, plain):
    out = tmp_path / "study"

    def volumes():
        yield example.report, example.voxels
        assert any(p.name == "report.json" for p in tmp_path.rglob("*"))
        raise ExamReadError("a frame cannot be decoded")

    with pytest.raises(ExamReadError, match="cannot be decoded"):
        write_study(volumes(), out, source="a")
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_analysis_is_not_taken_for_one_of_the_output(example, tmp_path, plain):
    def volumes():
        yield example.report, example.voxels
        raise OSError(errno.EIO, "the exam's disk")

    with pytest.raises(OSError, match="the exam's disk"):
        write_study(volumes(), tmp_path / "study", source="a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("laterality", "view", "name"),
    [
        ("right", "AP", "07-right-AP"),
        ("left", "unknown", "07-left"),
        ("unknown", "unknown", "07-volume"),
        ("unknown", "../..", "07-volume"),
        ("left", "äöü CON:*?", "07-left-CON"),
        ("left", "x" * 300, "07-left-" + "x" * 24),
    ],
)
def test_volume_folders_are_safe_names(example, laterality, view, name):
    exam = replace(example.report.exam, laterality=laterality, view=view)
    assert volume_folder(7, replace(example.report, exam=exam)) == name


def test_lesion_rows_are_text_in_the_reports_order(example):
    rows = lesion_rows(example.report)
    assert rows[1] == {
        "lesion": "2",
        "finding": "malignant",
        "probability": "0.93",
        "size mm": "3.0 x 4.0 x 6.0",
        "centre mm": "8.5, 9.5, 23.0",
        "volume ml": "0.07",
        "score": "0.80",
        "planes": "transverse, coronal",
    }
    assert rows[0]["finding"] == "benign"
    assert lesion_rows(replace(example.report, lesions=())) == []
