"""What TensorRT tells while it works: log lines kept, progress passed on, a wish to stop handed in.

The classes derive from the module's own, so they are made for one module at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from scanside.engine.tensorrt.module import TensorRt

OnStep = Callable[[float], object]
KEPT_LINES = 20_000


class Log:
    """The lines a logger wrote, "INFO text", the verbose ones left out."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)

    def last_errors(self, count: int = 2) -> str:
        """The last lines that say an error, or the empty string."""
        errors = [line.split(" ", 1)[1] for line in tuple(self.lines) if line.startswith(("ERROR", "INTERNAL_ERROR"))]
        return "; ".join(error[:300] for error in errors[-count:])


def logger(trt: TensorRt, log: Log) -> Any:
    """An ILogger that writes into `log`."""
    kept = {getattr(trt.api.ILogger, name): name for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")}

    class Lines(trt.api.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.api.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            name = kept.get(severity)
            if name is not None:
                log.lines.append(f"{name} {message}")

    return Lines()


def monitor(trt: TensorRt, on_step: OnStep, stop: threading.Event) -> Any:
    """An IProgressMonitor that gives `on_step` the fraction done (0 to 1) and ends the build once `stop` is set."""
    phases = Phases()

    class Steps(trt.api.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.api.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            # An exception must not run through TensorRT: whatever goes wrong here stops the build instead.
            try:
                on_step(phases.step(name, step))
            except BaseException:
                stop.set()
            return not stop.is_set()

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Steps()


class Phases:
    """Nested phases as one fraction that never goes back. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, list[Any]] = {}  # name -> [parent, steps, steps done]
        self._furthest = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins, as one step of `parent`."""
        with self._lock:
            self._open[name] = [parent, max(1, steps), 0]

    def step(self, name: str, step: int) -> float:
        """Step number `step` (from 0) of a phase is done; the fraction of everything that is."""
        with self._lock:
            if name in self._open:
                self._open[name][2] = min(step + 1, self._open[name][1])
            root = next((n for n, (parent, _, _) in self._open.items() if parent not in self._open), None)
            self._furthest = max(self._furthest, 0.0 if root is None else self._fraction(root))
            return self._furthest

    def finish(self, name: str) -> None:
        """The phase is over."""
        with self._lock:
            self._open.pop(name, None)

    def _fraction(self, name: str) -> float:
        _, steps, done = self._open[name]
        inside = max((self._fraction(n) for n, (parent, _, _) in self._open.items() if parent == name), default=0.0)
        return min(1.0, (done + inside * (done < steps)) / steps)
