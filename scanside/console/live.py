"""What `scanside live` shows while the sweep goes on: a table that is redrawn, or one JSON line an event."""

from __future__ import annotations

import json
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scanside.console.progress import Step

if TYPE_CHECKING:
    from scanside.report.model import Lesion, Report


class LiveLines:
    """One JSON object a line on stdout: ``lesions`` whenever they change, ``report`` at the end."""

    def __init__(self) -> None:
        self._frames = 0

    def __enter__(self) -> LiveLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put away."""

    def on_progress(self, step: Step) -> None:
        """Note how many frames have come."""
        if step.stage == "decode":
            self._frames = step.done

    def on_lesions(self, lesions: tuple[Lesion, ...]) -> None:
        """Print the findings so far."""
        from scanside.report.json import lesion_json

        self._print({"event": "lesions", "frames": self._frames, "lesions": [lesion_json(v) for v in lesions]})

    def on_report(self, report: Report) -> None:
        """Print the report."""
        from scanside.report.json import to_json

        self._print({"event": "report", "report": to_json(report)})

    def _print(self, content: dict[str, Any]) -> None:
        print(json.dumps(content, allow_nan=False), flush=True)


class LiveTable:
    """The findings so far as a table, redrawn in place on a terminal; elsewhere one line a change on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._done: dict[str, tuple[int, int]] = {}
        self._lesions: tuple[Lesion, ...] = ()
        self._live: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, get_renderable=self._drawn)

    def __enter__(self) -> LiveTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_progress(self, step: Step) -> None:
        """Note how far a stage is; drawn four times a second."""
        with self._lock:
            self._done[step.stage] = (step.done, step.total)

    def on_lesions(self, lesions: tuple[Lesion, ...]) -> None:
        """Show the findings so far."""
        with self._lock:
            self._lesions = lesions
            frames, total = self._done.get("decode", (0, 0))
        if self._live is None and not self._quiet:
            malignant = sum(lesion.malignant for lesion in lesions)
            print(f"frame {frames}/{total}: {len(lesions)} lesions, {malignant} malignant", file=sys.stderr, flush=True)

    def on_report(self, report: Report) -> None:
        """Print the findings on stdout."""
        from scanside.console.tables import print_findings

        if self._live is not None:
            self._live.stop()
        print_findings(report)

    def _drawn(self) -> Any:
        from scanside.console.tables import lesion_table

        with self._lock:
            words = "   ".join(f"{stage} {done}/{total}" for stage, (done, total) in self._done.items())
            return lesion_table(self._lesions, words or "waiting for the first frame")
