"""From what a training left to a model pack that `scanside analyze` runs; what `scanside export` does.

The network, its input and how its weights came to be are in the record beside the weights. A network that was not
trained, and every value that no training states (the operating point, the crop rule), is another pack's: the base.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from scanside.errors import CheckpointError, UsageError
from scanside.export.pack import PackParameters, create_pack
from scanside.models.fusion import FusionClassifier
from scanside.models.unet import Segmenter, build_segmenter
from scanside.models.weights import put, read_tensors, weight_files, weights_sha256
from scanside.pack import NETWORKS, Pack, load_pack
from scanside.pack.manifest import Licence
from scanside.pack.write import refuse_foreign
from scanside.pack_from_weights import GOLDEN, golden_phantoms, golden_sections, golden_triplets
from scanside.training.datasets.open import BUSBRA
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe, SgdRecipe, ViewsRecipe, recipe_from
from scanside.training.split import TEST, TRAIN, VALIDATION
from scanside.training.start import IMAGENET, RANDOM, SINGLE_PLANES, is_training_record, trained_stride, training_record

BUSBRA_LICENCE = Licence(
    "BUS-BRA (training images)",
    "MIT-style, with citation",
    "W. Gomez-Flores, M. J. Gregorio-Calas, W. Coelho de Albuquerque Pereira: BUS-BRA, a breast ultrasound dataset for "
    "assessing computer-aided diagnosis systems, Medical Physics, 2023",
)
NO_PATIENTS_VOLUMES = {"phantom", "phantom lesions", BUSBRA, "BUSI"}
"""Data sets without a single ABVS volume of a patient."""
STARTS = {
    IMAGENET: "ImageNet",
    "single view": "single-view",
    SINGLE_PLANES: "single-plane",
    "trained segmenter": "another training's",
    "trained classifier": "another training's",
}
"""How the card calls the weights that a training started from; else they were random."""
OF_BASE = " of the base pack"


@dataclass(frozen=True)
class Training:
    """How a network came to be: the record of its training, and the recipe in it."""

    record: Mapping[str, Any]
    recipe: SegmenterRecipe | SgdRecipe

    @property
    def network(self) -> str:
        """Which of the two it is: "segmenter" or "classifier"."""
        return "segmenter" if isinstance(self.recipe, SegmenterRecipe) else "classifier"

    def data_sets(self) -> dict[str, dict[str, int]]:
        """How many patients or volumes of each data set had each use: in this training, or in its starts' alone."""
        data = self.record["data"]
        sets = {BUSBRA: data["busbra"]} if "busbra" in data else data.get("data_sets", {})
        uses = {name: {part: len(cases) for part, cases in parts.items()} for name, parts in sets.items()}
        for name, patients in data.get("start_seen", {}).items():
            if before := set(patients) - set(sets.get(name, {}).get(TRAIN, ())):
                uses.setdefault(name, {})["train of the start alone"] = len(before)
        return uses


@dataclass(frozen=True)
class Trained(Training):
    """A trained network: beside its training, the file of its weights."""

    weights: Path

    def model(self) -> Segmenter | FusionClassifier:
        """The network with its weights, in eval mode.

        Raises
        ------
        CheckpointError
            The weights are damaged, not finite or another network's, or the record names a network that is none.
        """
        recipe = self.recipe
        model: Segmenter | FusionClassifier
        if isinstance(recipe, SegmenterRecipe):
            name, model = "the segmenter", build_segmenter()
        else:
            name = f"a {recipe.backbone} {recipe.variant}"
            try:
                model = FusionClassifier(recipe.backbone, recipe.variant, stride_at=trained_stride(self.record["data"]))
            except UsageError as error:
                raise _of_record(error, _record_of(self.weights)) from None
        put(
            model,
            read_tensors(self.weights),
            where=self.weights,
            network=name,
            remedy=f"{_record_of(self.weights).name} is to be the record that the training of these weights left",
        )
        return model.eval()


