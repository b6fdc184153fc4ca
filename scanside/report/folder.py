"""A result folder that appears whole or not at all.

Everything is written into a hidden sibling (``.NAME.part-...``), synced to the disk, and renamed into place. An older
result of ours at the same place is first renamed aside (``.NAME.old-...``) and deleted after the new one stands; if
the second rename fails, the old one is put back. Of several writers to one place the last wins; files of two never mix.
A process that is killed outright may leave a hidden sibling behind, which can be deleted, but never part of a result.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scanside.errors import OutputError

MARKERS = {
    "report.json": "scanside-report/",
    "study.json": "scanside-study/",
    "evaluation.json": "scanside-evaluation/",
}
"""The file that makes a folder a result of ours, and how its `schema` begins."""

_OURS = re.compile(
    r"(report|study|trace|evaluation)\.json|masks\.nrrd|study\.csv"
    r"|pictures(/(overview|lesion-\d+(-heatmap)?)\.png)?"
    r"|summary\.md|tables(/[a-z0-9-]+\.(csv|md))?|figures(/[a-z0-9-]+\.(csv|png|svg))?"
    r"|(.*/)?(\.DS_Store|Thumbs\.db)"
)
_STUDY_FOLDER = re.compile(r"\d{2,}-[^/]+")
_ATTEMPTS = 8
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EFBIG: "raise the limit on file sizes, or choose a folder on another disk",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "the disk is read-only: choose a folder on another disk",
    errno.EBUSY: "the folder is a mount point: name a new folder inside it",
    errno.EXDEV: "the folder is a mount point: name a new folder inside it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EEXIST: "a part of this path is a file: choose another folder",
    errno.EIO: "the disk reports an error: choose a folder on another disk",
}


@contextmanager
def new_folder(out_dir: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder to fill; leaving the block puts it at `out_dir`, an exception removes it.

    What is written inside the block is best written under `output_errors`.

    Parameters
    ----------
    out_dir : path
        A path that does not exist yet (missing parents are made), an empty folder, or an older result of ours, which
        is replaced.

    Raises
    ------
    OutputError
        `out_dir` is something else, or it cannot be written.
    """
    target = Path(os.path.realpath(out_dir))
    with output_errors(target):
        refuse_foreign(target)
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part-{secrets.token_hex(6)}")
    try:
        with output_errors(target):
            part.mkdir()
        yield part
        with output_errors(target):
            _sync_tree(part)
            _put_in_place(part, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn failures of the disk, also those already reported for a file inside, into one error that names `target`."""
    try:
        yield
    except OSError as error:
        raise _output_error(target, error) from error
    except OutputError as error:
        if isinstance(error.__cause__, OSError):
            raise _output_error(target, error.__cause__) from error.__cause__
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write a new file; an existing one is an error."""
    with open(path, "xb") as file:
        file.write(content)


def refuse_foreign(out_dir: str | os.PathLike[str]) -> None:
    """Raise unless a result may be put at `out_dir`: a writable place, absent, empty, or wholly a result of ours.

    Cheap: call it before a long analysis.

    Raises
    ------
    OutputError
        Why not, and what to do.
    """
    target = Path(os.path.realpath(out_dir))
    remedy = "choose a folder that does not exist yet"
    with output_errors(target):
        above = next(path for path in target.parents if os.path.lexists(path))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is no folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"no permission to write in {above}")
        if not os.path.lexists(target):
            return
        if not target.is_dir():
            raise OutputError("the output path is not a folder", where=target, remedy=remedy)
        names = sorted(entry.name for entry in target.iterdir())
        if not names:
            return
        if not is_result(target):
            raise OutputError(
                "the output folder holds other files",
                where=target,
                expected="a new or empty folder, or an earlier report",
                found=", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
                remedy=remedy,
            )
        foreign = _foreign(target)
        if foreign is not None:
            raise OutputError(
                "the earlier report holds a file that Scanside did not write",
                where=target,
                found=foreign,
                remedy=f"move that file away, or {remedy}",
            )


def is_result(folder: Path) -> bool:
    """Whether a folder is a report or a study report."""
    for name, start in MARKERS.items():
        with suppress(OSError, ValueError):
            data = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(data, dict) and str(data.get("schema", "")).startswith(start):
                return True
    return False


def _foreign(folder: Path) -> str | None:
    """The first entry of a result folder that is none of ours."""
    study = (folder / "study.json").is_file()
    for entry in sorted(folder.rglob("*")):
        name = entry.relative_to(folder).as_posix()
        if study and _STUDY_FOLDER.match(name) and (entry.is_dir() or "/" in name):
            name = name.partition("/")[2]
        if entry.is_symlink() or (name and not _OURS.fullmatch(name)):
            return entry.relative_to(folder).as_posix()
    return None


def _put_in_place(part: Path, target: Path) -> None:
    for left in reversed(range(_ATTEMPTS)):
        aside: Path | None = None
        try:
            if target.is_dir() and any(target.iterdir()):
                refuse_foreign(target)
                aside = target.with_name(f".{target.name}.old-{secrets.token_hex(6)}")
                os.rename(target, aside)
            elif target.is_dir() and os.name == "nt":
                target.rmdir()
            os.rename(part, target)
        except OutputError:
            if not left:  # else look again: another writer may have been exchanging the folder
                raise
        except OSError as error:
            _put_back(aside, target)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) and part.exists():
                continue  # another writer came between the two renames
            raise
        except BaseException:
            _put_back(aside, target)
            raise
        else:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
            return
    raise OutputError(
        "another program keeps writing to the output folder", where=target, remedy="choose another folder"
    )


def _put_back(aside: Path | None, target: Path) -> None:
    if aside is None or not aside.exists():
        return
    try:
        os.rename(aside, target)
    except OSError:  # another writer's result stands there: that one is newer
        shutil.rmtree(aside, ignore_errors=True)


def _output_error(target: Path, error: OSError) -> OutputError:
    return OutputError(
        "the report cannot be written",
        where=target,
        found=error.strerror or type(error).__name__,
        remedy=_REMEDIES.get(error.errno or 0, "choose another folder"),
    )


def _sync_tree(folder: Path) -> None:
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(path, name))
        _sync(Path(path))


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
