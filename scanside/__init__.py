"""Scanside: finds lesions in automated breast volume scanner exams and says how likely each is malignant.

>>> import scanside
>>> report = scanside.load().analyze("exam.dcm")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scanside.engine.flow import Progress
    from scanside.engine.live import Session
    from scanside.engine.predictor import Predictor, Study, load
    from scanside.exam.open import open_exam
    from scanside.report.model import Report

__version__ = "0.1.0"
__all__ = ["Predictor", "Progress", "Report", "Session", "Study", "__version__", "load", "open_exam"]

_HOME = {
    "Predictor": "scanside.engine.predictor",
    "Progress": "scanside.engine.flow",
    "Report": "scanside.report.model",
    "Session": "scanside.engine.live",
    "Study": "scanside.engine.predictor",
    "load": "scanside.engine.predictor",
    "open_exam": "scanside.exam.open",
}


def __getattr__(name: str) -> object:
    if name in _HOME:  # importing scanside loads nothing heavy: each name comes from its home when first used
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
