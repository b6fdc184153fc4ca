"""Which seeds of the phantom are for what: ranges that never meet.

An exam is fixed by its seed, so a seed on both sides of a training would be a leak. Where a lesion does not fit, the
exam of the seed plus a multiple of 1,000,000 is taken instead (`make_lesion`); all ranges lie below that.
"""

from __future__ import annotations

from scanside.errors import UsageError

NEXT_SEED = 1_000_000
"""What is added to a seed whose lesion does not fit."""

WHOLE_TRAINING = range(1000, 3000)
"""Whole exams for training and for the choice of the operating point."""
WHOLE_EVALUATION = range(5000, 20_000)
"""Whole exams for evaluation, the demonstration and the benchmarks."""
LESIONS_A = range(20_000, 22_000)
"""Lesions of hospital A: training, validation and test, in this order."""
LESIONS_B = range(22_000, 23_000)
LESIONS_C = range(23_000, 24_000)
LESIONS_PARITY = range(24_000, 30_000)
"""Lesions of hospital A for parity certificates."""

RANGES = (WHOLE_TRAINING, WHOLE_EVALUATION, LESIONS_A, LESIONS_B, LESIONS_C, LESIONS_PARITY)
HELD_OUT = (WHOLE_EVALUATION, LESIONS_A, LESIONS_B, LESIONS_C, LESIONS_PARITY)
"""What evaluates or certifies, or holds a part that does: nothing is calibrated on it."""


def held_out(seed: int) -> bool:
    """Whether an exam of this seed, or of one that stands in for it, is kept for evaluation or parity."""
    return any(seed % NEXT_SEED in seeds for seeds in HELD_OUT)


def phantoms_named(text: str, option: str) -> tuple[range, tuple[int, int, int] | None]:
    """The seeds, and the shape if one is stated, of `phantom:FIRST:END[:SWEEPxDEPTHxLATERAL]`, given to `option`.

    Raises
    ------
    UsageError
        It is none.
    """
    parts = text.split(":")[1:]
    try:
        first, end = int(parts[0]), int(parts[1])
        shape = tuple(int(n) for n in parts[2].split("x")) if len(parts) == 3 else None
        if len(parts) > 3 or first < 0 or end <= first or (shape is not None and len(shape) != 3):
            raise ValueError
    except (ValueError, IndexError):
        expected = "phantom:FIRST:END[:SWEEPxDEPTHxLATERAL]"
        raise UsageError("no range of phantoms", where=option, expected=expected, found=repr(text)) from None
    return range(first, end), shape  # type: ignore[return-value]
