"""From trained networks to a model pack: export, 8-bit weights, comparison, golden cases, manifest."""

from __future__ import annotations

import io
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.errors import EngineError, OutputError, PackError, UsageError
from scanside.export.check import (
    Batch,
    compare,
    compare_heatmaps,
    graph_answers,
    of_size,
    reference_answers,
    reference_heatmaps,
)
from scanside.export.onnx import HEATMAPS, PIXELS, PROBABILITY, export_classifier, export_segmenter
from scanside.export.quantize import quantize_weights
from scanside.models.fusion import FusionClassifier
from scanside.models.unet import SIZE_MULTIPLE, Segmenter
from scanside.pack.derive import derived_graph
from scanside.pack.load import Pack
from scanside.pack.manifest import (
    PLANES,
    SCHEMA,
    Certificate,
    ClassifierSpec,
    ExportCheck,
    GoldenSpec,
    Licence,
    Manifest,
    SegmenterSpec,
)
from scanside.pack.write import file_records, refuse_foreign, write_pack

logger = logging.getLogger(__name__)

MAX_EXPORT_ERROR = {"segmenter": 2.5 / 255, "classifier": 1e-3}
"""Largest error in probability that an FP32 graph may show against PyTorch; rounding may flip one uint8 level."""
MAX_HEATMAP_ERROR = 0.01
"""The same for heatmaps, as a part of the largest value."""
_TOLERANCE_FLOOR = {"segmenter": (3.0, 0.1), "classifier": (0.005, 0.002)}
_TOLERANCE_FACTOR = 3


@dataclass(frozen=True)
class PackParameters:
    """What the pipeline must know beside the weights; see `SegmenterSpec` and `ClassifierSpec`."""

    pitch_mm: float = 0.66
    every_mm: float = 0.5
    threshold: float = 0.5
    min_lesion_mm: float = 3.0
    min_detection_score: float = 0.5
    smoothing_mm: float = 0.0
    section_batch: int = 16
    crop_size: int = 224
    margin: float = 1.35
    frames: int = 8
    triplet_batch: int = 8
    planes: tuple[str, ...] = PLANES
    precisions: tuple[str, ...] = ("fp32", "bf16")
    encoder: str = "efficientnet-b0"
    extra: Mapping[str, Any] = field(default_factory=dict)


def create_pack(
    out: str | os.PathLike[str],
    *,
    segmenter: Segmenter | Pack,
    classifier: FusionClassifier | Pack,
    name: str,
    version: str,
    sections: Sequence[NDArray[np.uint8]] = (),
    triplets: Sequence[Batch] = (),
    provenance: Mapping[str, Any],
    licences: Sequence[Licence],
    parameters: PackParameters | None = None,
    card: str | None = None,
) -> Path:
    """Export both networks into a pack at `out` and return its folder. An earlier pack there is replaced.

    Parameters
    ----------
    segmenter, classifier : network or Pack
        What is exported; of a pack, its network is taken as it is: the FP32 graph byte for byte, its golden cases, and
        its certificates (those of a calibrated graph hold again once calibration makes that graph again).
    sections : sequence of uint8 arrays
        Golden inputs of the segmenter, each [N, 1, H, W] with H and W multiples of 32; every array becomes a file.
    triplets : sequence of mappings
        Golden inputs of the classifier: for each of its planes uint8 [N, 1, crop_size, crop_size].
    parameters : PackParameters, optional
        Of the networks that are exported.
    provenance : mapping
        Free JSON: how the networks were trained.
    card : str, optional
        The model card (Markdown).

    Raises
    ------
    UsageError
        No golden inputs, or of a wrong shape or dtype.
    EngineError
        A graph strays from PyTorch at any batch size, a network answers NaN, or a weight is not finite.
    OutputError
        `out` cannot be written or holds something that is no pack.
    """
    refuse_foreign(out)
    parameters = parameters or PackParameters()
    batches: dict[str, list[Batch]] = {"segmenter": [{PIXELS: pixels} for pixels in sections]}
    if isinstance(segmenter, Segmenter):
        _require_sections(batches["segmenter"])
    if isinstance(classifier, FusionClassifier):
        batches["classifier"] = [{plane: batch[plane] for plane in classifier.planes} for batch in triplets]
        _require_triplets(batches["classifier"], parameters.crop_size)
    parts = [
        _taken(network, model) if isinstance(model, Pack) else _exported(network, model, batches[network], parameters)
        for network, model in (("segmenter", segmenter), ("classifier", classifier))
    ]
    contents = {name: data for part in parts for name, data in part.files.items()}
    if card is not None:
        contents["MODEL_CARD.md"] = card.encode()
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        version=version,
        segmenter=parts[0].spec,  # type: ignore[arg-type]
        classifier=parts[1].spec,  # type: ignore[arg-type]
        precisions=parameters.precisions,
        golden=tuple(case for part in parts for case in part.golden),
        checks=tuple(check for part in parts for check in part.checks),
        provenance=provenance,
        licences=tuple(licences),
        files=file_records(contents),
        certificates=tuple(certificate for part in parts for certificate in part.certificates),
        card=None if card is None else "MODEL_CARD.md",
        extra=parameters.extra,
    )
    return write_pack(out, contents, manifest)


