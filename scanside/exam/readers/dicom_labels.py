"""Which breast and which view a DICOM header states, and what it says of itself otherwise."""

from __future__ import annotations

from scanside.exam.profiles import sides_in, view_in
from scanside.exam.readers.dicom_header import Header
from scanside.exam.volume import Laterality

_SIDES = {"L": Laterality.LEFT, "R": Laterality.RIGHT}
_TEXTS = ("SeriesDescription", "ProtocolName")


def laterality(header: Header) -> tuple[Laterality, str, tuple[str, ...]]:
    """Side, its source, and warnings.

    The fixed order: frame anatomy in the functional groups (0020,9072), ImageLaterality, Laterality, the words of
    SeriesDescription and ProtocolName. Sources that contradict each other leave the side unknown.
    """
    stated: list[tuple[str, Laterality]] = []
    warnings: list[str] = []
    for source, codes in (
        ("frame anatomy", _frame_codes(header)),
        ("ImageLaterality", {header.code("ImageLaterality")}),
        ("Laterality", {header.code("Laterality")}),
    ):
        stated += [(source, _SIDES[code]) for code in sorted(codes) if code in _SIDES]
    for keyword in _TEXTS:
        stated += [(keyword, side) for side in sorted(sides_in(header.text(keyword)))]
    if not stated:
        return Laterality.UNKNOWN, "none", ()
    if len({side for _, side in stated}) > 1:
        named = ", ".join(f"{source} says {side.value}" for source, side in stated)
        warnings.append(f"the side is unknown: {named}")
        return Laterality.UNKNOWN, "contradictory", tuple(warnings)
    source, side = stated[0]
    return side, source, ()


def view(header: Header) -> str:
    """AP, LAT, MED, SUP or INF from the words of SeriesDescription or ProtocolName, else "unknown"."""
    views = {view_in(header.text(keyword)) for keyword in _TEXTS} - {"unknown"}
    return views.pop() if len(views) == 1 else "unknown"


def remarks(header: Header) -> tuple[str, ...]:
    """Warnings that the header itself asks for."""
    if header.code("BurnedInAnnotation") == "YES":
        return ("the frames hold burned-in annotation (text, marks or calipers)",)
    return ()


def _frame_codes(header: Header) -> set[str]:
    groups = [header.first("SharedFunctionalGroupsSequence"), *header.items("PerFrameFunctionalGroupsSequence")]
    anatomy = [group.first("FrameAnatomySequence") for group in groups if group is not None]
    return {item.code("FrameLaterality") for item in anatomy if item is not None}