def pack_from_training(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    name: str = "own",
    version: str = "1",
    licence: str = "not stated",
    progress: Callable[[str, int, int], object] | None = None,
) -> Path:
    """Make a pack of trained networks at `out` and return its folder. An earlier pack there is replaced as a whole.

    Parameters
    ----------
    checkpoint : path
        The folder of a run (``segmenter.safetensors``, ``classifier.safetensors`` or both), or one ``.safetensors``
        file of any training; the record lies beside the weights, as ``.json``.
    base : path, optional
        The pack that gives what was not trained; the shipped one if None.
    licence : str
        The licence of the weights, for the manifest.
    progress : callable, optional
        Called with (stage, done, total).

    Raises
    ------
    CheckpointError
        No finished training, or weights and record that cannot be used together.
    PackError
        The base pack.
    EngineError, OutputError
        As `export.create_pack`.
    """

    def finished(stage: str) -> None:
        if progress is not None:
            progress(stage, 1, 1)

    refuse_foreign(out)
    trained = {one.network: one for one in find_trained(checkpoint)}
    given = load_pack(base)
    models = {network: one.model() for network, one in trained.items()}
    finished("weights")
    parameters = _parameters(given, trained)
    phantoms = golden_phantoms()
    sections, triplets = golden_sections(phantoms[0], parameters), golden_triplets(phantoms, parameters)
    finished("phantom")
    taken = [network for network in NETWORKS if network not in trained]
    found = {network: trained.get(network) or _training_in(given, network) for network in NETWORKS}
    trainings = {network: training for network, training in found.items() if training is not None}
    licences = _licences(licence, trainings.values(), given if taken else None)
    made = create_pack(
        out,
        segmenter=models.get("segmenter", given),  # type: ignore[arg-type]
        classifier=models.get("classifier", given),  # type: ignore[arg-type]
        name=name,
        version=version,
        sections=sections,
        triplets=[triplets],
        provenance=_provenance(trained, given, taken),
        licences=licences,
        parameters=parameters,
        card=model_card(name, version, trainings, given, taken, licences),
    )
    finished("export")
    return made


def find_trained(checkpoint: str | os.PathLike[str]) -> list[Trained]:
    """The trained networks that `checkpoint` names; see `pack_from_training`.

    Raises
    ------
    CheckpointError
        None is there, a training has not ended, or a record is absent, damaged or of no training of this package.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return [_trained(checkpoint)]
    files = [file for network in NETWORKS if weight_files(file := checkpoint / f"{network}.safetensors")]
    if not files:
        unfinished = sorted(file.name for file in checkpoint.glob("*.checkpoint.pt"))
        others = sorted(file.name for file in checkpoint.glob("*.safetensors"))
        raise CheckpointError(
            "the training has not ended" if unfinished else "no trained network here",
            where=checkpoint,
            expected=" or ".join(f"{network}.safetensors" for network in NETWORKS),
            found=", ".join(unfinished or others) or "neither",
            remedy="give the training's command again to continue it"
            if unfinished
            else "name the file itself"
            if others
            else "`scanside train` leaves them",
        )
    return [_trained(file) for file in files]


def _trained(weights: Path) -> Trained:
    if not weight_files(weights) or weights.suffix != ".safetensors":
        raise CheckpointError(
            "no trained network here",
            where=weights,
            expected="a run's folder or a .safetensors file",
            found="another file" if weights.exists() else "nothing",
            remedy="`scanside pack create` takes weights of other trainings" if weights.exists() else None,
        )
    record = training_record(weights)
    try:
        return Trained(record, _recipe_in(record), weights)
    except UsageError as error:
        raise _of_record(error, _record_of(weights)) from None


def _training_in(base: Pack, network: str) -> Training | None:
    """What a pack records of a network's training; None where that is no record of this version's trainings."""
    record = base.manifest.provenance.get(network)
    if not is_training_record(record):
        return None
    try:
        training = Training(record, _recipe_in(record))
        _data_line(network, training), _validation_line(network, training)
    except (UsageError, AttributeError, TypeError, ValueError):  # a pack's provenance is free JSON
        return None
    return training if training.network == network else None


def _recipe_in(record: Mapping[str, Any]) -> SegmenterRecipe | SgdRecipe:
    """The recipe that a training's record states.

    Raises
    ------
    UsageError
        A key that is unknown, or a value that is impossible.
    """
    values = record["recipe"]
    kind: type[SegmenterRecipe] | type[SgdRecipe] = SegmenterRecipe
    if "variant" in values:
        kind = ViewsRecipe if "turn_degrees" in values else ClassifierRecipe
    return recipe_from(values, kind, where="recipe")


def _record_of(weights: Path) -> Path:
    return weights.with_suffix(".json")


def _of_record(error: UsageError, file: Path) -> CheckpointError:
    """What a recipe cannot say, when a record says it."""
    return CheckpointError(
        error.what, where=file, expected=error.expected, found=error.found, remedy="the record was changed or is newer"
    )


def _parameters(base: Pack, trained: Mapping[str, Trained]) -> PackParameters:
    """What the base pack says, but for what the classifier's recipe states."""
    segmenter, classifier = base.manifest.segmenter, base.manifest.classifier
    recipe = trained["classifier"].recipe if "classifier" in trained else None
    size, margin, frames = classifier.size, classifier.margin, classifier.frames
    if isinstance(recipe, SgdRecipe):
        size, margin, frames = recipe.size, recipe.margin, getattr(recipe, "frames", frames)
    return PackParameters(
        pitch_mm=segmenter.pitch_mm,
        every_mm=segmenter.every_mm,
        threshold=segmenter.threshold,
        min_lesion_mm=segmenter.min_lesion_mm,
        min_detection_score=segmenter.min_detection_score,
        smoothing_mm=segmenter.smoothing_mm,
        section_batch=segmenter.batch,
        planes=segmenter.planes,
        crop_size=size,
        margin=margin,
        frames=frames,
        triplet_batch=classifier.batch,
    )


