"""What a model pack says of itself: `manifest.json` as typed, frozen dataclasses.

The same rules stand in `manifest.schema.json` for other tools. Mean and standard deviation are inside the graphs and
repeated here for the record.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scanside.errors import PackError
from scanside.pack.strict import json_object, parse, plain

SCHEMA = "scanside-pack/1"
MANIFEST_NAME = "manifest.json"
PLANES = ("transverse", "sagittal", "coronal")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
NETWORKS = ("segmenter", "classifier")
GRAPH_PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int8-fp16", "int8-u8")
"""What `scanside.pack.derive` makes of a shipped graph; "int8-fp16" is int8 with the rest in half precision, "int8-u8"
with unsigned activations behind ReLU and SiLU."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class SegmenterSpec:
    """The segmenter: its graph, what it sees and how its answer is read.

    Input uint8 [batch, 1, height, width] (multiples of `size_multiple`) with pixels of `pitch_mm`; output uint8
    probability of the same shape (255 p). A section is taken every `every_mm` in each of `planes`. A pixel belongs to
    a lesion when p >= `threshold` (0 to 1); lesions smaller than `min_lesion_mm`, or whose mean p is below
    `min_detection_score`, are dropped. Before that the planes' vote is smoothed by a Gaussian of standard deviation
    `smoothing_mm` (0 is none).
    """

    graph: str
    architecture: str
    input: str
    output: str
    pitch_mm: float
    every_mm: float
    planes: tuple[str, ...]
    threshold: float
    min_lesion_mm: float
    min_detection_score: float
    smoothing_mm: float
    batch: int
    size_multiple: int
    mean: float
    std: float

    def __post_init__(self) -> None:
        _file_name("segmenter: graph", self.graph)
        _within("segmenter", "pitch_mm", self.pitch_mm, 0.01, 20)
        _within("segmenter", "every_mm", self.every_mm, 0.01, 20)
        _within("segmenter", "threshold", self.threshold, 0, 1)
        _within("segmenter", "min_lesion_mm", self.min_lesion_mm, 0, 100)
        _within("segmenter", "min_detection_score", self.min_detection_score, 0, 1)
        _within("segmenter", "smoothing_mm", self.smoothing_mm, 0, 5)
        _within("segmenter", "batch", self.batch, 1, 1024)
        _within("segmenter", "size_multiple", self.size_multiple, 1, 1024)
        _within("segmenter", "std", self.std, 1e-6, 1e6)
        _one_of("segmenter", "planes", self.planes, PLANES)


@dataclass(frozen=True)
class ClassifierSpec:
    """The classifier: its graph and the crop rule.

    `inputs` maps a plane to its tensor, uint8 [batch, 1, size, size]; output float32 [batch], P(malignant). A crop is
    a square of the lesion box's longest side times `margin`; `frames` triplets a lesion, their probabilities averaged.
    `heatmaps` names a second output, float32 [batch, planes, h, w] in the order of `transverse`, `sagittal`, `coronal`
    without the planes that are no inputs: Grad-CAM of the predicted class. Packs made before it was known have none.
    """

    graph: str
    backbone: str
    variant: str
    inputs: Mapping[str, str]
    output: str
    size: int
    margin: float
    frames: int
    batch: int
    mean: float
    std: float
    heatmaps: str | None = None

    def __post_init__(self) -> None:
        _file_name("classifier: graph", self.graph)
        _within("classifier", "size", self.size, 8, 4096)
        _within("classifier", "margin", self.margin, 1, 10)
        _within("classifier", "frames", self.frames, 1, 1024)
        _within("classifier", "batch", self.batch, 1, 1024)
        _within("classifier", "std", self.std, 1e-6, 1e6)
        _one_of("classifier", "inputs", tuple(self.inputs), PLANES)


@dataclass(frozen=True)
class GoldenSpec:
    """A batch with its known answer: an npz holding the network's input and output tensors by name.

    A graph reproduces it when the absolute error is at most `max_error` anywhere and `mean_error` on average, in the
    output's own units (segmenter: levels of 255; classifier: probability).
    """

    network: str
    file: str
    max_error: float
    mean_error: float

    def __post_init__(self) -> None:
        _file_name("golden: file", self.file)
        _one_of("golden", "network", (self.network,), NETWORKS)
        _within("golden", "max_error", self.max_error, 0, 255)
        _within("golden", "mean_error", self.mean_error, 0, 255)


