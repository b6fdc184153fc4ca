"""Which precision may run: fp32 always, any other only with a certificate of parity for the runtime that runs it."""

from __future__ import annotations

from scanside.engine.capabilities import Capabilities
from scanside.engine.onnxruntime import choose
from scanside.errors import ParityError, ScansideError
from scanside.pack import Certificate, Manifest

MIN_LESIONS = 600
MAX_AUC_DIFFERENCE = 0.005
MAX_DICE_DIFFERENCE = 0.005
FASTEST_FIRST = ("int8", "bf16", "fp16")


def is_valid(certificate: Certificate) -> bool:
    """Whether a certificate meets the gate: its AUC interval within 0.005, Dice within 0.005, on 600 lesions."""
    low, high = certificate.auc_ci
    return (
        certificate.lesions >= MIN_LESIONS
        and -MAX_AUC_DIFFERENCE <= low <= high <= MAX_AUC_DIFFERENCE
        and abs(certificate.dice_difference) <= MAX_DICE_DIFFERENCE
    )


def is_certified(manifest: Manifest, precision: str, runtime: str) -> bool:
    """Whether `precision` may run on `runtime`. A certificate holds for the runtime it was made on."""
    if precision == "fp32":
        return True
    return any(c.precision == precision and c.runtime == runtime and is_valid(c) for c in manifest.certificates)


def certified_precision(
    manifest: Manifest, machine: Capabilities, *, device: str, precision: str, allow_uncertified: bool
) -> tuple[str, tuple[str, ...]]:
    """The precision to run, never "auto", and remarks for the report.

    Raises
    ------
    ParityError
        A precision was asked for by name that has no valid certificate, and `allow_uncertified` is not set.
    ScansideError
        It cannot run on this machine (see `onnxruntime.choose`).
    """
    if precision == "auto":
        return _fastest(manifest, machine, device)
    choice = choose(machine, device, precision)
    if is_certified(manifest, choice.precision, choice.runtime):
        return choice.precision, ()
    if not allow_uncertified:
        raise ParityError(
            f"precision {choice.precision} has no parity certificate",
            where=f"pack {manifest.name} on {choice.runtime}",
            expected=f"paired AUC and Dice within {MAX_AUC_DIFFERENCE} of the reference on {MIN_LESIONS} lesions",
            found="a certificate that fails" if _named(manifest, choice.precision) else "none",
            remedy="run with precision fp32, or allow it with --allow-uncertified (allow_uncertified=True)",
        )
    return choice.precision, (f"precision {choice.precision} runs without a parity certificate",)


def _fastest(manifest: Manifest, machine: Capabilities, device: str) -> tuple[str, tuple[str, ...]]:
    remarks = []
    for precision in (p for p in FASTEST_FIRST if p in manifest.precisions):
        try:
            choice = choose(machine, device, precision)
        except ScansideError:  # not on this machine, or not in this version: not a fallback
            continue
        if is_certified(manifest, precision, choice.runtime):
            return precision, ()
        remarks.append(f"fp32 instead of {precision}: no parity certificate for {choice.runtime}")
    return "fp32", tuple(remarks)


def _named(manifest: Manifest, precision: str) -> bool:
    return any(c.precision == precision for c in manifest.certificates)
