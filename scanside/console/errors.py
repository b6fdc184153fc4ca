"""One place where an error becomes a message on stderr and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from scanside.errors import Cancelled, ScansideError

BUG_REMEDY = "run it again with SCANSIDE_DEBUG=1 and report the traceback"


def debugging() -> bool:
    """Whether tracebacks were asked for."""
    return os.environ.get("SCANSIDE_DEBUG", "") not in ("", "0")


class Verbs(TyperGroup):
    """The root command: every error that leaves a verb is printed once, without a traceback, with its exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line. Usage errors (exit code 2) are Typer's own."""
        with _silent_libraries():
            try:
                return super().main(*args, **kwargs)
            except ScansideError as error:
                code = report_error(error)
            except Exception as error:  # whatever is left is a bug of ours, and the user hears so
                code = report_bug(error)
        sys.exit(code)


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """No warnings or log lines of libraries on stderr, unless debugging: they can quote a header's values."""
    if debugging():
        yield
        return
    silence = logging.NullHandler()
    logging.getLogger().addHandler(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silence)


def report_error(error: ScansideError) -> int:
    """Print one message for `error`; the exit code that belongs to it."""
    if debugging():
        traceback.print_exception(error, file=sys.stderr)
    label = "stopped" if isinstance(error, Cancelled) else "error"
    print(f"{label}: {error}", file=sys.stderr)
    return error.exit_code


def report_bug(error: Exception) -> int:
    """Print that this is a bug, and how to report it; its text could hold header values, so only its type is shown."""
    if debugging():
        traceback.print_exception(error, file=sys.stderr)
    frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    place = f" at {os.path.basename(frame.filename)}:{frame.lineno}" if frame else ""
    print(f"error: this is a bug in scanside: {type(error).__name__}{place}; {BUG_REMEDY}", file=sys.stderr)
    return 1
