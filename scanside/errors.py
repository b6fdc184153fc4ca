"""The one hierarchy of errors.

Every error says what failed, where, what was expected and found, and what to do next.
The command line prints ``str(error)`` and exits with ``error.exit_code``.
"""

from __future__ import annotations

from typing import Any


class ScansideError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    what : str
        What failed, in one clause ("the exam has no pixel spacing").
    where : str, optional
        The file, volume, graph or tensor concerned. Never a patient's name or id.
    expected, found : str, optional
        What was expected and what was found instead.
    remedy : str, optional
        What to do next.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.found is not None:
            text += f"; found {self.found}" if self.expected is None else f", found {self.found}"
        if self.remedy:
            text += f". {self.remedy[0].upper()}{self.remedy[1:]}"
        return text


class UsageError(ScansideError):
    """A call or a command line that makes no sense (exit code 2)."""

    exit_code = 2


class ExamReadError(ScansideError):
    """An exam that cannot be read, or is refused (exit code 3).

    When nothing in a folder is usable, `refused` holds a `scanside.exam.volume.Refusal` for each file looked at.
    """

    exit_code = 3
    refused: tuple[Any, ...] = ()


class GeometryError(ExamReadError):
    """Spacing, orientation or laterality absent or contradictory (exit code 3)."""


class PackError(ScansideError):
    """A model pack that is damaged, incomplete or of another schema (exit code 4)."""

    exit_code = 4


class CheckpointError(ScansideError):
    """A checkpoint or weight file that is damaged, or belongs to another network or run (exit code 4)."""

    exit_code = 4


class CalibrationError(ScansideError):
    """Calibration data, a selection or ranges that cannot be used (exit code 3)."""

    exit_code = 3


class EngineError(ScansideError):
    """A runtime that is missing, cannot start, or gave an unusable answer (exit code 4)."""

    exit_code = 4


class OutputError(ScansideError):
    """A result that cannot be written (exit code 4)."""

    exit_code = 4


class NotBuiltError(ScansideError):
    """A documented capability that this version does not have yet (exit code 4)."""

    exit_code = 4


class ParityError(ScansideError):
    """A precision without a valid parity certificate (exit code 5)."""

    exit_code = 5


class Cancelled(ScansideError):  # noqa: N818 - a state, not a fault
    """The caller asked for a stop; nothing was written (exit code 130)."""

    exit_code = 130