@dataclass(frozen=True)
class ExportCheck:
    """One comparison made at export, e.g. network "segmenter", compared "fp32 graph", against "PyTorch".

    Errors are absolute, in probability (0 to 1), over `items` images or triplets; `dice` compares thresholded maps.
    """

    network: str
    compared: str
    against: str
    items: int
    max_error: float
    mean_error: float
    dice: float | None = None


@dataclass(frozen=True)
class Spread:
    """How far two answers are apart in probability: mean, 99th percentile and maximum of the absolute difference."""

    mean: float
    p99: float
    max: float


@dataclass(frozen=True)
class AucParity:
    """The classifier against its reference, the same lesions through both: AUC, and the paired difference.

    `difference` is this precision's AUC minus the reference's; `delong` and `bootstrap` its 95 % confidence intervals
    (low, high), DeLong's (by patient where one has several lesions) and from patients drawn anew.
    """

    auc: float
    reference: float
    difference: float
    delong: tuple[float, ...]
    bootstrap: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, interval in (("delong", self.delong), ("bootstrap", self.bootstrap)):
            if len(interval) != 2 or interval[0] > interval[1]:
                raise PackError("an interval is no (low, high) pair", where=f"{MANIFEST_NAME}: certificates: {name}")


@dataclass(frozen=True)
class MaskParity:
    """The segmenter against its reference, the same sections through both; differences are this minus the reference.

    Dice and HD95 (mm) are with the true masks, means over the sections that show a lesion. `recounted` sections have
    another number of components; components that overlap one of the other precision are `matched`, the rest
    `appeared` (in this precision alone) or `vanished`.
    """

    dice: float
    reference: float
    dice_difference: float
    hd95_mm: float
    reference_hd95_mm: float
    hd95_difference_mm: float
    recounted: int
    matched: int
    appeared: int
    vanished: int


@dataclass(frozen=True)
class Certificate:
    """Proof of parity for one network in one precision on one runtime: how far it is from its reference.

    `arithmetic` says what the runtime computes in ("int8, rest bf16"), `graph_sha256` is the derived graph's hash,
    `ranges_sha256` that of the pack's calibrated ranges where the precision uses them. `against` names the reference
    and its weights. `flips` lists the ids of lesions whose decision changed: the classifier's verdict, or whether the
    segmenter's mask touches the lesion in any section. The gate is `scanside.engine.parity`.
    """

    network: str
    precision: str
    runtime: str
    arithmetic: str
    versions: Mapping[str, str]
    graph_sha256: str
    ranges_sha256: str | None
    against: str
    data: str
    data_sha256: str
    planes: tuple[str, ...]
    """Those that the data show of the network's."""
    lesions: int
    items: int
    """Sections or triplets that both answered."""
    probability: Spread
    flips: tuple[str, ...]
    date: str
    processor: str
    flags: tuple[str, ...]
    auc: AucParity | None = None
    """Of a classifier."""
    masks: MaskParity | None = None
    """Of a segmenter."""

    def __post_init__(self) -> None:
        _one_of("certificates", "network", (self.network,), NETWORKS)
        _one_of("certificates", "precision", (self.precision,), PRECISIONS)
        _one_of("certificates", "planes", self.planes, PLANES)
        for sha256 in (self.graph_sha256, self.data_sha256, self.ranges_sha256 or self.graph_sha256):
            if not _SHA256.match(sha256):
                where = f"{MANIFEST_NAME}: certificates"
                raise PackError("no SHA-256", where=where, expected="64 hex digits", found=sha256[:100])
        if (self.auc is None, self.masks is None) != (self.network == "segmenter", self.network == "classifier"):
            raise PackError(
                "a certificate without its figures",
                where=f"{MANIFEST_NAME}: certificates",
                expected="auc of a classifier, masks of a segmenter",
                found=f"{'no ' if self.auc is None else ''}auc of a {self.network}",
            )

    @classmethod
    def from_json(cls, content: Any, where: str) -> Certificate:
        """The certificate in parsed JSON.

        Raises
        ------
        PackError
            An unknown or missing key, a wrong type or an impossible value.
        """
        return parse(cls, content, where)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return plain(self)

    def same_subject(self, other: Certificate) -> bool:
        """Whether both certify the same graph on the same runtime."""
        names = ("network", "precision", "runtime", "arithmetic", "graph_sha256")
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(frozen=True)
class DerivedGraph:
    """A graph that loading derives from the shipped one (see `scanside.pack.derive`): what its bytes must hash to.

    `keep` names the nodes that stay FP32 in "fp16" and "int8-fp16", chosen by measurement.
    """

    network: str
    precision: str
    sha256: str
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("derived", "network", (self.network,), NETWORKS)
        _one_of("derived", "precision", (self.precision,), GRAPH_PRECISIONS)
        if not _SHA256.match(self.sha256):
            found = self.sha256
            raise PackError("no SHA-256", where=f"{MANIFEST_NAME}: derived", expected="64 hex digits", found=found)


