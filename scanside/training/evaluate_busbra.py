"""Dice of a segmenter on the held-out fold of BUS-BRA, by the deployed rule, from PyTorch weights or a pack's graph.

Beside it stands the Dice of two looks: the mean of the probabilities of an image and of its mirror image, which costs
twice the time and is not what is deployed.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import cv2
import numpy as np
from numpy.typing import NDArray

from scanside.errors import EngineError, UsageError
from scanside.evaluation.segmentation import dice
from scanside.training.busbra import LONGER_SIDE, TEST_FOLD, padded, read_busbra, resized
from scanside.training.checkpoint import load_weights, versions, write_json
from scanside.training.errors import TrainingDataError

Probability = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""P(lesion), float32 [rows, columns], of a uint8 image whose sides are multiples of 32."""


@dataclass(frozen=True)
class BusbraDice:
    """What a segmenter reached, over images; a case's Dice is the mean of its images'.

    `missed` counts images without any overlap; classes are the images' pathology; `mean_two_looks` is the mean with the
    mirror image as a second look.
    """

    weights: str
    fold: int
    images: int
    cases: int
    longer_side: int
    threshold: float
    mean: float
    median: float
    mean_by_case: float
    median_by_case: float
    mean_benign: float
    mean_malignant: float
    missed: int
    mean_two_looks: float


def evaluate_busbra(
    weights: str | Path,
    busbra: str | Path,
    out: str | Path,
    *,
    fold: int = TEST_FOLD,
    longer_side: int = LONGER_SIDE,
    threshold: float = 0.5,
) -> BusbraDice:
    """Segment every image of `fold` and compare with its mask on the image's own pixels.

    Writes ``OUT/busbra-fold<fold>-dice.csv`` (id, case, malignant, dice, dice_two_looks) and a summary of the
    same name as JSON.

    Parameters
    ----------
    weights : path
        ``.safetensors``, a checkpoint (its averaged weights are taken), or ``.onnx`` (a pack's segmenter).
    threshold : float
        A pixel belongs to the lesion when its probability, brought back to the image's own pixels, reaches this.

    Raises
    ------
    TrainingDataError
        BUS-BRA is incomplete or the fold holds nothing.
    CheckpointError, EngineError
        The weights or the graph cannot be used.
    """
    weights, out = Path(weights), Path(out)
    images = [v for v in read_busbra(busbra, test_fold=fold) if v.fold == fold]
    if not images:
        raise TrainingDataError("the fold holds no image", where=busbra, expected="1 to 5", found=fold)
    probability = graph_probability(weights) if weights.suffix == ".onnx" else torch_probability(weights)
    rows = []
    for image in images:
        pixels, mask = image.pixels(), image.mask() > 0
        one = native_probability(probability, pixels, longer_side)
        mirrored = native_probability(probability, np.ascontiguousarray(pixels[:, ::-1]), longer_side)[:, ::-1]
        looks = dice(one >= threshold, mask), dice((one + mirrored) / 2 >= threshold, mask)
        rows.append((image.id, image.case, int(image.malignant), looks[0], looks[1]))
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"busbra-fold{fold}-dice.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("id", "case", "malignant", "dice", "dice_two_looks"))
        writer.writerows((*row[:3], f"{row[3]:.4f}", f"{row[4]:.4f}") for row in rows)
    dices = [row[3] for row in rows]
    by_case = [fmean(row[3] for row in rows if row[1] == case) for case in dict.fromkeys(row[1] for row in rows)]
    by_class = [[row[3] for row in rows if row[2] == label] for label in (0, 1)]
    summary = BusbraDice(
        weights=weights.name,
        fold=fold,
        images=len(rows),
        cases=len(by_case),
        longer_side=longer_side,
        threshold=threshold,
        mean=round(fmean(dices), 4),
        median=round(median(dices), 4),
        mean_by_case=round(fmean(by_case), 4),
        median_by_case=round(median(by_case), 4),
        mean_benign=round(fmean(by_class[0]), 4) if by_class[0] else 0.0,
        mean_malignant=round(fmean(by_class[1]), 4) if by_class[1] else 0.0,
        missed=sum(d == 0 for d in dices),
        mean_two_looks=round(fmean(row[4] for row in rows), 4),
    )
    conditions = {"date": datetime.date.today().isoformat(), "versions": versions()}
    write_json(table.with_suffix(".json"), asdict(summary) | conditions)
    return summary


def native_probability(
    probability: Probability, image: NDArray[np.uint8], longer_side: int = LONGER_SIDE
) -> NDArray[np.float32]:
    """P(lesion) on the image's own pixels: resized and padded by the rule of `busbra`, answered, brought back."""
    seen = resized(image, longer_side)
    answer = probability(padded(seen))[: seen.shape[0], : seen.shape[1]]
    way = cv2.INTER_LINEAR if longer_side <= max(image.shape) else cv2.INTER_AREA
    rows, columns = image.shape
    return cv2.resize(np.ascontiguousarray(answer), (columns, rows), interpolation=way)  # type: ignore[return-value]


def torch_probability(weights: Path) -> Probability:
    """The PyTorch segmenter of `weights`."""
    import torch

    from scanside.models.unet import build_segmenter
    from scanside.training.segment import section_probability

    model = build_segmenter()
    load_weights(model, weights)
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def answer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return section_probability(model, image)

    return answer


def graph_probability(graph: Path) -> Probability:
    """The segmenter graph `graph` of a pack, on the CPU provider."""
    import onnxruntime

    if not graph.is_file():
        raise UsageError("no graph here", where=graph)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base for its errors
        raise EngineError("the graph cannot be loaded", where=graph, found=str(error).splitlines()[0]) from None
    name = session.get_inputs()[0].name

    def answer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        levels = session.run(None, {name: image[None, None]})[0]
        return np.asarray(levels[0, 0], np.float32) / np.float32(255)

    return answer
