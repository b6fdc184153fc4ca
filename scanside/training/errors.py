"""Errors of training, in the one hierarchy."""

from __future__ import annotations

from scanside.errors import CheckpointError, ScansideError

__all__ = ["CheckpointError", "LeakError", "TrainingDataError"]


class TrainingDataError(ScansideError):
    """A cohort or data set that is absent, damaged or of another layout (exit code 3)."""

    exit_code = 3


class LeakError(TrainingDataError):
    """A case or phantom that is on both sides of a split (exit code 3)."""
