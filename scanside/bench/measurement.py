"""What one benchmark says: conditions, percentiles, a rate, single figures and the stage table; and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scanside.bench.statistics import Percentile

SCHEMA = "scanside-bench/1"


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline: how long it worked in the median run, and its share of the run's wall time."""

    name: str
    busy_ms: float
    share_of_wall: float


@dataclass(frozen=True)
class Measurement:
    """The outcome of a benchmark.

    Times are wall milliseconds. `rate` is in `rate_unit`. `figures` are single numbers with the unit in their names,
    None where this machine does not tell. `trace` holds the Chrome trace events of the median run.
    """

    what: str
    conditions: Mapping[str, Any]
    samples_ms: tuple[float, ...]
    percentiles: tuple[Percentile, ...]
    rate: float
    rate_unit: str
    checked: int
    figures: Mapping[str, float | str | None]
    stages: tuple[Stage, ...] = ()
    slowdowns: Mapping[str, Any] = field(default_factory=dict)
    trace: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The measurement and its conditions in one word: `exam-cpu2-avx512amx-bf16-exact`."""
        return f"{self.what}-{self.conditions['name']}"

    def to_json(self) -> dict[str, Any]:
        """The measurement as `--json` prints it, without the trace."""
        return {
            "schema": SCHEMA,
            "what": self.what,
            "conditions": dict(self.conditions),
            "repetitions": len(self.samples_ms),
            "checked_answers": self.checked,
            "latency_ms": {f"p{p.percent:g}": _interval(p) for p in self.percentiles},
            "rate": self.rate,
            "rate_unit": self.rate_unit,
            "figures": dict(self.figures),
            "stages": [asdict(stage) for stage in self.stages],
            "slowdowns": dict(self.slowdowns),
            "samples_ms": list(self.samples_ms),
        }


def _interval(p: Percentile) -> dict[str, float]:
    return {"value": p.value, "ci95_low": p.low, "ci95_high": p.high}


def write_trace(measurement: Measurement, path: str | Path) -> None:
    """Write the Chrome trace (chrome://tracing, Perfetto) of the median run, replaced atomically.

    Raises
    ------
    UsageError
        This benchmark has no trace.
    OutputError
        It cannot be written.
    """
    import json

    from scanside.errors import UsageError
    from scanside.exam.write import atomic_file

    if not measurement.trace:
        raise UsageError(f"`bench {measurement.what}` has no trace", remedy="`scanside bench exam --trace FILE` has")
    with atomic_file(Path(path)) as file:
        file.write(json.dumps({"traceEvents": list(measurement.trace)}).encode())


def stage_table(busy_ms: Mapping[str, float], wall_ms: float, order: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of one run in pipeline order."""
    return tuple(Stage(name, busy_ms[name], busy_ms[name] / wall_ms) for name in order if name in busy_ms)
