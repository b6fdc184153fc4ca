"""The fastest of some precisions of one network on this device: measured once, then remembered in the user's cache.

A few batches of the real shapes go through each in turn, so that a busy machine slows all alike; the median decides.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scanside.engine.folders import cache_folder
from scanside.errors import ScansideError
from scanside.exam.write import atomic_file

SCHEMA = "scanside-precision/1"
ROUNDS = 5

Run = Callable[[], object]
"""One batch through a loaded network."""


def fastest(
    precisions: Sequence[str],
    load: Callable[[str], contextlib.AbstractContextManager[Run]],
    subject: Mapping[str, Any],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[str, tuple[str, ...]]:
    """The fastest of `precisions`, and a remark for each that does not run; what is remembered is not measured again.

    Parameters
    ----------
    precisions : sequence of str
        The candidates; the first wins a draw, and must run.
    load : callable
        From a precision to a context manager of one batch's run. All are open at once while measuring.
    subject : mapping
        Plain JSON: everything that decides the outcome. Its hash is the memory's key.

    Raises
    ------
    ScansideError
        The first of `precisions` does not run.
    """
    file = memory_file(subject)
    remembered = _remembered(file, subject)
    if remembered is not None and remembered in precisions:
        return remembered, ()
    seconds, remarks = _measured(precisions, load, clock)
    best = min(seconds, key=seconds.__getitem__)
    if remarks:  # a plan not built yet, memory taken by others: another day it may run
        return best, remarks
    with contextlib.suppress(OSError, ScansideError):  # a folder that cannot be written: measured again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        ms = {precision: round(1000 * s, 3) for precision, s in seconds.items()}
        content = {"schema": SCHEMA, "subject": dict(subject), "precision": best, "ms_a_batch": ms}
        with atomic_file(file) as stream:
            stream.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    return best, ()


def memory_file(subject: Mapping[str, Any]) -> Path:
    """Where the choice for `subject` is remembered."""
    digest = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "precisions" / f"{digest[:32]}.json"


def _remembered(file: Path, subject: Mapping[str, Any]) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema"] == SCHEMA and content["subject"] == json.loads(json.dumps(subject)):
            return str(content["precision"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # absent or damaged: measured again
    return None


def _measured(
    precisions: Sequence[str],
    load: Callable[[str], contextlib.AbstractContextManager[Run]],
    clock: Callable[[], float],
) -> tuple[dict[str, float], tuple[str, ...]]:
    with contextlib.ExitStack() as stack:
        runs: dict[str, Run] = {}
        remarks = []
        for precision in precisions:
            try:
                run = stack.enter_context(load(precision))
                run()  # the first run makes buffers and kernels
            except ScansideError as error:
                if precision == precisions[0]:
                    raise
                remarks.append(f"{precision} is certified and does not run: {error.what}")
            else:
                runs[precision] = run
        samples: dict[str, list[float]] = {precision: [] for precision in runs}
        for _ in range(ROUNDS):
            for precision, run in runs.items():
                start = clock()
                run()
                samples[precision].append(clock() - start)
    return {precision: statistics.median(times) for precision, times in samples.items()}, tuple(remarks)