def _provenance(trained: Mapping[str, Trained], base: Pack, taken: Sequence[str]) -> dict[str, Any]:
    """The trainings' records, what the base pack says of a network of its own, and what was exported."""
    before = base.manifest.provenance
    return {
        "made_by": "scanside export",
        "files": {
            network: {"name": one.weights.name, "sha256": weights_sha256(one.weights)}
            for network, one in trained.items()
        },
        "base": {
            "name": base.manifest.name,
            "version": base.manifest.version,
            "sha256": base.sha256,
            "networks": list(taken),
        },
        "golden": dict.fromkeys(trained, GOLDEN),
        **{network: one.record for network, one in trained.items()},
        **{network: before[network] for network in taken if network in before},
    }


def _licences(licence: str, trained: Any, base: Pack | None) -> list[Licence]:
    licences = [Licence("weights", licence)]
    if any(BUSBRA in one.data_sets() for one in trained):
        licences.append(BUSBRA_LICENCE)
    if base is not None:
        theirs = (
            replace(own, covers=own.covers.removesuffix(OF_BASE) + OF_BASE)
            for own in base.manifest.licences
            if own not in licences
        )
        licences += theirs
    return licences


def model_card(
    name: str,
    version: str,
    trainings: Mapping[str, Training],
    base: Pack,
    taken: Collection[str],
    licences: Sequence[Licence],
) -> str:
    """The pack's card (Markdown), from the trainings' records; `taken` names the networks that are the base pack's."""
    text = resources.files("scanside.training").joinpath("card.md").read_text(encoding="utf-8")
    seen = [one.data_sets() for one in trainings.values()]
    told = len(seen) == len(NETWORKS) and all(seen)
    none_seen = told and all(sets.keys() <= NO_PATIENTS_VOLUMES for sets in seen)
    return text.format(
        name=name,
        version=version,
        seen=" No patient's ABVS volume was seen in training." if none_seen else "",
        networks="\n".join(
            _network_line(network, trainings.get(network), base if network in taken else None) for network in NETWORKS
        ),
        data="\n".join(_data_line(network, one) for network, one in trainings.items()),
        reached="\n".join(_validation_line(network, one) for network, one in trainings.items()),
        licences="\n".join(
            f"- {own.covers[0].upper()}{own.covers[1:]}: {own.licence}." + (f" {own.citation}." if own.citation else "")
            for own in licences
        ),
    )


def _network_line(network: str, training: Training | None, base: Pack | None) -> str:
    """What a network is, and from which pack it is if it was taken."""
    said = []
    if training is not None:
        if isinstance(training.recipe, SegmenterRecipe):
            said.append("UNet with an EfficientNet-b0 encoder (segmentation-models-pytorch), one grey channel")
        else:
            said.append(f"{training.recipe.variant} on torchvision {training.recipe.backbone}, one branch a plane")
        data = training.record["data"]
        said.append(f"started from {STARTS.get(data.get('start'), RANDOM)} weights")
        if "first_start" in data:
            said.append(f"which began from {STARTS.get(data['first_start'], RANDOM)} ones")
    if base is not None:
        said.append(f"as in the pack {base.manifest.name} {base.manifest.version} ({base.sha256[:12]})")
    return f"- {network.capitalize()}: {', '.join(said)}."


def _data_line(network: str, training: Training) -> str:
    sets = (
        f"{data} ({', '.join(f'{uses[part]} {part}' for part in sorted(uses, key=_order))})"
        for data, uses in sorted(training.data_sets().items())
    )
    return f"- {network.capitalize()}, patients or volumes by use: {'; '.join(sets) or 'not recorded'}."


def _order(use: str) -> tuple[int, str]:
    """Of a split's parts in the card; a manifest has them in the alphabet's order."""
    parts = (TRAIN, VALIDATION, TEST)
    return (parts.index(use) if use in parts else len(parts), use)


def _validation_line(network: str, training: Training) -> str:
    scores = (f"{score.replace('_', ' ')} {value:.3f}" for score, value in training.record["validation"].items())
    return f"- {network.capitalize()}: {', '.join(scores) or 'not measured'}."
