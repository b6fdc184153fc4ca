"""Option texts into values; what makes no sense is a usage error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from scanside.errors import UsageError


def spacing_from(text: str | None) -> tuple[float, float, float] | None:
    """`0.53,0.1,0.19` as (sweep, depth, lateral) mm; None stays None.

    Raises
    ------
    UsageError
        Not three finite, positive numbers within the range a geometry takes.
    """
    if text is None:
        return None
    from scanside.exam.geometry import MAX_SPACING_MM, MIN_SPACING_MM

    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(math.isfinite(v) and MIN_SPACING_MM <= v <= MAX_SPACING_MM for v in values):
        raise UsageError(
            "--spacing makes no sense",
            expected=f"SWEEP,DEPTH,LATERAL in mm, each {MIN_SPACING_MM} to {MAX_SPACING_MM}",
            found=repr(text),
            remedy="for example --spacing 0.53,0.1,0.19",
        )
    return values  # type: ignore[return-value]


def shape_from(text: str) -> tuple[int, int, int]:
    """`318x600x800` as (sweep, depth, lateral) voxels.

    Raises
    ------
    UsageError
        Not three whole numbers from 8 to 4096.
    """
    try:
        values = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(8 <= v <= 4096 for v in values):
        raise UsageError(
            "--shape makes no sense",
            expected="SWEEPxDEPTHxLATERAL, each 8 to 4096",
            found=repr(text),
            remedy="for example --shape 318x600x800",
        )
    return values  # type: ignore[return-value]


def fractions_from(text: str, option: str) -> tuple[float, ...]:
    """`0.485,0.456,0.406` as numbers, one or several.

    Raises
    ------
    UsageError
        Not finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(v) for v in values):
        raise UsageError(
            f"{option} makes no sense",
            expected="a number, or one for each of three colour channels",
            found=repr(text),
            remedy=f"for example {option} 0.5, or {option} 0.485,0.456,0.406",
        )
    return values


def classifier_files(whole: Path | None, by_plane: Mapping[str, Path | None]) -> Path | dict[str, Path]:
    """One file of the whole classifier, or the files given by plane.

    Raises
    ------
    UsageError
        Neither, or both.
    """
    given = {plane: path for plane, path in by_plane.items() if path is not None}
    if (whole is None) == (not given):
        raise UsageError(
            "no classifier" if whole is None else "two classifiers",
            expected="--classifier FILE, or one file a plane with --classifier-transverse and so on",
            found="neither" if whole is None else "both",
        )
    return given if whole is None else whole


def range_from(option: str, text: str) -> tuple[int, int]:
    """`1000:1072` as two whole numbers, the second no smaller.

    Raises
    ------
    UsageError
        Anything else.
    """
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise UsageError(f"{option} makes no sense", expected="two numbers, as in 1000:1072", found=repr(text))
    return int(first), int(last)


def percents_from(text: str) -> tuple[float, ...]:
    """`50,90,99` as percentiles.

    Raises
    ------
    UsageError
        Not numbers above 0 and below 100.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < v < 100 for v in values):
        raise UsageError(
            "--percentiles makes no sense",
            expected="P,P,..., each above 0 and below 100",
            found=repr(text),
            remedy="for example --percentiles 50,90,99",
        )
    return values
