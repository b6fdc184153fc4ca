"""How far two graphs' answers are apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scanside.errors import EngineError
from scanside.pack.manifest import ExportCheck


def compare(
    network: str,
    compared: str,
    against: str,
    found: Sequence[NDArray],
    expected: Sequence[NDArray],
    *,
    threshold: float | None = None,
) -> ExportCheck:
    """Absolute errors in probability (uint8 answers count 1/255 a level), and the Dice of maps cut at `threshold`.

    Raises
    ------
    EngineError
        The answers differ in shape, there are none, or one holds a NaN.
    """
    if not expected or [a.shape for a in found] != [a.shape for a in expected]:
        raise EngineError(
            "the answers do not match in shape",
            where=f"{network}, {compared}",
            expected=[a.shape for a in expected],
            found=[a.shape for a in found],
        )
    a, b = (np.concatenate([probabilities(x) for x in answers]) for answers in (found, expected))
    error = np.abs(a - b)
    if not np.isfinite(error).all():
        raise EngineError("a network answered NaN", where=f"{network}, {compared}")
    dice = None
    if threshold is not None:
        ours, theirs = a >= threshold, b >= threshold
        total = int(ours.sum() + theirs.sum())
        dice = float(2 * (ours & theirs).sum() / total) if total else 1.0
    items = sum(len(x) for x in expected)
    return ExportCheck(network, compared, against, items, float(error.max()), float(error.mean()), dice)


def probabilities(answer: NDArray) -> NDArray[np.float64]:
    """An answer as probabilities from 0 to 1, flat; uint8 answers count 1/255 a level."""
    values = answer.reshape(-1).astype(np.float64)
    return values / 255 if answer.dtype == np.uint8 else values
