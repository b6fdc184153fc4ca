"""Zip archives of exams, unpacked within bounds into a private folder that is always removed again.

Nothing is trusted: names, sizes, kinds and counts are checked before the first byte is unpacked, every member is
unpacked in pieces up to its declared size, and archives inside archives stay closed.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from scanside.errors import ExamReadError

MAX_ARCHIVE_BYTES = 4 << 30
MAX_UNPACKED_BYTES = 4 << 30
MAX_DIRECTORY_BYTES = 8 << 20
MAX_ENTRIES = 20_000
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_END_RECORD = b"PK\x05\x06"


class UnpackedArchive:
    """A private folder with the members of a zip archive; removed when nothing refers to it any more, or at exit.

    Parameters
    ----------
    path : Path
        The archive.

    Raises
    ------
    ExamReadError
        No zip archive, a damaged or encrypted one, one with members outside its own folder, links or other things
        that are no plain files, or one beyond the bounds above.
    """

    def __init__(self, path: Path) -> None:
        where = path.name
        try:
            with open(path, "rb") as file:
                _check_directory(file.seek(0, os.SEEK_END), _tail(file), where)
            with zipfile.ZipFile(path) as archive:
                members = _checked_members(archive, where)
                self.folder = Path(tempfile.mkdtemp(prefix="scanside-"))
                self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
                self._unpack(archive, members, where)
        except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, RuntimeError) as error:
            self.close()
            raise ExamReadError(
                "the archive is damaged", where=where, found=type(error).__name__, remedy="copy it again"
            ) from error
        except OSError as error:
            self.close()
            raise ExamReadError(
                "the archive cannot be unpacked",
                where=where,
                found=error.strerror or type(error).__name__,
                remedy="check that the temporary folder has room, or unpack the archive yourself and open the folder",
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the folder now."""
        remove = getattr(self, "_remove", None)
        if remove is not None:
            remove()

    def _unpack(self, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], where: str) -> None:
        needed = sum(member.file_size for member in members)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ExamReadError(
                "the temporary folder has no room for the archive",
                where=where,
                expected=f"{needed} bytes",
                found=f"{free} bytes",
                remedy="set TMPDIR to a larger folder, or unpack the archive yourself and open the folder",
            )
        for member in members:
            target = self.folder.joinpath(*PurePosixPath(member.filename).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, open(target, "xb") as file:
                while piece := packed.read(_CHUNK_BYTES):
                    file.write(piece)


def _tail(file: BinaryIO) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22))
    return file.read()


def _check_directory(size: int, tail: bytes, where: str) -> None:
    """Bound the central directory before `zipfile` reads it whole."""
    if size > MAX_ARCHIVE_BYTES:
        raise ExamReadError(
            "the archive is too large",
            where=where,
            expected=f"at most {MAX_ARCHIVE_BYTES} bytes",
            found=f"{size} bytes",
        )
    at = tail.rfind(_END_RECORD)
    if at < 0 or at + 22 > len(tail):
        raise ExamReadError("the archive is cut short", where=where, found="no end of its directory")
    entries, directory_bytes = struct.unpack_from("<HI", tail, at + 10)
    if entries > MAX_ENTRIES or directory_bytes > MAX_DIRECTORY_BYTES:
        raise ExamReadError(
            "the archive has too many entries",
            where=where,
            expected=f"at most {MAX_ENTRIES}",
            found=f"{entries} or more, in a directory of {directory_bytes} bytes",
            remedy="unpack it yourself and open the folder",
        )


def _checked_members(archive: zipfile.ZipFile, where: str) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > MAX_ENTRIES:
        raise ExamReadError(
            "the archive has too many entries", where=where, expected=f"at most {MAX_ENTRIES}", found=len(members)
        )
    seen: set[str] = set()
    for member in members:
        _check_member(member, where)
        name = str(PurePosixPath(member.filename)).casefold()
        if name in seen:
            raise ExamReadError("the archive holds two members of one name", where=where, found=_shown(member.filename))
        seen.add(name)
    files = [member for member in members if not member.is_dir()]
    unpacked = sum(member.file_size for member in files)
    packed = sum(member.compress_size for member in files)
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > RATIO_FREE_BYTES and unpacked > MAX_RATIO * max(1, packed)):
        raise ExamReadError(
            "the archive unpacks to far more than an exam (a zip bomb?)",
            where=where,
            expected=f"at most {MAX_UNPACKED_BYTES} bytes and {MAX_RATIO} times its packed size",
            found=f"{unpacked} bytes from {packed}",
            remedy="if it is an exam, unpack it yourself and open the folder",
        )
    return files


def _check_member(member: zipfile.ZipInfo, where: str) -> None:
    name = member.orig_filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or any(ord(c) < 32 for c in name):
        raise ExamReadError(
            "the archive has a member outside its own folder",
            where=where,
            expected="relative names without ..",
            found=_shown(name),
            remedy="do not open this archive",
        )
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if kind == stat.S_IFLNK else "a special file"
        raise ExamReadError(f"the archive holds {what}", where=where, expected="plain files", found=_shown(name))
    if member.flag_bits & 0x1:
        raise ExamReadError("the archive is encrypted", where=where, remedy="unpack it yourself and open the folder")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ExamReadError(
            "the archive uses a compression that is not read",
            where=where,
            expected="stored or deflated members",
            found=f"method {member.compress_type}",
        )


def _shown(name: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in name)
    return clean if len(clean) <= 80 else clean[:77] + "..."
