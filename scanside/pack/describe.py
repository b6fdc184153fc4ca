"""What `scanside pack info` shows."""

from __future__ import annotations

from typing import Any

from scanside.pack.load import Pack
from scanside.pack.manifest import Certificate
from scanside.pack.strict import plain


def describe(pack: Pack) -> dict[str, Any]:
    """The pack in JSON form: identity, sizes, networks, precisions, checks, certificates, provenance, licences."""
    manifest = pack.manifest
    content = plain(manifest)
    return {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": pack.sha256,
        "schema": manifest.schema,
        "path": str(pack.path),
        "bytes": sum(record.bytes for record in manifest.files.values()),
        **{key: content[key] for key in ("segmenter", "classifier", "precisions", "checks", "certificates")},
        "golden_cases": len(manifest.golden),
        **{key: content[key] for key in ("provenance", "licences", "files")},
        "card": pack.card(),
    }


def info_rows(pack: Pack) -> list[tuple[str, str]]:
    """The same for people: (label, text) rows in the order to show them, the card left out."""
    manifest = pack.manifest
    segmenter, classifier = manifest.segmenter, manifest.classifier
    megabytes = sum(record.bytes for record in manifest.files.values()) / 1e6
    rows = [
        ("pack", f"{manifest.name} {manifest.version}"),
        ("sha256", pack.sha256),
        ("size", f"{megabytes:.1f} MB in {len(manifest.files)} files, all verified"),
        (
            "segmenter",
            f"{segmenter.architecture}, {segmenter.pitch_mm:g} mm pixels, a section every {segmenter.every_mm:g} mm, "
            f"threshold {segmenter.threshold:g}, lesions from {segmenter.min_lesion_mm:g} mm and detection score "
            f"{segmenter.min_detection_score:g}",
        ),
        (
            "classifier",
            f"{classifier.backbone} {classifier.variant}, {classifier.size} pixels, margin {classifier.margin:g}, "
            f"{classifier.frames} frames a lesion, {'draws' if classifier.heatmaps else 'no'} heatmaps",
        ),
        ("precisions", ", ".join(manifest.precisions)),
    ]
    for check in manifest.checks:
        dice = "" if check.dice is None else f", Dice {check.dice:.4f}"
        text = f"{check.compared} against {check.against}: max {check.max_error:.2g}, mean {check.mean_error:.2g}{dice}"
        rows.append((f"check, {check.network}", f"{text} ({check.items} items)"))
    rows += [
        (f"certificate, {c.network} {c.precision}", certificate_text(c))
        for c in manifest.certificates
        if c.precision in manifest.precisions  # of a network that a calibrated pack gave, once it is calibrated again
    ]
    rows += [
        ("licence, " + licence.covers, licence.licence + (f"; {licence.citation}" if licence.citation else ""))
        for licence in manifest.licences
    ]
    return rows


def certificate_text(certificate: Certificate) -> str:
    """One certificate in a line."""
    text = f"{certificate.runtime}, {certificate.lesions} lesions of {certificate.data}: "
    if certificate.auc is not None:
        low, high = certificate.auc.delong
        text += f"AUC difference {certificate.auc.difference:+.4f} (95 % CI {low:+.4f} to {high:+.4f})"
    if certificate.masks is not None:
        text += f"Dice difference {certificate.masks.dice_difference:+.4f}"
    return f"{text}, {len(certificate.flips)} flips, against {certificate.against}"
