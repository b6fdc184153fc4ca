"""What a lesion's outline alone says on BUS-BRA: as annotators drew it, and as a UNet draws it that never saw the case.

Nine numbers describe an outline. A logistic regression on them, fitted on four folds, judges the fifth; so does one on
its logit and that of the single-view network's committed predictions together, whose inputs for the four folds come
from models that were trained on the fifth. Both outlines are put to the same test, because a class that shows in how an
outline was drawn helps nobody who has no annotator. Beside it stands the Dice of four looks: the mean of the
probabilities of an image and its mirror image at two sizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.busbra_table import cases_of, performance
from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import RESULTS, Table
from scanside.evaluation.errors import CohortError
from scanside.evaluation.predictions import Classifier, predictions_from_arrays
from scanside.evaluation.roc import paired_delong
from scanside.evaluation.segmentation import dice

SIZES = (160, 192)
"""Longer sides at which a UNet looks at an image."""
DRAWN_BY = ("annotator", "unet")
BANDS = ((4, 8), (8, 16), (16, 32))
"""Waves around the outline, summed by band."""
SAMPLES = 256
SMALLEST = 30
"""Pixels that an outline needs, and among them a square of three; else a disc in the middle stands for it."""


def make_table(busbra: Path, work: Path, predictions: Path, out: Path) -> None:
    """Write busbra-outline.csv (by classifier), busbra-outline-cases.csv and their record into `out`."""
    from scipy.special import expit, logit

    from scanside.training.busbra import read_busbra
    from scanside.training.datasets.open import BUSBRA
    from scanside.training.evaluate_busbra import torch_probability
    from scanside.training.process import denormals_flushed
    from scanside.training.split import TEST
    from scanside.training.start import read_start

    images = read_busbra(busbra, test_fold=1)
    everyone, _ = cases_of(predictions, "resnet50")
    place = {case: i for i, case in enumerate(everyone.case)}
    if (found := {image.case for image in images}) != set(place):
        raise CohortError("the predictions are of other cases", expected=f"{len(found)} of BUS-BRA", found=len(place))
    folds = sorted({image.fold for image in images})
    weights = {fold: work / f"unet-fold{fold}" / "segmenter.safetensors" for fold in folds}
    held_out = {fold: sorted({image.case for image in images if image.fold == fold}) for fold in folds}
    starts = {fold: read_start(file, "segmenter", {BUSBRA: {TEST: held_out[fold]}}) for fold, file in weights.items()}
    shapes: dict[str, list[NDArray[np.float64]]] = {who: [] for who in DRAWN_BY}
    four_looks: dict[int, list[float]] = {fold: [] for fold in folds}
    networks = {fold: torch_probability(file) for fold, file in weights.items()}
    with denormals_flushed():
        for number, image in enumerate(images, start=1):
            pixels, drawn = image.pixels(), image.mask() > 0
            own = looked_at(networks[image.fold], pixels) >= 0.5
            four_looks[image.fold].append(dice(own, drawn))
            for who, mask in zip(DRAWN_BY, (drawn, own), strict=True):
                shapes[who].append(outline(mask))
            if number % 100 == 0:
                print(f"{number} of {len(images)} images", flush=True)
    (single,) = everyone.probability.values()
    network = logit(np.clip(single, 1e-6, 1 - 1e-6))
    of_case = np.array([place[image.case] for image in images])
    fold_of = np.array([int(cohort.removeprefix("fold")) for cohort in everyone.cohort])
    answers = {Classifier("single view"): single}
    for who in DRAWN_BY:
        by_image = left_out(np.stack(shapes[who]), everyone.malignant[of_case], fold_of[of_case])
        alone = np.bincount(of_case, by_image) / np.bincount(of_case)
        both = left_out(np.column_stack([network, alone]), everyone.malignant, fold_of)
        answers |= {Classifier(f"outline by {who}"): expit(alone), Classifier(f"both, outline by {who}"): expit(both)}
    cases = predictions_from_arrays(
        everyone.malignant, answers, case=everyone.case, cohort=everyone.cohort, patient=everyone.patient
    )
    rows = performance(cases, "all")
    for row, probability in zip(rows, answers.values(), strict=True):
        test = paired_delong(everyone.malignant, probability, single)
        row |= {"p": float(f"{test.p:.3g}") if test.difference else "", "minus_single_view": round(test.difference, 4)}
    write_csv(out / "busbra-outline.csv", rows)
    named = {str(who).replace(" ", "_").replace(",", ""): probability for who, probability in answers.items()}
    rows_of_cases = [
        {
            "case": case,
            "label": int(everyone.malignant[i]),
            "cohort": everyone.cohort[i],
            **{name: f"{probability[i]:.4f}" for name, probability in named.items()},
        }
        for i, case in enumerate(everyone.case)
    ]
    write_csv(out / "busbra-outline-cases.csv", rows_of_cases)
    looks = {str(fold): round(fmean(dices), 4) for fold, dices in four_looks.items()}
    record = {
        "sizes": list(SIZES),
        "dice_four_looks": looks | {"over_folds": round(fmean(looks.values()), 4)},
        "fitted_on": "the other four folds; for both together, on answers of models that were trained on the fifth",
        "unet_sha256": {str(fold): start.sha256 for fold, start in starts.items()},
        "p": "paired DeLong against the single view, not corrected for their number",
    }
    write_json(out / "busbra-outline.json", {**conditions(), **record})


def looked_at(probability: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean probability of an image and its mirror image at `SIZES`, on the image's own pixels."""
    from scanside.training.evaluate_busbra import native_probability

    mirror = np.ascontiguousarray(pixels[:, ::-1])
    looks = [native_probability(probability, pixels, size) for size in SIZES]
    looks += [native_probability(probability, mirror, size)[:, ::-1] for size in SIZES]
    return np.mean(looks, axis=0)  # type: ignore[no-any-return]


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Nine numbers [9] of the largest part of a mask.

    Perimeter of the hull by its own, area by that of the hull, circularity, log of width by height, overlap with the
    ellipse fitted to it (Jaccard), waves of the radius by band (`BANDS`), and log of its share of the image.
    """
    part = largest_part(mask)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(contours, key=cv2.contourArea)
    area, length = cv2.contourArea(line), cv2.arcLength(line, True)
    hull = cv2.convexHull(line)
    _, _, width, height = cv2.boundingRect(line)
    ellipse = np.zeros_like(part)
    cv2.ellipse(ellipse, cv2.fitEllipse(line), 1, -1)
    filled = cv2.drawContours(np.zeros_like(part), [line], -1, 1, -1)
    points = line[:, 0].astype(float)
    radius = np.hypot(*(points - points.mean(0)).T)
    around = np.interp(np.linspace(0, len(radius), SAMPLES, endpoint=False), np.arange(len(radius)), radius)
    waves = np.abs(np.fft.rfft(around / around.mean())) / SAMPLES
    return np.array(
        [
            cv2.arcLength(hull, True) / length,
            area / cv2.contourArea(hull),
            4 * np.pi * area / length**2,
            np.log(width / height),
            (ellipse & filled).sum() / (ellipse | filled).sum(),
            *(waves[first:end].sum() for first, end in BANDS),
            np.log(area / mask.size),
        ]
    )


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The largest connected part as 0 and 1, or a small disc in the middle where it is none (see `SMALLEST`)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count > 1 and areas.max() >= SMALLEST:
        part: NDArray[np.uint8] = (labels == 1 + areas.argmax()).astype(np.uint8)
        if cv2.erode(part, np.ones((3, 3), np.uint8)).any():
            return part
    rows, columns = mask.shape
    return cv2.circle(np.zeros(mask.shape, np.uint8), (columns // 2, rows // 2), 5, 1, -1)  # type: ignore[return-value]


def left_out(features: NDArray, malignant: NDArray, fold: NDArray) -> NDArray[np.float64]:
    """Each row's logit [rows] by a logistic regression that was fitted on the rows of all other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    logits = np.zeros(len(features))
    for held in np.unique(fold):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(features[fold != held], malignant[fold != held])
        logits[fold == held] = model.decision_function(features[fold == held])
    return logits


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--busbra", type=Path, required=True, help="folder of BUS-BRA")
    parser.add_argument("--work", type=Path, required=True, help="folder of the weights that busbra-unet left")
    parser.add_argument("--predictions", type=Path, default=RESULTS, help="folder of the folds' predictions")


def minutes(given: Mapping[str, Any]) -> float:
    """Four looks at 1,875 images."""
    return 12


TABLE = Table(
    "busbra-outline",
    "what a lesion's outline alone says on BUS-BRA, drawn by annotators and by the UNets of the folds",
    make_table,
    minutes,
    arguments,
    needs="BUS-BRA and the weights of busbra-unet",
    takes_pack=False,
)