@dataclass(frozen=True)
class _Part:
    """One network in a pack: what the manifest says of it, and its graph and golden cases by file name."""

    spec: SegmenterSpec | ClassifierSpec
    files: Mapping[str, bytes]
    golden: Sequence[GoldenSpec]
    checks: Sequence[ExportCheck]
    certificates: Sequence[Certificate] = ()


def _taken(network: str, pack: Pack) -> _Part:
    """The network of a pack as it is; of a calibrated pack, as it was before."""
    manifest = pack.manifest
    spec = manifest.segmenter if network == "segmenter" else manifest.classifier
    files = {f"{network}.onnx": pack.network_graph(network, "fp32")}
    golden = []
    for number, case in enumerate(case for case in manifest.golden if case.network == network):
        file = f"golden_{network}_{number}.npz"
        files[file] = pack.file_bytes(case.file)
        golden.append(replace(case, file=file))
    checks = [c for c in manifest.checks if c.network == network and not c.compared.startswith("INT8")]
    certificates = [c for c in manifest.certificates if c.network == network]
    return _Part(replace(spec, graph=f"{network}.onnx"), files, golden, checks, certificates)


def _exported(
    network: str, model: Segmenter | FusionClassifier, batches: Sequence[Batch], parameters: PackParameters
) -> _Part:
    try:
        with tempfile.TemporaryDirectory(prefix="scanside-export-") as folder:
            file = Path(folder) / f"{network}.onnx"
            if isinstance(model, Segmenter):
                fp32 = export_segmenter(model, file).read_bytes()
            else:
                fp32 = export_classifier(model, file, parameters.crop_size).read_bytes()
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise OutputError("the exported graph cannot be written", where=network, found=found) from None
    graph, checks, answers = _shipped_graph(network, model, fp32, batches, parameters.threshold)
    specs, golden = _golden(network, batches, answers, checks[-1])
    spec: SegmenterSpec | ClassifierSpec
    if isinstance(model, Segmenter):
        spec = _segmenter_spec(model, parameters)
    else:
        spec = _classifier_spec(model, parameters)
        checks += _heatmap_checks(model, {"FP32 graph": fp32, "8-bit weights": graph}, batches)
    _require_any_batch(network, model, fp32, batches[0], spec.batch)
    checks += _half_check(network, graph, batches, answers, parameters.threshold)
    return _Part(spec, {f"{network}.onnx": graph} | golden, specs, checks)


def _shipped_graph(
    network: str, model: Segmenter | FusionClassifier, fp32: bytes, batches: Sequence[Batch], threshold: float
) -> tuple[bytes, list[ExportCheck], list[NDArray]]:
    """The 8-bit-weight graph, its comparisons (FP32 graph, then shipped graph), and PyTorch's answers."""
    cut = threshold if network == "segmenter" else None
    expected = reference_answers(model, batches)
    plain = graph_answers(fp32, batches)
    exported = compare(network, "FP32 graph", "PyTorch", plain, expected, threshold=cut)
    _require_close(network, exported)
    graph, weight_errors = quantize_weights(fp32, where=network)
    answers = graph_answers(graph, batches)
    against_graph = compare(network, "8-bit weights", "FP32 graph", answers, plain, threshold=cut)
    shipped = compare(network, "8-bit weights", "PyTorch", answers, expected, threshold=cut)
    logger.info(
        "%s: %d weights in 8 bits, %.1f MB, max error %.2g, worst weight %.2g relative RMS",
        network,
        len(weight_errors),
        len(graph) / 1e6,
        shipped.max_error,
        max((e.relative_rms for e in weight_errors), default=0.0),
    )
    return graph, [exported, against_graph, shipped], expected


def _require_close(network: str, check: ExportCheck, items: str = "") -> None:
    if check.max_error > MAX_EXPORT_ERROR[network]:
        raise EngineError(
            "the exported graph strays from PyTorch" + items,
            where=network,
            expected=f"an error of at most {MAX_EXPORT_ERROR[network]:.2g}",
            found=f"{check.max_error:.2g}",
        )


def _require_any_batch(network: str, model: Segmenter | FusionClassifier, fp32: bytes, batch: Batch, most: int) -> None:
    """The FP32 graph answers as PyTorch does whatever the batch: one item, as many as a run takes, and one more."""
    for size in (1, most, most + 1):
        sized = [of_size(batch, size)]
        check = compare(network, "FP32 graph", "PyTorch", graph_answers(fp32, sized), reference_answers(model, sized))
        _require_close(network, check, f" at a batch of {size}")


def _half_check(
    network: str, graph: bytes, batches: Sequence[Batch], expected: Sequence[NDArray], threshold: float
) -> list[ExportCheck]:
    """How far the FP16 graph is from PyTorch; nothing where half precision cannot hold it, which calibration mends.

    A processor may compute in FP32 between the roundings: what overflows on a GPU alone shows in calibration's ranges.
    """
    try:
        half = derived_graph(graph, "fp16", where=network)
        cut = threshold if network == "segmenter" else None
        return [compare(network, "FP16 graph", "PyTorch", graph_answers(half, batches), expected, threshold=cut)]
    except (PackError, EngineError) as error:
        logger.warning("no FP16 graph without calibration: %s", error)
        return []


