"""How often a benchmark repeats, and the conditions it records."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import scanside
from scanside.bench.machine import conditions_name, machine_record, package_versions
from scanside.bench.statistics import repetitions_for, require_repetitions
from scanside.engine.predictor import Predictor
from scanside.errors import UsageError

OnRepetition = Callable[[int, int], object]


@dataclass(frozen=True)
class Plan:
    """Percentiles to report, timed repetitions, and untimed ones before."""

    percents: tuple[float, ...]
    repetitions: int
    warm_up: int = 1

    @classmethod
    def of(cls, percents: Sequence[float], *, repetitions: int | None = None, warm_up: int = 1) -> Plan:
        """A plan; without `repetitions` as many as the percentiles need.

        Raises
        ------
        UsageError
            No percentile, too few repetitions for one, or no warm-up (first runs make sessions).
        """
        if not percents:
            raise UsageError("no percentile to measure", remedy="for example --percentiles 50,90")
        if warm_up < 1:
            raise UsageError("a benchmark warms up at least once", expected="1 or more", found=warm_up)
        count = max(map(repetitions_for, percents)) if repetitions is None else repetitions
        require_repetitions(count, percents)
        return cls(tuple(sorted(set(percents))), count, warm_up)


def conditions_of(predictor: Predictor) -> dict[str, Any]:
    """What ran where: the name results files carry, runtime, precision, policy, pack, machine, versions, date."""
    record = predictor.device
    device = "cuda" if record.runtime.startswith(("onnxruntime/cuda", "tensorrt")) else "cpu"
    return {
        "name": conditions_name(device, predictor.threads, record.precision, predictor.policy),
        "device": device,
        "runtime": record.runtime,
        "precision": record.precision,
        "policy": predictor.policy,
        "threads": predictor.threads,
        "device_name": record.name,
        "fallbacks": list(record.fallbacks),
        "pack": {
            "name": predictor.pack.manifest.name,
            "version": predictor.pack.manifest.version,
            "sha256": predictor.pack.sha256,
        },
        "machine": machine_record(),
        "scanside": scanside.__version__,
        "versions": package_versions(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }
