"""The typed result of an evaluation, from which every table and figure is made."""

from __future__ import annotations

from dataclasses import dataclass

from scanside.evaluation.accuracy import Accuracy
from scanside.evaluation.detection import Detections
from scanside.evaluation.predictions import Classifier, Predictions
from scanside.evaluation.readings import Reading


@dataclass(frozen=True)
class Evaluation:
    """Attributes.

    predictions : Predictions
        All cohorts.
    index : Classifier
        The classifier that the others and the readers are compared with.
    accuracies : tuple of Accuracy
        Of every classifier in every cohort that it saw.
    readings : tuple of Reading
        Empty without readers.
    detections : Detections or None
        Of whole volumes, where given.
    rounds, seed : int
        Of the bootstrap.
    """

    predictions: Predictions
    index: Classifier
    accuracies: tuple[Accuracy, ...]
    readings: tuple[Reading, ...]
    detections: Detections | None
    rounds: int
    seed: int

    def accuracy(self, cohort: str, classifier: Classifier | None = None) -> Accuracy | None:
        """Of one classifier, the index one by default; None in a cohort that it did not see."""
        wanted = classifier or self.index
        return next((a for a in self.accuracies if (a.cohort, a.classifier) == (cohort, wanted)), None)

    @property
    def several_cohorts(self) -> bool:
        return len(self.predictions.cohorts) > 1

    @property
    def clustered(self) -> bool:
        """Whether a patient has several lesions in a cohort."""
        cohorts = (self.predictions.of_cohort(name) for name in self.predictions.cohorts)
        return any(cohort.n_patients < len(cohort) for cohort in cohorts)
