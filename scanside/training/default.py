"""From nothing to a model pack with one seed: cohort -> segmenter -> classifier -> pack."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.errors import UsageError
from scanside.exam.planes import Plane
from scanside.training.busbra import padded
from scanside.training.checkpoint import load_weights
from scanside.training.cohort import STANDARD_PHANTOM, MakePhantom, build_cohort
from scanside.training.cohort_data import PhantomData, cohort_files, read_phantom
from scanside.training.datasets.open import BUSBRA
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe, load_recipe, recipe_from

logger = logging.getLogger(__name__)

# The operating point that `python -m benchmarks operating-point` chose on 16 phantoms used for nothing else (seeds 2020
# to 2035): the most lesions found at no more than 0.75 false positives a volume.
SMOOTHING_MM = 1.2
MIN_DETECTION_SCORE = 0.52
SECTION_BATCH = 8
"""As fast as 16 on the processors measured, and half the working memory."""
GOLDEN_SECTIONS = 2
GOLDEN_TRIPLETS = 8
BUSBRA_CITATION = (
    "W. Gomez-Flores, M. J. Gregorio-Calas, W. Coelho de Albuquerque Pereira: BUS-BRA, a breast ultrasound dataset for "
    "assessing computer-aided diagnosis systems, Medical Physics, 2023"
)


def train_default(
    out: str | Path,
    *,
    busbra: str | Path,
    imagenet: str | Path | None = None,
    seed: int = 0,
    phantom_seeds: Iterable[int] = range(1000, 1096),
    lesions: tuple[int, int] = (2, 9),
    workers: int = 2,
    segmenter: SegmenterRecipe | None = None,
    classifier: ClassifierRecipe | None = None,
    make: MakePhantom = STANDARD_PHANTOM,
) -> Path:
    """Everything in order; returns the pack's folder ``OUT/pack``. Each part continues where a killed run stopped.

    Parameters
    ----------
    busbra, imagenet : path
        Folders of BUS-BRA and of the ResNet50 start weights.
    phantom_seeds : iterable of int
        Never give a seed here that an evaluation uses.
    segmenter, classifier : recipes, optional
        The package's recipes with `seed`, when not given.
    """
    from scanside.training.datasets import open_data
    from scanside.training.run import train_classifier, train_segmenter

    out = Path(out)
    cohort = out / "cohort"
    build_cohort(cohort, phantom_seeds, workers=workers, lesions=lesions, make=make)
    segmenter = segmenter or load_recipe("segmenter", SegmenterRecipe, seed=seed)
    classifier = classifier or load_recipe("classifier", ClassifierRecipe, seed=seed)
    phantoms = open_data(cohort, out)
    pictures = open_data(busbra, out, validation_images=segmenter.validation_images)
    train_segmenter(segmenter, [phantoms, pictures], out)
    train_classifier(classifier, [phantoms], out, imagenet=imagenet)
    return pack_run(out, cohort, out / "pack")


def pack_run(
    run: str | Path, cohort: str | Path, out: str | Path, *, name: str = "scanside-default", version: str = "0.2.0"
) -> Path:
    """Make the pack of both networks trained in `run`; the golden cases come from `cohort`'s last phantoms.

    Raises
    ------
    UsageError
        A training has not finished in `run`.
    CheckpointError
        The weights are damaged.
    """
    from scanside.export.pack import PackParameters, create_pack
    from scanside.models.fusion import FusionClassifier
    from scanside.models.unet import build_segmenter
    from scanside.pack.manifest import Licence

    run = Path(run)
    records = {network: _record(run, network) for network in ("segmenter", "classifier")}
    recipe = recipe_from(records["classifier"]["recipe"], ClassifierRecipe, where=str(run / "classifier.json"))
    segmenter = build_segmenter()
    load_weights(segmenter, run / "segmenter.safetensors")
    classifier = FusionClassifier(
        recipe.backbone,
        recipe.variant,  # type: ignore[arg-type]
        stride_at=records["classifier"]["data"]["stride_at"],
    )
    load_weights(classifier, run / "classifier.safetensors")
    held_out = _last_phantoms(cohort)
    licences = [Licence("weights", "Apache-2.0")]
    if any(BUSBRA in record["data"]["data_sets"] for record in records.values()):
        licences.append(Licence("BUS-BRA (training images)", "MIT-style, with citation", BUSBRA_CITATION))
    return create_pack(
        out,
        segmenter=segmenter.eval(),
        classifier=classifier.eval(),
        name=name,
        version=version,
        sections=golden_sections(held_out),
        triplets=golden_triplets(held_out, recipe),
        provenance=records,
        licences=licences,
        parameters=PackParameters(
            pitch_mm=held_out[0].pitch_mm,
            crop_size=recipe.size,
            margin=recipe.margin,
            frames=recipe.frames,
            smoothing_mm=SMOOTHING_MM,
            min_detection_score=MIN_DETECTION_SCORE,
            section_batch=SECTION_BATCH,
        ),
        card=model_card(name, version, records),
    )


def model_card(name: str, version: str, records: dict[str, dict[str, Any]]) -> str:
    """The pack's card (Markdown), from both trainings' records."""
    text = resources.files("scanside.training").joinpath("card.md").read_text(encoding="utf-8")
    classifier = records["classifier"]
    return text.format(
        name=name,
        version=version,
        variant=classifier["recipe"]["variant"],
        backbone=classifier["recipe"]["backbone"],
        start={"imagenet": "ImageNet"}.get(classifier["data"]["start"], "random"),
        data="\n".join(_data_line(network, records[network]) for network in records),
        reached="\n".join(_validation_line(network, records[network]) for network in records),
    )


def _data_line(network: str, record: dict[str, Any]) -> str:
    sets = (
        f"{data} ({', '.join(f'{len(cases)} {part}' for part, cases in parts.items())})"
        for data, parts in record["data"]["data_sets"].items()
    )
    return f"- {network.capitalize()}, patients or volumes by use: {'; '.join(sets)}."


def _validation_line(network: str, record: dict[str, Any]) -> str:
    scores = (f"{score.replace('_', ' ')} {value:.3f}" for score, value in record["validation"].items())
    return f"- {network.capitalize()}: {', '.join(scores)}."


def golden_sections(phantoms: list[PhantomData]) -> list[NDArray[np.uint8]]:
    """A batch of sections with a lesion for each plane, uint8 [N, 1, H, W], padded as deployed."""
    batches = []
    for plane in Plane:
        chosen = []
        for phantom in phantoms:
            stored = phantom.planes[plane]
            for lesion in np.unique(stored.lesions[:, 1]):
                rows = stored.lesions[stored.lesions[:, 1] == lesion, 0]
                chosen.append(padded(stored.images[rows[len(rows) // 2]]))
        if chosen:
            chosen = [c for c in chosen if c.shape == chosen[0].shape]
            batches.append(np.stack(chosen[:GOLDEN_SECTIONS])[:, None])
    return batches


def golden_triplets(phantoms: list[PhantomData], recipe: ClassifierRecipe) -> list[dict[str, NDArray[np.uint8]]]:
    """One batch of triplets, at most one a lesion, at the deployed margin."""
    from scanside.training.classify import cut_margin

    triplets = [
        [cut_margin(image, recipe.margin, recipe.size) for image in phantom.triplets[lesion, 0, recipe.frames // 2]]
        for phantom in phantoms
        for lesion in range(len(phantom.triplets))
    ][:GOLDEN_TRIPLETS]
    if not triplets:
        return []
    stack = np.ascontiguousarray(np.stack([np.stack(t) for t in triplets]).transpose(1, 0, 2, 3))
    return [{str(plane): stack[p][:, None] for p, plane in enumerate(Plane)}]


def _last_phantoms(cohort: str | Path) -> list[PhantomData]:
    """The cohort's last phantoms, until they hold enough lesions."""
    chosen: list[PhantomData] = []
    for file in reversed(cohort_files(cohort).values()):
        chosen.append(read_phantom(file))
        if sum(len(p.malignant) for p in chosen) >= GOLDEN_TRIPLETS:
            break
    return chosen


def _record(run: Path, network: str) -> dict[str, Any]:
    file = run / f"{network}.json"
    if not file.is_file() or not (run / f"{network}.safetensors").is_file():
        raise UsageError(
            f"the {network} has not been trained to its end",
            where=run,
            expected=f"{network}.safetensors and {network}.json",
            remedy=f"run: scanside train {network} --data DIR --out {run}",
        )
    return json.loads(file.read_text(encoding="utf-8"))