@dataclass(frozen=True)
class Licence:
    """A licence that covers a part of the pack ("weights", "training images"), and how to cite it."""

    covers: str
    licence: str
    citation: str = ""


@dataclass(frozen=True)
class FileRecord:
    """Size and hash of one file of the pack."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.match(self.sha256):
            raise PackError("no SHA-256", where=f"{MANIFEST_NAME}: files", expected="64 hex digits", found=self.sha256)
        _within("files", "bytes", self.bytes, 0, 2**40)


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.json` holds. `provenance` is free JSON: how the networks were trained and calibrated."""

    schema: str
    name: str
    version: str
    segmenter: SegmenterSpec
    classifier: ClassifierSpec
    precisions: tuple[str, ...]
    golden: tuple[GoldenSpec, ...]
    checks: tuple[ExportCheck, ...]
    provenance: Mapping[str, Any]
    licences: tuple[Licence, ...]
    files: Mapping[str, FileRecord]
    certificates: tuple[Certificate, ...] = ()
    derived: tuple[DerivedGraph, ...] = ()
    card: str | None = None
    """File name of the model card (Markdown)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Free JSON that no part of Scanside reads."""

    def __post_init__(self) -> None:
        _one_of("precisions", "names", self.precisions, PRECISIONS)
        for name in self.files:
            _file_name("files", name)
        used = [self.segmenter.graph, self.classifier.graph, *(g.file for g in self.golden)]
        for name in used + ([self.card] if self.card is not None else []):
            if name not in self.files:
                raise PackError(f"{name!r} is used but not listed", where=f"{MANIFEST_NAME}: files", remedy=_REMEDY)

    @classmethod
    def from_json(cls, text: bytes) -> tuple[Manifest, str]:
        """The manifest in `text` and the pack's hash (see `pack_sha256`).

        Raises
        ------
        PackError
            Broken JSON, another schema version, an unknown or missing key, a wrong type or an impossible value.
        """
        content = json_object(text, MANIFEST_NAME)
        if content.get("schema") != SCHEMA:
            raise PackError(
                "unknown schema version" if "schema" in content else "missing key 'schema'",
                where=MANIFEST_NAME,
                expected=SCHEMA,
                found=str(content.get("schema", "none"))[:60],
                remedy="use a pack made for this version of scanside",
            )
        return parse(cls, content, MANIFEST_NAME), pack_sha256(content)

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`: sorted keys, two spaces, a final newline."""
        content = plain(self)
        if self.classifier.heatmaps is None:  # absent, as in packs of before, so that writing one again keeps its hash
            del content["classifier"]["heatmaps"]
        if not content["derived"]:
            del content["derived"]  # as packs from before calibration have it: their hash stays what it was
        return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def pack_sha256(content: Mapping[str, Any]) -> str:
    """The identity of a pack: SHA-256 of its manifest's content without the certificates.

    `content` is the parsed JSON object; it is hashed as compact JSON with sorted keys. Every other file enters through
    its own hash under `files`. Certificates stay out, so certifying a pack does not change what is certified.
    """
    hashed = {key: value for key, value in content.items() if key != "certificates"}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_REMEDY = "the pack is damaged or incomplete: install it again"


def _file_name(where: str, name: str) -> None:
    if not _FILE_NAME.match(name):
        raise PackError(
            "not a plain file name",
            where=f"{MANIFEST_NAME}: {where}",
            expected="letters, digits, dot, dash and underscore, no folder",
            found=repr(name[:100]),
            remedy=_REMEDY,
        )


def _within(where: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise PackError(
            "out of range",
            where=f"{MANIFEST_NAME}: {where}: {name}",
            expected=f"{low} to {high}",
            found=f"{value:.6g}",
            remedy=_REMEDY,
        )


def _one_of(where: str, name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    strange = [value for value in values if value not in known]
    if strange or not values:
        raise PackError(
            "unknown value" if strange else "empty",
            where=f"{MANIFEST_NAME}: {where}: {name}",
            expected=" | ".join(known),
            found=", ".join(strange)[:100] or "nothing",
            remedy=_REMEDY,
        )
