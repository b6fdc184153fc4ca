"""Zip archives: unpacked within bounds, never outside their folder, and leaving nothing behind."""

from __future__ import annotations

import gc
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scanside.errors import ExamReadError
from scanside.exam import archive
from scanside.exam.archive import UnpackedArchive
from scanside.exam.open import open_exam


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The temporary folder; nothing may be left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.filename = info.orig_filename = name
            file.writestr(info, content, compression)
    return path


def refusal(path: Path, temporary: Path) -> str:
    with pytest.raises(ExamReadError) as caught:
        open_exam(path)
    assert caught.value.exit_code == 3
    assert path.name in str(caught.value)
    gc.collect()
    assert list(temporary.iterdir()) == []
    return str(caught.value)


def test_volumes_outlive_the_call_and_the_folder_does_not_outlive_them(dicom, tmp_path, temporary):
    members = {"breast/left.dcm": dicom.exam().read_bytes(), "notes.txt": b"hello"}
    exam = open_exam(zipped(tmp_path / "exam.zip", members))
    assert len(list(temporary.iterdir())) == 1
    volume = exam.only()
    assert volume.info.source == "breast/left.dcm"
    assert np.array_equal(volume.decode(), dicom.voxels)
    assert [refused.source for refused in exam.ignored] == ["notes.txt"]
    del exam
    gc.collect()
    assert np.array_equal(next(volume.frames()), dicom.voxels[0])
    del volume
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_the_private_folder_is_private(dicom, tmp_path, temporary):
    exam = open_exam(zipped(tmp_path / "exam.zip", {"a.dcm": dicom.exam().read_bytes()}))
    (folder,) = temporary.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert exam.only()


def test_errors_name_the_member(dicom, tmp_path, temporary):
    content = dicom.exam().read_bytes()[:-1]
    path = zipped(tmp_path / "exam.zip", {"sub/a.dcm": content})
    with pytest.raises(ExamReadError, match=r"^sub/a\.dcm: the file is cut short"):
        open_exam(path)


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "a/../../evil.dcm", "/etc/evil.dcm", "..\\evil.dcm", "C:\\evil.dcm", "\\evil.dcm", "a\nb"]
)
def test_members_outside_are_refused(dicom, tmp_path, temporary, name):
    text = refusal(zipped(tmp_path / "slip.zip", {"good.dcm": b"x", name: b"evil"}), temporary)
    assert "outside its own folder" in text
    assert not (tmp_path / "evil.dcm").exists()


@pytest.mark.parametrize(("kind", "part"), [(stat.S_IFLNK, "a symbolic link"), (stat.S_IFIFO, "a special file")])
def test_links_and_special_files_are_refused(tmp_path, temporary, kind, part):
    info = zipfile.ZipInfo("link.dcm")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert part in refusal(tmp_path / "link.zip", temporary)


def test_an_encrypted_archive_is_refused(tmp_path, temporary):
    path = zipped(tmp_path / "secret.zip", {"a.dcm": b"content"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path, temporary)


def test_other_compressions_are_refused(tmp_path, temporary):
    assert "compression" in refusal(zipped(tmp_path / "l.zip", {"a": b"x" * 99}, zipfile.ZIP_LZMA), temporary)


def test_a_bomb_is_refused_unopened(tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(archive, "RATIO_FREE_BYTES", 1 << 16)
    text = refusal(zipped(tmp_path / "bomb.zip", {"a.dcm": bytes(1 << 20)}), temporary)
    assert "zip bomb" in text
    assert str(1 << 20) in text


def test_too_much_in_all_is_refused(tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 1000)
    content = np.random.default_rng(0).bytes(600)
    assert "far more than an exam" in refusal(zipped(tmp_path / "b.zip", {"a": content, "b": content}), temporary)


def test_too_many_entries_are_refused(tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    assert "too many entries" in refusal(zipped(tmp_path / "m.zip", {str(n): b"" for n in range(9)}), temporary)
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 50)
    assert "too many entries" in refusal(zipped(tmp_path / "d.zip", {str(n): b"" for n in range(4)}), temporary)


def test_a_lying_size_is_found(tmp_path, temporary):
    path = zipped(tmp_path / "liar.zip", {"a.dcm": bytes(5000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((5000).to_bytes(4, "little"), (4000).to_bytes(4, "little")))
    assert "damaged" in refusal(path, temporary)


@pytest.mark.parametrize("keep", [4, 30, -10])
def test_a_cut_archive_is_refused(dicom, tmp_path, temporary, keep):
    path = zipped(tmp_path / "cut.zip", {"a.dcm": dicom.exam().read_bytes()})
    path.write_bytes(path.read_bytes()[:keep])
    assert "cut short" in refusal(path, temporary)


def test_a_flipped_byte_is_found(dicom, tmp_path, temporary):
    path = zipped(tmp_path / "flip.zip", {"a.dcm": dicom.exam().read_bytes()}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    path.write_bytes(data)
    assert "damaged" in refusal(path, temporary)


def test_an_archive_in_an_archive_stays_closed(tmp_path, temporary):
    inner = zipped(tmp_path / "inner.zip", {"a.dcm": b"x"}).read_bytes()
    assert "stays closed" in refusal(zipped(tmp_path / "outer.zip", {"inner.zip": inner}), temporary)


def test_no_room_is_said_before_anything_is_written(dicom, tmp_path, temporary, monkeypatch):
    class Usage:
        free = 10

    monkeypatch.setattr(archive.shutil, "disk_usage", lambda path: Usage)
    text = refusal(zipped(tmp_path / "exam.zip", {"a.dcm": dicom.exam().read_bytes()}), temporary)
    assert "no room" in text
    assert "TMPDIR" in text


def test_two_members_of_one_name_are_refused(tmp_path, temporary):
    assert "two members of one name" in refusal(zipped(tmp_path / "two.zip", {"a.dcm": b"x", "A.dcm": b"y"}), temporary)


def test_close_removes_the_folder_at_once(tmp_path, temporary):
    unpacked = UnpackedArchive(zipped(tmp_path / "a.zip", {"a": b"x"}))
    assert (unpacked.folder / "a").read_bytes() == b"x"
    unpacked.close()
    assert list(temporary.iterdir()) == []