def _heatmap_checks(
    model: FusionClassifier, graphs: Mapping[str, bytes], batches: Sequence[Batch]
) -> list[ExportCheck]:
    """How far the graphs' heatmaps are from PyTorch's, the first of them within the limit."""
    expected = reference_heatmaps(model, batches)
    called = [p > 0.5 for p in reference_answers(model, batches)]
    checks = []
    for name, graph in graphs.items():
        answers = graph_answers(graph, batches)
        agree = [(p > 0.5) == theirs for p, theirs in zip(answers, called, strict=True)]
        found = graph_answers(graph, batches, HEATMAPS)
        checks.append(compare_heatmaps(f"{name}, heatmaps", "PyTorch", found, expected, agree))
    if checks[0].max_error > MAX_HEATMAP_ERROR:
        raise EngineError(
            "the exported graph draws other heatmaps than PyTorch",
            where="classifier",
            expected=f"an error of at most {MAX_HEATMAP_ERROR:.2g} of the largest value",
            found=f"{checks[0].max_error:.2g}",
        )
    return checks


def _golden(
    network: str, batches: Sequence[Batch], answers: Sequence[NDArray], shipped: ExportCheck
) -> tuple[list[GoldenSpec], dict[str, bytes]]:
    """Golden files and their tolerances: three times what the shipped graph showed here, and never absurdly tight."""
    unit = 255 if network == "segmenter" else 1
    max_floor, mean_floor = _TOLERANCE_FLOOR[network]
    limit = min(255.0, max(max_floor, round(_TOLERANCE_FACTOR * unit * shipped.max_error, 6)))
    mean_limit = min(255.0, max(mean_floor, round(_TOLERANCE_FACTOR * unit * shipped.mean_error, 6)))
    specs, files = [], {}
    for number, (batch, answer) in enumerate(zip(batches, answers, strict=True)):
        stream = io.BytesIO()
        np.savez_compressed(stream, **batch, **{PROBABILITY: answer})  # type: ignore[arg-type]
        file = f"golden_{network}_{number}.npz"
        files[file] = stream.getvalue()
        specs.append(GoldenSpec(network, file, max_error=limit, mean_error=mean_limit))
    return specs, files


def _segmenter_spec(model: Segmenter, parameters: PackParameters) -> SegmenterSpec:
    return SegmenterSpec(
        graph="segmenter.onnx",
        architecture=f"unet {parameters.encoder}",
        input=PIXELS,
        output=PROBABILITY,
        pitch_mm=parameters.pitch_mm,
        every_mm=parameters.every_mm,
        planes=parameters.planes,
        threshold=parameters.threshold,
        min_lesion_mm=parameters.min_lesion_mm,
        min_detection_score=parameters.min_detection_score,
        smoothing_mm=parameters.smoothing_mm,
        batch=parameters.section_batch,
        size_multiple=SIZE_MULTIPLE,
        mean=round(float(model.mean), 7),
        std=round(float(model.std), 7),
    )


def _classifier_spec(model: FusionClassifier, parameters: PackParameters) -> ClassifierSpec:
    return ClassifierSpec(
        graph="classifier.onnx",
        backbone=model.backbone,
        variant=model.variant,
        inputs={plane: plane for plane in model.planes},
        output=PROBABILITY,
        size=parameters.crop_size,
        margin=parameters.margin,
        frames=parameters.frames,
        batch=parameters.triplet_batch,
        mean=round(float(model.mean), 7),
        std=round(float(model.std), 7),
        heatmaps=HEATMAPS,
    )


def _require_sections(batches: Sequence[Batch]) -> None:
    if not batches:
        raise UsageError("no golden sections", expected="at least one uint8 [N, 1, H, W]", found="none")
    for batch in batches:
        pixels = batch[PIXELS]
        shape = pixels.shape
        good = pixels.ndim == 4 and shape[0] > 0 and shape[1] == 1 and shape[2] % SIZE_MULTIPLE == 0
        if not good or shape[3] % SIZE_MULTIPLE or pixels.dtype != np.uint8:
            expected = f"uint8 [N, 1, H, W], H and W multiples of {SIZE_MULTIPLE}"
            raise UsageError("no golden section", expected=expected, found=f"{pixels.dtype} {list(shape)}")


def _require_triplets(batches: Sequence[Batch], size: int) -> None:
    if not batches:
        raise UsageError("no golden triplets", expected=f"at least one batch of uint8 [N, 1, {size}, {size}]")
    for batch in batches:
        count = len(next(iter(batch.values())))
        for plane, pixels in batch.items():
            if pixels.shape != (count, 1, size, size) or count < 1 or pixels.dtype != np.uint8:
                raise UsageError(
                    "no golden triplet",
                    where=plane,
                    expected=f"uint8 [{max(1, count)}, 1, {size}, {size}]",
                    found=f"{pixels.dtype} {list(pixels.shape)}",
                )
