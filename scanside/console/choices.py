"""What several verbs let one choose, as types for Typer."""

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


class Format(StrEnum):
    """How a phantom is written."""

    dicom = "dicom"
    nrrd = "nrrd"


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
PrecisionOption = Annotated[Precision, typer.Option(help="auto is what this machine runs fastest with a certificate.")]
PolicyOption = Annotated[Policy, typer.Option(help="exact looks at every section.")]
UncertifiedOption = Annotated[
    bool, typer.Option("--allow-uncertified", help="Run a precision without a parity certificate.")
]
