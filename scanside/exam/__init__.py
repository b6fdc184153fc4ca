"""What the scanner made: volumes, their geometry in mm, and the planes cut from them."""

from scanside.exam.geometry import Box, Geometry
from scanside.exam.volume import Exam, Laterality, VendorProfile, Verdict, Volume, VolumeInfo

__all__ = ["Box", "Exam", "Geometry", "Laterality", "VendorProfile", "Verdict", "Volume", "VolumeInfo", "open_exam"]


def __getattr__(name: str) -> object:
    if name == "open_exam":  # readers pull in pydicom: only when asked for
        from scanside.exam.open import open_exam

        return open_exam
    raise AttributeError(name)
