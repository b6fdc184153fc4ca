"""Golden cases: batches with the PyTorch reference's answers, replayed by any runtime to prove a pack in place."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from scanside.errors import PackError
from scanside.pack.load import Pack


@dataclass(frozen=True)
class GoldenCase:
    """One batch: `inputs` and expected `outputs` by tensor name, and the errors allowed (see `GoldenSpec`)."""

    network: str
    file: str
    inputs: Mapping[str, NDArray]
    outputs: Mapping[str, NDArray]
    max_error: float
    mean_error: float


@dataclass(frozen=True)
class GoldenResult:
    """How far a runtime's answer was from the expected one, in the output's own units."""

    network: str
    file: str
    max_error: float
    mean_error: float
    passed: bool


def golden_cases(pack: Pack) -> Iterator[GoldenCase]:
    """The pack's golden cases, read from verified bytes.

    Raises
    ------
    PackError
        A file is damaged or lacks one of the network's tensors.
    """
    manifest = pack.manifest
    tensors = {
        "segmenter": ((manifest.segmenter.input,), manifest.segmenter.output),
        "classifier": (tuple(manifest.classifier.inputs.values()), manifest.classifier.output),
    }
    for spec in manifest.golden:
        inputs, output = tensors[spec.network]
        where = pack.path / spec.file
        try:
            with NpzFile(io.BytesIO(pack.file_bytes(spec.file)), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in (*inputs, output)}
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            expected = f"an npz with {', '.join((*inputs, output))}"
            raise PackError("no golden case", where=where, expected=expected, found=str(error)) from None
        answers = {output: found.pop(output)}
        yield GoldenCase(spec.network, spec.file, found, answers, spec.max_error, spec.mean_error)


def judge_golden(case: GoldenCase, outputs: Mapping[str, NDArray]) -> GoldenResult:
    """Compare a runtime's `outputs` with what `case` expects. A NaN, or an answer of another shape, fails."""
    worst, means = 0.0, []
    for name, expected in case.outputs.items():
        found = outputs.get(name)
        if found is None or found.shape != expected.shape:
            return GoldenResult(case.network, case.file, float("inf"), float("inf"), False)
        error = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
        worst = float(np.maximum(worst, error.max(initial=0.0)))  # np.maximum keeps a NaN
        means.append(float(error.mean()) if error.size else 0.0)
    mean = float(np.mean(means))
    passed = worst <= case.max_error and mean <= case.mean_error
    return GoldenResult(case.network, case.file, worst, mean, passed)
