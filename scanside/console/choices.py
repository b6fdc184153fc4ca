"""What the verbs let one choose, as types for Typer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where to run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """The arithmetic of the networks."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class Policy(StrEnum):
    """Which sections are looked at."""

    exact = "exact"
    confirm = "confirm"


class PlanPrecision(StrEnum):
    """The arithmetic of a plan."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Format(StrEnum):
    """How a phantom is written."""

    dicom = "dicom"
    nrrd = "nrrd"


class Backbone(StrEnum):
    """The classifier's network, by torchvision's names."""

    resnet50 = "resnet50"
    resnet101 = "resnet101"
    densenet161 = "densenet161"
    vgg19 = "vgg19"


class Variant(StrEnum):
    """Which planes a classifier sees, and how they are joined."""

    transverse = "transverse"
    sagittal = "sagittal"
    coronal = "coronal"
    fusion1 = "fusion1"
    fusion2 = "fusion2"
    late = "late"


class Stride(StrEnum):
    """Where a ResNet strides."""

    threes = "3x3"
    ones = "1x1"


class SectionPlane(StrEnum):
    """A plane of sections."""

    transverse = "transverse"
    sagittal = "sagittal"
    coronal = "coronal"


class Method(StrEnum):
    """How a tensor's range is chosen from what it held."""

    minmax = "minmax"
    entropy = "entropy"
    percentile = "percentile"
    mse = "mse"


class Reference(StrEnum):
    """What a precision is judged against."""

    pytorch = "pytorch"
    fp32 = "fp32"


class JudgedPrecision(StrEnum):
    """The arithmetic that is judged."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class Network(StrEnum):
    """One of a pack's two networks."""

    segmenter = "segmenter"
    classifier = "classifier"


class Vendor(StrEnum):
    """Whose header a phantom's DICOM file imitates."""

    siemens = "siemens"
    ge = "ge"


SpacingOption = Annotated[
    str | None,
    typer.Option("--spacing", metavar="SWEEP,DEPTH,LATERAL", help="Voxel size in mm, where the exam states none."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
PackOption = Annotated[
    Path | None, typer.Option("--pack", metavar="PACK", help="A model pack; the shipped one if absent.")
]
DeviceOption = Annotated[Device, typer.Option(help="cuda without a usable GPU is an error, never a silent CPU run.")]
PolicyOption = Annotated[
    Policy, typer.Option(help="exact looks at every section; confirm at other planes only where transverse ones hint.")
]
PrecisionOption = Annotated[Precision, typer.Option(help="auto is what this machine runs fastest with a certificate.")]
UncertifiedOption = Annotated[
    bool, typer.Option("--allow-uncertified", help="Run a precision without a parity certificate.")
]
HeatmapsOption = Annotated[
    bool, typer.Option("--heatmaps", help="One more picture a lesion: where the classifier looked (Grad-CAM).")
]
NameOption = Annotated[str, typer.Option(help="The pack's name.")]
VersionOption = Annotated[str, typer.Option(help="The pack's version.")]
LicenceOption = Annotated[str, typer.Option(help="Licence of the weights.")]
CalibrateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--calibrate", metavar="EXAM", help="Calibrate as well, on an exam or phantom:FIRST:END. Repeat for more."
    ),
]
