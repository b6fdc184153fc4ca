"""The paper's statistics for any cohort, and found lesions against known ones.

>>> from scanside.evaluation import confusion, delong, read_predictions  # doctest: +SKIP
>>> cohort = read_predictions("predictions.csv")  # doctest: +SKIP

`evaluate_to_folder` does what `scanside evaluate` does. Everything else is one function or typed result a statistic,
from the module named in `_HOME`; nothing is loaded before it is used. Needs the `eval` extra, except for the matching.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scanside.evaluation.agreement import Kappa, cohen_kappa, fleiss_kappa
    from scanside.evaluation.curves import Calibration, DecisionCurve, calibration, decision_curve
    from scanside.evaluation.detection import Detections, Froc, froc, read_detections, sensitivity_by_size
    from scanside.evaluation.diagnosis import Confusion, Interval, Proportion, confusion
    from scanside.evaluation.errors import CohortError, MissingExtraError
    from scanside.evaluation.evaluate import Evaluation, evaluate_cohorts, evaluate_to_folder
    from scanside.evaluation.matching import Match, Matches, load_truth, match_truth
    from scanside.evaluation.paired import McNemar, PairedT, holm, mcnemar, paired_t
    from scanside.evaluation.predictions import Classifier, Predictions, predictions_from_arrays, read_predictions
    from scanside.evaluation.readings import Reading, read_readings
    from scanside.evaluation.resampling import Bootstrap
    from scanside.evaluation.roc import Auc, AucDifference, Roc, auc, delong, paired_delong, roc_curve
    from scanside.evaluation.segmentation import dice, hd95

__all__ = [
    "Auc",
    "AucDifference",
    "Bootstrap",
    "Calibration",
    "Classifier",
    "CohortError",
    "Confusion",
    "DecisionCurve",
    "Detections",
    "Evaluation",
    "Froc",
    "Interval",
    "Kappa",
    "Match",
    "Matches",
    "McNemar",
    "MissingExtraError",
    "PairedT",
    "Predictions",
    "Proportion",
    "Reading",
    "Roc",
    "auc",
    "calibration",
    "cohen_kappa",
    "confusion",
    "decision_curve",
    "delong",
    "dice",
    "evaluate_cohorts",
    "evaluate_to_folder",
    "fleiss_kappa",
    "froc",
    "hd95",
    "holm",
    "load_truth",
    "match_truth",
    "mcnemar",
    "paired_delong",
    "paired_t",
    "predictions_from_arrays",
    "read_detections",
    "read_predictions",
    "read_readings",
    "roc_curve",
    "sensitivity_by_size",
]

_HOME = {
    "agreement": ("Kappa", "cohen_kappa", "fleiss_kappa"),
    "curves": ("Calibration", "DecisionCurve", "calibration", "decision_curve"),
    "detection": ("Detections", "Froc", "froc", "read_detections", "sensitivity_by_size"),
    "diagnosis": ("Confusion", "Interval", "Proportion", "confusion"),
    "errors": ("CohortError", "MissingExtraError"),
    "evaluate": ("Evaluation", "evaluate_cohorts", "evaluate_to_folder"),
    "matching": ("Match", "Matches", "load_truth", "match_truth"),
    "paired": ("McNemar", "PairedT", "holm", "mcnemar", "paired_t"),
    "predictions": ("Classifier", "Predictions", "predictions_from_arrays", "read_predictions"),
    "readings": ("Reading", "read_readings"),
    "resampling": ("Bootstrap",),
    "roc": ("Auc", "AucDifference", "Roc", "auc", "delong", "paired_delong", "roc_curve"),
    "segmentation": ("dice", "hd95"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
