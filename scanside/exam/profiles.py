"""The scanners' habits: who made an exam, how sure that is and why, and what the maker's private elements say.

None of the private elements is documented by its maker; what is known of them comes from public readers. So whatever
is taken from them is checked for plausibility and reported in a warning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scanside.exam.volume import Laterality, VendorProfile

if TYPE_CHECKING:
    from scanside.exam.readers.dicom_header import Header

SIEMENS_FRAME = (600, 800)
_GE_CREATORS = ("U-Systems", "General Electric Company 01")
_GE_GROUP = 0x0021
_SIEMENS_VOLUME = ("SIEMENS MED SMS USG S2000 3D VOLUME", "SIEMENS MED SMS USG ANTARES 3D VOLUME")
_SIEMENS_GROUP = 0x0039
_PLAUSIBLE_LATERAL_MM = (20.0, 400.0)
_PLAUSIBLE_DEPTH_MM = (10.0, 150.0)
_CERTAIN = 0.3


@dataclass(frozen=True)
class Habits:
    """What a vendor profile adds to a volume.

    `in_plane_mm` is (depth, lateral) spacing from private elements, `in_plane_source` their names; `hint` completes
    the remedy of a refused geometry; `nipple_mm` is (sweep, depth, lateral) in the volume's mm frame.
    """

    profile: VendorProfile = field(default_factory=VendorProfile)
    in_plane_mm: tuple[float, float] | None = None
    in_plane_source: str = ""
    nipple_mm: tuple[float, float, float] | None = None
    hint: str = ""
    warnings: tuple[str, ...] = ()


def recognise(header: Header, shape: tuple[int, int, int]) -> Habits:
    """The vendor profile of a DICOM header, with what its private elements say of a volume of `shape`."""
    creators = set(header.private_creators())
    manufacturer = header.text("Manufacturer").casefold()
    model = header.text("ManufacturerModelName").casefold()
    siemens = _siemens_marks(manufacturer, model, creators, shape)
    ge = _ge_marks(manufacturer, model, creators)
    if max(sum(siemens.values()), sum(ge.values())) < _CERTAIN:
        return Habits()
    if sum(siemens.values()) >= sum(ge.values()):
        return Habits(_profile("Siemens ACUSON S2000 ABVS", siemens), hint=_siemens_hint(header))
    return _ge_habits(header, shape, _profile("GE Invenia ABUS", ge))


def _profile(name: str, marks: dict[str, float]) -> VendorProfile:
    return VendorProfile(name, round(min(0.95, sum(marks.values())), 2), "; ".join(marks))


def _siemens_marks(
    manufacturer: str, model: str, creators: set[tuple[int, str]], shape: tuple[int, int, int]
) -> dict[str, float]:
    marks: dict[str, float] = {}
    if "siemens" in manufacturer:
        marks["Manufacturer is Siemens"] = 0.3
    if "s2000" in model or "abvs" in model:
        marks["ManufacturerModelName names the S2000 or ABVS"] = 0.4
    if any(creator.startswith("SIEMENS MED SMS USG S2000") for _, creator in creators):
        marks["private elements of the S2000"] = 0.2
    if marks and shape[1:] == SIEMENS_FRAME:
        marks["frames of 600 x 800"] = 0.1
    return marks


def _ge_marks(manufacturer: str, model: str, creators: set[tuple[int, str]]) -> dict[str, float]:
    marks: dict[str, float] = {}
    if re.search(r"\bge\b|general electric|u-systems", manufacturer):
        marks["Manufacturer is GE or U-Systems"] = 0.3
    if model.startswith("invenia") or "abus" in model or "somo" in model:
        marks["ManufacturerModelName names the Invenia, ABUS or somo"] = 0.4
    if any(group == _GE_GROUP and creator in _GE_CREATORS for group, creator in creators):
        marks["private elements of group 0021"] = 0.25
    return marks


def _siemens_hint(header: Header) -> str:
    """The scale elements of the S2000's 3-D block: never used unasked, since nobody has verified them for ABVS."""
    for creator in _SIEMENS_VOLUME:
        scales = [header.private_numbers(_SIEMENS_GROUP, creator, offset) for offset in (0x10, 0x11, 0x12)]
        if all(len(scale) == 1 for scale in scales):
            width, height, depth = (scale[0] for scale in scales)
            return (
                f"the maker's private elements hold scales of {width:g} (width), {height:g} (height) and {depth:g} "
                "(depth), which are unverified: check them against the scanner before you use them"
            )
    return ""


