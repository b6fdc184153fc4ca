"""Ranges of a graph's tensors as JSON that a person can review, keep and give back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scanside.calibration.estimators import ESTIMATORS
from scanside.calibration.histogram import Histogram
from scanside.errors import CalibrationError, PackError
from scanside.pack.strict import json_object, parse, plain

SCHEMA = "scanside-ranges/1"
_REMEDY = "make the ranges again with `scanside calibrate`"


@dataclass(frozen=True)
class TensorRange:
    """What a tensor held in the calibration data: extremes, the magnitude that 8 bits are to hold, and how chosen.

    `samples` counts the sections or triplets behind it.
    """

    tensor: str
    min: float
    max: float
    amax: float
    method: str
    samples: int


@dataclass(frozen=True)
class Ranges:
    """The ranges of one network's graph. `graph_sha256` is of the FP32 graph they were observed in."""

    schema: str
    network: str
    graph_sha256: str
    selection_sha256: str
    tensors: tuple[TensorRange, ...]

    def __post_init__(self) -> None:
        for row in self.tensors:
            if not (row.min <= row.max and math.isfinite(row.amax) and row.amax >= 0):
                raise PackError(
                    "an impossible range",
                    where=row.tensor,
                    expected="min <= max and amax >= 0",
                    found=f"min {row.min:g}, max {row.max:g}, amax {row.amax:g}",
                )

    @property
    def amax(self) -> dict[str, float]:
        """The magnitude each tensor's 8 bits are to hold."""
        return {row.tensor: row.amax for row in self.tensors}

    def to_json(self) -> bytes:
        """The bytes of a ranges file."""
        return (json.dumps(plain(self), indent=1) + "\n").encode()


def estimate(histograms: Mapping[str, Histogram], method: str, samples: int) -> tuple[TensorRange, ...]:
    """The range of each tensor by one of `ESTIMATORS`, numbers rounded to six digits for the reader."""
    rows = []
    for tensor, histogram in histograms.items():
        low, high, amax = (_rounded(v) for v in (histogram.low, histogram.high, ESTIMATORS[method](histogram)))
        rows.append(TensorRange(tensor, low, high, amax, method, samples))
    return tuple(rows)


def read_ranges(path: Path, *, network: str, graph_sha256: str) -> Ranges:
    """The ranges file at `path`, made for this graph.

    Raises
    ------
    CalibrationError
        It cannot be read, is truncated or no ranges file, or belongs to another graph.
    """
    try:
        content = json_object(path.read_bytes(), str(path))
        ranges = parse(Ranges, content, str(path))
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise CalibrationError("the ranges cannot be read", where=path, found=found) from None
    except PackError as error:
        raise CalibrationError(
            error.what, where=error.where, expected=error.expected, found=error.found, remedy=_REMEDY
        ) from None
    stated = {"schema": ranges.schema, "network": ranges.network, "graph_sha256": ranges.graph_sha256}
    for key, expected in {"schema": SCHEMA, "network": network, "graph_sha256": graph_sha256}.items():
        if stated[key] != expected:
            raise CalibrationError(
                f"the ranges have another {key}", where=path, expected=expected, found=stated[key], remedy=_REMEDY
            )
    return ranges


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
