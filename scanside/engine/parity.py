"""Which precision a network may run in: fp32 always, any other with a certificate of parity for what runs it.

A certificate holds for one network's graph in one arithmetic on one runtime. What was measured on this device has the
last word; the maker's certificates, in the pack's manifest, come after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scanside.engine.capabilities import Capabilities
from scanside.engine.certificates import own_certificates
from scanside.engine.graphs import graph_sha256
from scanside.engine.onnxruntime import Choice, choose
from scanside.errors import ParityError, ScansideError
from scanside.pack import NETWORKS, Certificate, Pack

MIN_LESIONS = 600
MAX_AUC_DIFFERENCE = 0.005
MAX_DICE_DIFFERENCE = 0.005


@dataclass(frozen=True)
class Allowed:
    """What one network may run: the candidates, fp32 first, and the certificate of each but fp32."""

    network: str
    choices: tuple[Choice, ...]
    certificates: tuple[Certificate, ...] = ()
    remarks: tuple[str, ...] = ()


def unmet(certificate: Certificate) -> tuple[str, ...]:
    """What of the gate a certificate does not meet; empty when it is valid.

    The classifier: both confidence intervals of the paired AUC difference within 0.005, and a reference that errs at
    all, without which they have no width. The segmenter: the mean Dice difference within 0.005. Either on at least 600
    lesions.
    """
    reasons = []
    if certificate.lesions < MIN_LESIONS:
        reasons.append(f"{certificate.lesions} lesions, the gate needs {MIN_LESIONS}")
    if certificate.auc is not None:
        if not 0 < certificate.auc.reference < 1:
            reasons.append(f"a reference AUC of {certificate.auc.reference:g}: the cases are too easy to tell")
        for name, interval in (("DeLong", certificate.auc.delong), ("bootstrap", certificate.auc.bootstrap)):
            low, high = interval
            if not -MAX_AUC_DIFFERENCE <= low <= high <= MAX_AUC_DIFFERENCE:
                reasons.append(f"AUC difference {low:+.4f} to {high:+.4f} ({name}), allowed +-{MAX_AUC_DIFFERENCE}")
    if certificate.masks is not None and not abs(certificate.masks.dice_difference) <= MAX_DICE_DIFFERENCE:
        reasons.append(
            f"Dice difference {certificate.masks.dice_difference:+.4f}, allowed +-{MAX_DICE_DIFFERENCE}",
        )
    return tuple(reasons)


def is_valid(certificate: Certificate) -> bool:
    """Whether a certificate meets the gate; see `unmet`."""
    return not unmet(certificate)


def allowed(
    pack: Pack, machine: Capabilities, *, device: str, precision: str, allow_uncertified: bool
) -> tuple[Allowed, ...]:
    """What each network may run: for "auto" every certified precision beside fp32, else the one that is named.

    Raises
    ------
    ParityError
        A precision was asked for by name that has no valid certificate, and `allow_uncertified` is not set.
    PackError
        A graph that a certificate names cannot be derived.
    ScansideError
        It cannot run on this machine (see `onnxruntime.choose`).
    """
    own, damaged = own_certificates(pack.sha256)
    gate = _Gate(pack, machine, (*own, *pack.manifest.certificates))
    if precision == "auto":
        return tuple(_all_certified(gate, network, device, damaged) for network in NETWORKS)
    chosen = []
    for network in NETWORKS:
        choice = choose(machine, device, precision, network)
        if choice.precision == "fp32":
            chosen.append(Allowed(network, (choice,)))
            continue
        certificate, found = gate.certificate(network, choice)
        if certificate is not None:
            chosen.append(Allowed(network, (choice,), (certificate,)))
            continue
        if not allow_uncertified:
            raise ParityError(
                f"precision {choice.precision} has no parity certificate",
                where=f"{network} of pack {pack.manifest.name} on {choice.runtime}",
                expected=f"paired AUC and Dice within {MAX_AUC_DIFFERENCE} of the reference on {MIN_LESIONS} lesions",
                found="; ".join((found, *damaged)),
                remedy="certify it with `scanside parity`, run with precision fp32, or allow it with "
                "--allow-uncertified (allow_uncertified=True)",
            )
        remark = f"{network}: precision {choice.precision} runs without a parity certificate ({found})"
        chosen.append(Allowed(network, (choice,), remarks=(remark, *damaged)))
    return tuple(chosen)


def _all_certified(gate: _Gate, network: str, device: str, damaged: tuple[str, ...]) -> Allowed:
    choices = [choose(gate.machine, device, "fp32", network)]
    certificates, remarks = [], list(damaged)
    for precision in (p for p in gate.pack.manifest.precisions if p != "fp32"):
        try:
            choice = choose(gate.machine, device, precision, network)
        except ScansideError:  # not on this machine, or not in this version: not a fallback
            continue
        certificate, found = gate.certificate(network, choice)
        if certificate is not None:
            choices.append(choice)
            certificates.append(certificate)
        else:
            remarks.append(
                f"{network}: fp32 instead of {precision} on {choice.runtime}: no parity certificate ({found})"
            )
    return Allowed(network, tuple(choices), tuple(certificates), tuple(remarks))


@dataclass(frozen=True)
class _Gate:
    pack: Pack
    machine: Capabilities
    certificates: Sequence[Certificate]

    def certificate(self, network: str, choice: Choice) -> tuple[Certificate | None, str]:
        """The certificate that lets `choice` run, or None and what was found instead."""
        wanted = (network, choice.precision, choice.runtime)
        named = [c for c in self.certificates if (c.network, c.precision, c.runtime) == wanted]
        if not named:
            return None, "none"
        sha256 = graph_sha256(self.pack, network, choice.precision, choice.runtime)
        ours = [c for c in named if c.graph_sha256 == sha256]
        if not ours:
            return None, "a certificate of another graph"
        ours = [c for c in ours if c.arithmetic == choice.arithmetic]
        if not ours:
            return None, f"a certificate of another arithmetic than {choice.arithmetic}"
        reasons = unmet(ours[0])  # this device's own comes first
        return (None, f"a certificate that fails: {'; '.join(reasons)}") if reasons else (ours[0], "")