def _ge_habits(header: Header, shape: tuple[int, int, int], profile: VendorProfile) -> Habits:
    def value(offset: int) -> tuple[float, ...]:
        for creator in _GE_CREATORS:
            numbers = header.private_numbers(_GE_GROUP, creator, offset)
            if numbers:
                return numbers
        return ()

    warnings = []
    probe, track = value(0x40), value(0x41)
    if probe and probe[0] != 0:
        warnings.append(
            f"the probe is curved (radius {probe[0]:g} mm) and the frames are in beam space: "
            "lateral distances grow wrong with depth"
        )
    if track and track[0] != 0:
        warnings.append(
            f"the probe's track is curved (radius {track[0]:g} mm): distances along the sweep grow wrong with depth"
        )
    nipple = value(0x20)
    nipple_mm = (nipple[2], nipple[1], nipple[0]) if len(nipple) == 3 and any(nipple) else None
    in_plane = _ge_in_plane(value(0x63), value(0x62), shape)
    return Habits(profile, in_plane, "private ScanDepthCm and LineDensity", nipple_mm, warnings=tuple(warnings))


def _ge_in_plane(
    depth_cm: tuple[float, ...], lines_a_mm: tuple[float, ...], shape: tuple[int, int, int]
) -> tuple[float, float] | None:
    if len(depth_cm) != 1 or len(lines_a_mm) != 1 or lines_a_mm[0] <= 0:
        return None
    depth_mm, lateral_mm = depth_cm[0] * 10, shape[2] / lines_a_mm[0]
    plausible = (
        _PLAUSIBLE_DEPTH_MM[0] <= depth_mm <= _PLAUSIBLE_DEPTH_MM[1]
        and _PLAUSIBLE_LATERAL_MM[0] <= lateral_mm <= _PLAUSIBLE_LATERAL_MM[1]
    )
    return (depth_mm / shape[1], lateral_mm / shape[2]) if plausible else None


_VIEWS = r"(?:AP|LAT(?:ERAL)?|MED(?:IAL)?|SUP(?:ERIOR)?|INF(?:ERIOR)?)"
_SIDE_WORDS = re.compile(
    rf"(?<![A-Z])(?:(?P<left>LEFT|LT|LINKS)|(?P<right>RIGHT|RT|RECHTS))(?={_VIEWS}?(?![A-Z]))"
    rf"|(?<![A-Z0-9])(?:(?P<l>L)|(?P<r>R))(?={_VIEWS}?(?![A-Z0-9]))|(?P<zuo>左)|(?P<you>右)"
)
_VIEW_WORDS = re.compile(rf"(?<![A-Z])(?:LEFT|RIGHT|LT|RT|L|R)?({_VIEWS})(?![A-Z])")


def sides_in(text: str) -> set[Laterality]:
    """The sides a description names ("RIGHT AP", "LMED", "r_lat"): none, one, or both."""
    sides = set()
    for match in _SIDE_WORDS.finditer(text.upper()):
        sides.add(Laterality.LEFT if match["left"] or match["l"] or match["zuo"] else Laterality.RIGHT)
    return sides


def view_in(text: str) -> str:
    """The one view a description names (AP, LAT, MED, SUP or INF), else "unknown"."""
    views = {word if (word := match[1]) == "AP" else word[:3] for match in _VIEW_WORDS.finditer(text.upper())}
    return views.pop() if len(views) == 1 else "unknown"
