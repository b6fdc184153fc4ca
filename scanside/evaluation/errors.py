"""Errors of evaluation, in the one hierarchy."""

from __future__ import annotations

from scanside.errors import ScansideError


class CohortError(ScansideError):
    """A table of predictions, readings or detections that cannot be used, or a cohort too small to judge (exit 3)."""

    exit_code = 3


class MissingExtraError(ScansideError):
    """The libraries of the `eval` extra are not installed (exit code 4)."""

    exit_code = 4


def require_eval_extra() -> None:
    """Raise unless SciPy and Matplotlib can be imported. Cheap: nothing is loaded.

    Raises
    ------
    MissingExtraError
        One of them is absent.
    """
    from importlib.util import find_spec

    missing = [name for name in ("scipy", "matplotlib") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            "evaluation needs libraries that are not installed",
            expected="scipy and matplotlib",
            found=f"no {' and no '.join(missing)}",
            remedy='install them with pip install "scanside[eval]"',
        )
