"""What is finished already: rows of a table, and tables of a run of all, kept on disk the moment each is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import write_csv
from scanside.bench.machine import package_versions
from scanside.errors import OutputError


def require_folder(folder: Path) -> None:
    """Make `folder`, and raise now if it cannot be written rather than after an hour.

    Raises
    ------
    OutputError
        It cannot.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            "results cannot be written here",
            where=folder,
            found=error.strerror or type(error).__name__,
            remedy="choose another folder with --out",
        ) from error


class Rows:
    """Rows of `<table>.csv`, each on disk as soon as it is added, in `.<table>.rows.jsonl` beside it.

    Parameters
    ----------
    table : Path
        Where the finished table goes.
    key : sequence of str
        Columns that name a row.
    made_with : mapping
        Arguments, pack and source. Rows made with other ones, or with other versions of the packages that decide, are
        not taken over.
    """

    def __init__(self, table: Path, key: Sequence[str], made_with: Mapping[str, Any]) -> None:
        self.table, self._key = table, tuple(key)
        self._file = table.with_name(f".{table.stem}.rows.jsonl")
        header = json.dumps({**made_with, "versions": package_versions()}, sort_keys=True, default=str)
        self.rows = self._earlier(header)
        if not self.rows:
            self._write("w", header)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return any(tuple(row[name] for name in self._key) == key for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one finished row.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        kept = json.loads(json.dumps(row))
        self._write("a", json.dumps(kept))
        self.rows.append(kept)

    def finish(self, rows: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Write the table (of `rows`, or of all that were added) and forget the kept rows."""
        write_csv(self.table, self.rows if rows is None else rows)
        self._file.unlink(missing_ok=True)

    def _earlier(self, header: str) -> list[dict[str, Any]]:
        try:
            first, *lines = self._file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        if first != header:
            return []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:  # the machine stopped in the middle of this line: the row is made again
                break
        self._write("w", "\n".join([header, *map(json.dumps, rows)]))
        return rows

    def _write(self, mode: str, line: str) -> None:
        try:
            with open(self._file, mode, encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError("a finished row cannot be kept", where=self._file, found=error.strerror) from error


class Done:
    """Names, one a line, that survive an interruption."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __contains__(self, name: str) -> bool:
        return name in (self._file.read_text(encoding="utf-8").split() if self._file.is_file() else [])

    def add(self, name: str) -> None:
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(name + "\n")

    def forget(self) -> None:
        """All is done: the next run starts anew."""
        self._file.unlink(missing_ok=True)
